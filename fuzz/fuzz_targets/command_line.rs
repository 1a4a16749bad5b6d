//! What people say on a command line: sizes of memory, and paths, which are packed into an initial ramdisk.
#![no_main]

use libfuzzer_sys::fuzz_target;

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
