//! What the fuzz targets reach and nobody else: see `fuzz/`. Only there with `--cfg fuzzing`, which `cargo fuzz` sets.

use std::{fs::File, path::Path};

use crate::{Error, Memory, arch};

/// Puts a kernel, an initial ramdisk and everything that the kernel reads into guest memory; returns where the kernel is entered.
///
/// # Errors
/// As starting a VM has them.
pub fn load_kernel(
    memory: &Memory,
    kernel: &mut File,
    path: &Path,
    initrd: &[u8],
    cmdline: &str,
    vcpus: u8,
) -> Result<u64, Error> {
    arch::load(memory, kernel, path, initrd, cmdline, vcpus).map(|entry| entry.0)
}
