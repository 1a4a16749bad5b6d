//! Threads that try to cross a filter, with real processes: each case is the test program once more, as a child in which a thread
//! restricts itself and then oversteps. A test program has a test that is the [`child`], and runs cases with [`Crossing::run`].

#![allow(missing_docs, clippy::unwrap_used, unreachable_pub)]

use std::process::{Command, Output};

use mote_vmm::seccomp::{Filter, Kind, Mode};
use nix::libc;

/// Tells a child what to do.
const CASE: &str = "MOTE_TEST_CROSSING";
/// What a thread says that was let pass.
const PASSED: &[u8] = b"passed\n";

/// Makes a system call that would hurt nobody if it were made: the arguments are invalid, or harmless.
fn overstep(call: &str) {
    let null = std::ptr::null::<u8>();
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: none of these calls reads or writes memory of ours but for the names; nothing that they map is used.
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
            "setuid" => libc::syscall(libc::SYS_setuid, u32::MAX),
            "shutdown" => libc::syscall(libc::SYS_shutdown, -1, 0),
            "socket" => libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            "socketpair" => libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, 0, 0, null),
            "statx" => libc::syscall(libc::SYS_statx, libc::AT_FDCWD, c"/".as_ptr(), 0, 0, null),
            "tgkill" => libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGWINCH),
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

/// What the child does, if this process is one: a thread of one of these kinds oversteps.
pub fn child(kinds: &[&'static Kind]) {
    let Ok(case) = std::env::var(CASE) else { return };
    let [kind, mode, call] = case.split('/').collect::<Vec<_>>()[..] else { panic!("{case}") };
    let kind = kinds.iter().copied().find(|other| other.name == kind).unwrap();
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

/// How a child ended.
pub struct Crossing {
    pub output: Output,
    /// What it said on standard error.
    pub text: String,
}

impl Crossing {
    /// Runs the test called `child`: a thread of this kind makes a call, or does `nothing`, or has a `panic`, or an `abort`.
    pub fn run(child: &str, kind: &Kind, mode: &str, call: &str) -> Self {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", child, "--nocapture", "--test-threads=1"])
            .env("RUST_BACKTRACE", "0")
            .env(CASE, format!("{}/{mode}/{call}", kind.name))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { output, text }
    }

    /// Whether the thread came to its work.
    pub fn passed(&self) -> bool {
        self.output.stdout.windows(PASSED.len()).any(|window| window == PASSED)
    }

    /// Whether the thread did its work and the process ended well.
    pub fn assert_good(&self, what: &str) {
        assert!(self.output.status.success() && self.passed(), "{what}: {}", self.text);
    }
}

/// A call that a kind of thread may not make ends the process, with one line that names both.
pub fn assert_ends(child: &str, kind: &Kind, call: &str) {
    let crossing = Crossing::run(child, kind, "enforce", call);
    assert_eq!(crossing.output.status.code(), Some(1), "{} {call}: {:?}", kind.name, crossing.output);
    let lines: Vec<_> = crossing.text.lines().collect();
    let [line] = lines[..] else { panic!("{} {call}: {}", kind.name, crossing.text) };
    let words = format!("seccomp: a {} thread made the system call {call} (", kind.name);
    assert!(line.starts_with(&words), "{line}");
    assert!(!crossing.passed(), "{} {call}", kind.name);
}
