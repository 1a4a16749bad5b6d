//! Tries to cross the system call filters of the VMM's threads.

#![allow(missing_docs, clippy::unwrap_used)]

mod crossing;

use std::os::unix::process::ExitStatusExt;

use crossing::{Crossing, assert_ends};
use mote_vmm::seccomp::{DEVICES, FILE_SERVER, Kind, PUMP, QEMU, VCPU, VHOST_USER, VHOST_USER_FILE_SERVER};
use nix::libc;

const KINDS: [&Kind; 7] = [&VCPU, &DEVICES, &VHOST_USER, &FILE_SERVER, &VHOST_USER_FILE_SERVER, &PUMP, &QEMU];

/// What no thread may do.
const FORBIDDEN: [&str; 13] = [
    "execve",
    "socket",
    "openat",
    "ptrace",
    "clone3",
    "kill",
    "mmap",
    "mprotect",
    "ioctl",
    "fcntl",
    "tgkill",
    "setuid",
    "io_uring_setup",
];

/// Not a test: the child of the tests below.
#[test]
fn child() {
    crossing::child(&KINDS);
}

#[test]
fn a_forbidden_call_ends_the_process_with_one_line() {
    for kind in KINDS {
        for call in FORBIDDEN {
            // To open files is what it is there for.
            if call != "openat" || !kind.name.ends_with("file server") {
                assert_ends("child", kind, call);
            }
        }
    }
}

#[test]
fn a_thread_does_its_work_and_ends() {
    for kind in KINDS {
        Crossing::run("child", kind, "enforce", "nothing").assert_good(kind.name);
    }
}

#[test]
fn the_end_of_a_program_with_a_bug_is_seen_as_such() {
    for kind in KINDS {
        let Crossing { output, text } = Crossing::run("child", kind, "enforce", "panic");
        assert!(text.contains("on purpose") && !text.contains("seccomp: "), "{}: {text}", kind.name);
        assert!(!output.status.success());
        let Crossing { output, text } = Crossing::run("child", kind, "enforce", "abort");
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}: {text}", kind.name);
    }
}

#[test]
fn logging_lets_pass() {
    Crossing::run("child", &VCPU, "log", "openat").assert_good("vCPU");
}
