//! Tries to cross the filters of supervisors, as `vmm/tests/seccomp.rs` does with those of the VMM's threads.

#[path = "../../../../vmm/tests/crossing/mod.rs"]
mod crossing;

use self::crossing::{Crossing, assert_ends};
use super::*;

const KINDS: [&Kind; 2] = [&SUPERVISOR, &CONTAINER_SUPERVISOR];
/// The name of the test that is the child.
const CHILD: &str = "jail::filter::tests::child";

/// What neither may do.
const FORBIDDEN: [&str; 22] = [
    "bind",
    "bpf",
    "clone",
    "clone3",
    "connect",
    "execve",
    "fcntl",
    "getsockopt",
    "io_uring_setup",
    "ioctl",
    "kill",
    "memfd_create",
    "mmap",
    "mount",
    "mprotect",
    "openat",
    "ptrace",
    "setns",
    "socket",
    "socketpair",
    "statx",
    "tgkill",
];
/// What only that of a container may do.
const OF_CONTAINERS: [&str; 3] = ["accept4", "recvmsg", "shutdown"];

/// Not a test: the child of the tests below.
#[test]
fn child() {
    crossing::child(&KINDS);
}

#[test]
fn a_forbidden_call_ends_the_process_with_one_line() {
    for kind in KINDS {
        for call in FORBIDDEN {
            assert_ends(CHILD, kind, call);
        }
    }
    for call in OF_CONTAINERS {
        assert_ends(CHILD, &SUPERVISOR, call);
    }
}

#[test]
fn lists_are_short() {
    for kind in KINDS {
        let len: usize = kind.lists.iter().map(|list| list.len()).sum();
        assert!(len <= 50, "{}: {len}", kind.name);
    }
}

#[test]
fn the_control_socket_is_for_containers() {
    for call in OF_CONTAINERS.iter().chain(&["nothing"]) {
        Crossing::run(CHILD, &CONTAINER_SUPERVISOR, "enforce", call).assert_good(call);
    }
}
