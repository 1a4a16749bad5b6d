//! Tries to cross the filters, with real processes: each case is this program once more, as a child in which a thread restricts itself
//! and then oversteps.

use std::process::{Command, Output};

use mote_vmm::seccomp::{Filter, Mode};

use super::*;

const CASE: &str = "MOTE_TEST_SUPERVISOR";
const KINDS: [&Kind; 2] = [&SUPERVISOR, &CONTAINER_SUPERVISOR];
/// What a thread says that was let pass.
const PASSED: &str = "passed";

/// What neither may do, with the name that the message must have. None of it would hurt anybody if it were done.
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

fn overstep(call: &str) {
    let null = std::ptr::null::<u8>();
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: none of these calls reads or writes memory of ours but for the two names; nothing that they map is used.
    unsafe {
        match call {
            "accept4" => libc::syscall(libc::SYS_accept4, -1, null, null, 0),
            "bind" => libc::syscall(libc::SYS_bind, -1, null, 0),
            "bpf" => libc::syscall(libc::SYS_bpf, -1, null, 0),
            "clone" => libc::syscall(libc::SYS_clone, libc::CLONE_THREAD, 0, 0, 0, 0),
            "clone3" => libc::syscall(libc::SYS_clone3, null, 0),
            "connect" => libc::syscall(libc::SYS_connect, -1, null, 0),
            "execve" => libc::syscall(libc::SYS_execve, null, null, null),
            "fcntl" => libc::syscall(libc::SYS_fcntl, 0, libc::F_SETFL, 0),
            "getsockopt" => {
                libc::syscall(libc::SYS_getsockopt, -1, libc::SOL_SOCKET, libc::SO_ERROR, null, null)
            }
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 0, null),
            "ioctl" => libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, null),
            "kill" => libc::syscall(libc::SYS_kill, libc::getpid(), 0),
            "memfd_create" => libc::syscall(libc::SYS_memfd_create, null, 0),
            "mmap" => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                libc::syscall(libc::SYS_mmap, 0, 4096, executable, flags, -1, 0)
            }
            "mount" => libc::syscall(libc::SYS_mount, null, null, null, 0, null),
            "mprotect" => libc::syscall(libc::SYS_mprotect, 0, 0, executable),
            "openat" => libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/".as_ptr(), libc::O_PATH),
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, 0, 0, 0),
            "recvmsg" => libc::syscall(libc::SYS_recvmsg, -1, null, 0),
            "setns" => libc::syscall(libc::SYS_setns, -1, 0),
            "shutdown" => libc::syscall(libc::SYS_shutdown, -1, 0),
            "socket" => libc::syscall(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0),
            "socketpair" => libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, 0, 0, null),
            "statx" => libc::syscall(libc::SYS_statx, libc::AT_FDCWD, c"/".as_ptr(), 0, 0, null),
            "tgkill" => libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGWINCH),
            other => panic!("{other}"),
        }
    };
}

/// Not a test: the child of the tests below.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let (kind, call) = case.split_once('/').unwrap();
    let kind = KINDS.into_iter().find(|other| other.name == kind).unwrap();
    let call = call.to_owned();
    let thread = std::thread::spawn(move || {
        Filter::compile(kind, Mode::Enforce).unwrap().install().unwrap();
        if call != "nothing" {
            overstep(&call);
        }
        println!("{PASSED}");
    });
    thread.join().unwrap();
}

fn run(kind: &Kind, call: &str) -> (Output, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "jail::filter::tests::child", "--nocapture", "--test-threads=1"])
        .env("RUST_BACKTRACE", "0")
        .env(CASE, format!("{}/{call}", kind.name))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

fn passed(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).lines().any(|line| line.ends_with(PASSED))
}

fn assert_ends(kind: &Kind, call: &str) {
    let (output, text) = run(kind, call);
    assert_eq!(output.status.code(), Some(1), "{} {call}: {output:?}", kind.name);
    let lines: Vec<_> = text.lines().collect();
    let [line] = lines[..] else { panic!("{} {call}: {text}", kind.name) };
    let words = format!("seccomp: a {} thread made the system call {call} (", kind.name);
    assert!(line.starts_with(&words), "{line}");
    assert!(!passed(&output), "{} {call}", kind.name);
}

#[test]
fn a_forbidden_call_ends_the_process_with_one_line() {
    for kind in KINDS {
        for call in FORBIDDEN {
            assert_ends(kind, call);
        }
    }
    for call in OF_CONTAINERS {
        assert_ends(&SUPERVISOR, call);
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
        let (output, text) = run(&CONTAINER_SUPERVISOR, call);
        assert!(output.status.success() && passed(&output), "{call}: {text}");
    }
}
