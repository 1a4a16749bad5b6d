//! What the fuzz targets reach and nobody else: see `fuzz/`. Only there with `--cfg fuzzing`, which `cargo fuzz` sets.

use std::{fs::File, path::Path};

use vm_memory::{GuestAddress, GuestMemory};

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
    let processors = arch::Processors { vcpus, irq_lines: 6 };
    arch::load(memory, &Checks(memory), kernel, path, initrd, cmdline, processors).map(|entry| entry.0)
}

/// Maps nothing, and panics where mapping would reach out of the guest's memory.
struct Checks<'m>(&'m Memory);

impl arch::MapFile for Checks<'_> {
    fn map_file(&self, _: &File, offset: u64, address: u64, len: u64) -> std::io::Result<()> {
        assert!([offset, address, len].iter().all(|number| number.is_multiple_of(4096)), "whole pages");
        let bytes = usize::try_from(len).map_err(std::io::Error::other)?;
        assert!(self.0.check_range(GuestAddress(address), bytes), "{len} bytes at {address:#x}");
        Ok(())
    }
}
