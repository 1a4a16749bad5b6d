//! The kernel loader: any file as a kernel, any command line, any initial ramdisk. The first byte is how many vCPUs there are,
//! a short command line follows, the rest is the file.
#![no_main]

use std::{
    fs::File,
    io::{Read, Seek, Write},
    path::Path,
};

use libfuzzer_sys::fuzz_target;
use mote_fuzz::Script;
use mote_vmm::{Memory, fuzzing};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::GuestAddress;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let (Some(vcpus), Some(cmdline), Some(initrd)) = (script.byte(), script.bytes(), script.half()) else {
        return;
    };
    let mut file = File::from(memfd_create("kernel", MFdFlags::MFD_CLOEXEC).expect("a memory file"));
    file.write_all(script.rest()).and_then(|()| file.rewind()).expect("a file of its own");
    let memory = Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
    let initrd = vec![7; initrd.into()];
    let cmdline = String::from_utf8_lossy(cmdline);
    let vcpus = vcpus % mote_vmm::MAX_VCPUS + 1;
    let _ = fuzzing::load_kernel(&memory, &mut file, Path::new("kernel"), &initrd, &cmdline, vcpus);
    let mut same = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut same)).expect("a file of its own");
    assert_eq!(same.len(), input.len() - (same_prefix(input)), "the file has changed");
});

/// How much of an input is not the file.
fn same_prefix(input: &[u8]) -> usize {
    let mut script = Script::new(input);
    let _ = (script.byte(), script.bytes(), script.half());
    input.len() - script.rest().len()
}
