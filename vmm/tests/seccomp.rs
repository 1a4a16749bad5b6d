//! Tries to cross the system call filters, with real processes: each case is this program once more, as a child in which a thread
//! restricts itself and then oversteps.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Output},
};

use mote_vmm::seccomp::{
    DEVICES, FILE_SERVER, Filter, Kind, Mode, PUMP, QEMU, VCPU, VHOST_USER, VHOST_USER_FILE_SERVER,
};
use nix::libc;

const CASE: &str = "MOTE_TEST_SECCOMP";
const KINDS: [&Kind; 7] = [&VCPU, &DEVICES, &VHOST_USER, &FILE_SERVER, &VHOST_USER_FILE_SERVER, &PUMP, &QEMU];
/// What a thread says that was let pass.
const PASSED: &[u8] = b"passed\n";

/// What no thread may do, with the name that the message must have.
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

fn overstep(call: &str) {
    let null = std::ptr::null::<u8>();
    // SAFETY: none of these calls would hurt anybody if it were made: they have arguments that are invalid, or harmless.
    unsafe {
        match call {
            "execve" => libc::syscall(libc::SYS_execve, null, null, null),
            "socket" => libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            "openat" => {
                libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/etc/passwd".as_ptr(), libc::O_RDONLY)
            }
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, 0, 0, 0),
            "clone3" => libc::syscall(libc::SYS_clone3, null, 0),
            "kill" => libc::syscall(libc::SYS_kill, libc::getpid(), 0),
            "mmap" => {
                let (prot, flags) =
                    (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                libc::syscall(libc::SYS_mmap, 0, 4096, prot, flags, -1, 0)
            }
            "mprotect" => libc::syscall(libc::SYS_mprotect, 0, 0, libc::PROT_EXEC),
            "ioctl" => libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, null),
            "fcntl" => libc::syscall(libc::SYS_fcntl, 0, libc::F_SETFD, 0),
            "tgkill" => libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGWINCH),
            "setuid" => libc::syscall(libc::SYS_setuid, u32::MAX),
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 0, null),
            other => panic!("{other}"),
        }
    };
}

/// What every thread does all the time.
fn ordinary() {
    let lock = std::sync::Mutex::new(Vec::new());
    for size in [1usize, 1 << 12, 1 << 20, 1 << 25] {
        lock.lock().unwrap().push(vec![1u8; size]);
    }
    lock.lock().unwrap()[0].resize(1 << 26, 2);
    // SAFETY: the bytes are there.
    unsafe { libc::write(libc::STDOUT_FILENO, PASSED.as_ptr().cast(), PASSED.len()) };
}

/// Not a test: the child of the tests below.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let [kind, mode, call] = case.split('/').collect::<Vec<_>>()[..] else { panic!("{case}") };
    let kind = KINDS.into_iter().find(|other| other.name == kind).unwrap();
    let mode = if mode == "log" { Mode::Log } else { Mode::Enforce };
    let call = call.to_owned();
    let thread = std::thread::spawn(move || {
        // What hides signals from threads of ours must not hide this one.
        nix::sys::signal::SigSet::all().thread_block().unwrap();
        Filter::compile(kind, mode).unwrap().install().unwrap();
        match call.as_str() {
            "nothing" => {}
            "panic" => panic!("on purpose"),
            "abort" => std::process::abort(),
            call => overstep(call),
        }
        ordinary();
    });
    thread.join().unwrap();
}

fn run(kind: &Kind, mode: &str, call: &str) -> (Output, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("RUST_BACKTRACE", "0")
        .env(CASE, format!("{}/{mode}/{call}", kind.name))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

fn passed(output: &Output) -> bool {
    output.stdout.windows(PASSED.len()).any(|window| window == PASSED)
}

#[test]
fn a_forbidden_call_ends_the_process_with_one_line() {
    for kind in KINDS {
        for call in FORBIDDEN {
            // To open files is what it is there for.
            if call == "openat" && kind.name.ends_with("file server") {
                continue;
            }
            let (output, text) = run(kind, "enforce", call);
            assert_eq!(output.status.code(), Some(1), "{} {call}: {output:?}", kind.name);
            let lines: Vec<_> = text.lines().collect();
            let [line] = lines[..] else { panic!("{} {call}: {text}", kind.name) };
            assert!(
                line.starts_with(&format!("seccomp: a {} thread made the system call {call} (", kind.name)),
                "{line}"
            );
            assert!(!passed(&output), "{} {call}", kind.name);
        }
    }
}

#[test]
fn a_thread_does_its_work_and_ends() {
    for kind in KINDS {
        let (output, text) = run(kind, "enforce", "nothing");
        assert!(output.status.success() && passed(&output), "{}: {text}", kind.name);
    }
}

#[test]
fn the_end_of_a_program_with_a_bug_is_seen_as_such() {
    for kind in KINDS {
        let (output, text) = run(kind, "enforce", "panic");
        assert!(text.contains("on purpose") && !text.contains("seccomp: "), "{}: {text}", kind.name);
        assert!(!output.status.success());
        let (output, text) = run(kind, "enforce", "abort");
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}: {text}", kind.name);
    }
}

#[test]
fn logging_lets_pass() {
    let (output, text) = run(&VCPU, "log", "openat");
    assert!(output.status.success() && passed(&output), "{text}");
}
