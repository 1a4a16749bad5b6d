//! The lists themselves. That they are enforced is tested by `vmm/tests/seccomp.rs`, with processes of its own.

use super::*;
use crate::arch::system_call_name;

const KINDS: [&Kind; 7] = [&VCPU, &DEVICES, &VHOST_USER, &FILE_SERVER, &VHOST_USER_FILE_SERVER, &PUMP, &QEMU];

fn names(list: &[Allowed]) -> Vec<&'static str> {
    list.iter().map(|allowed| system_call_name(allowed.number).unwrap()).collect()
}

#[test]
fn lists_are_short_sorted_and_without_repetition() {
    for kind in KINDS {
        let all: Vec<_> = kind.lists.iter().flat_map(|list| names(list)).collect();
        for list in kind.lists {
            assert!(names(list).is_sorted_by(|a, b| a < b), "{}: {:?}", kind.name, names(list));
        }
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{}: {all:?}", kind.name);
        let most = if kind.name == VCPU.name { 27 } else { 50 };
        // `fcntl` is for debug builds only.
        let shipped = all.iter().filter(|name| **name != "fcntl").count();
        assert!(shipped <= most, "{}: {shipped}", kind.name);
        Filter::compile(kind, Mode::Enforce).unwrap();
        Filter::compile(kind, Mode::Log).unwrap();
    }
}

#[test]
fn nobody_gets_what_an_attacker_wants() {
    for kind in KINDS {
        let entries = || kind.lists.iter().copied().flatten();
        let all: Vec<_> = entries().map(|allowed| system_call_name(allowed.number).unwrap()).collect();
        for never in [
            "open",
            "openat2",
            "creat",
            "execve",
            "execveat",
            "fork",
            "vfork",
            "clone",
            "clone3",
            "socket",
            "connect",
            "bind",
            "ptrace",
            "kill",
            "tkill",
            "process_vm_readv",
            "process_vm_writev",
            "pidfd_getfd",
            "setuid",
            "setresuid",
            "capset",
            "setns",
            "mount",
            "umount2",
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "io_uring_setup",
            "io_uring_enter",
            "keyctl",
            "prctl",
            "seccomp",
            "memfd_create",
        ] {
            assert!(!all.contains(&never), "{}: {never}", kind.name);
        }
        if !kind.name.ends_with("file server") {
            assert!(!all.contains(&"openat"), "{}", kind.name);
        }
        for needs_a_look in ["fcntl", "ioctl", "mmap", "mprotect", "tgkill", "unshare"] {
            let mut found =
                entries().filter(|allowed| system_call_name(allowed.number) == Some(needs_a_look));
            assert!(found.all(|allowed| !allowed.when.is_empty()), "{}: {needs_a_look}", kind.name);
        }
    }
}
