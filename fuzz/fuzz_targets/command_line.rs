//! What people and their files say: sizes of memory, paths in an initial ramdisk, images of root file systems.
#![no_main]

use std::{fs::File, io::Write, os::fd::AsRawFd, path::PathBuf};

use libfuzzer_sys::fuzz_target;
use mote_rootfs_builder::image;
use nix::sys::memfd::{MFdFlags, memfd_create};

#[allow(dead_code, missing_docs)]
#[path = "../../cli/src/memory.rs"]
mod memory;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(size) = text.parse::<memory::MemorySize>()
    {
        assert!(size.bytes() >= mote_vmm::MIN_MEMORY && size.bytes() % (2 << 20) == 0);
        assert_eq!(size.to_string().parse(), Ok(size), "what is printed means the same");
    }
    paths(input);
    let mut file = File::from(memfd_create("image", MFdFlags::MFD_CLOEXEC).expect("a memory file"));
    file.write_all(input).expect("a file of its own");
    let _ = image::check(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
});

/// Packs files whose names are lines of the input: what is refused leaves the archive as it was.
fn paths(input: &[u8]) {
    let mut archive = mote_initrd::Archive::new();
    for name in input.split(|byte| *byte == b'\n').take(64) {
        let before = archive.clone().finish();
        let result = if name.ends_with(b"/") {
            archive.directory(&name[..name.len() - 1], 0o755).is_ok()
        } else {
            archive.file(name, 0o644, b"content").is_ok()
        };
        if result {
            assert!(!name.starts_with(b"/") && !name.split(|byte| *byte == b'/').any(|part| part == b".."));
        } else {
            assert_eq!(archive.clone().finish(), before);
        }
    }
}
