//! Calls `mote` as a user would.
//!
//! Two variables say what is tested: `MOTE`, the program, and `MOTE_HYPERVISOR`, the lane; `MOTE_IN_GUEST` is a program for guests.
//! Tests read none of them: they are the same in both lanes, and so must the results be.
//!
//! Nothing here waits for a time to pass. Deadlines are there for what hangs, and are far beyond what a busy machine needs.

mod bundle;
mod leftovers;
mod pty;

use std::{
    ffi::{OsStr, OsString},
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

pub use bundle::{Bundle, adopt_orphans, reap};
pub use leftovers::Leftovers;
pub use pty::Terminal;

/// How long anything may take before it counts as hung.
pub const HANG: Duration = Duration::from_secs(180);

/// The program under test.
///
/// # Panics
/// Nobody said which: run the tests with `tests/end-to-end`.
#[must_use]
pub fn program() -> PathBuf {
    variable("MOTE").into()
}

/// The hypervisor of this lane, `qemu` or `kvm`.
///
/// # Panics
/// Nobody said which.
#[must_use]
pub fn hypervisor() -> String {
    variable("MOTE_HYPERVISOR").into_string().unwrap_or_else(|bad| panic!("MOTE_HYPERVISOR is {bad:?}"))
}

fn variable(name: &str) -> OsString {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run these tests with tests/end-to-end"))
}

/// The program that looks at a guest from within: see `src/bin/in-guest.rs`.
///
/// # Panics
/// Nobody said where it is.
#[must_use]
pub fn in_guest() -> PathBuf {
    variable("MOTE_IN_GUEST").into()
}

/// A file that belongs to the installation under test: `vmlinux`, `rootfs.erofs`.
#[must_use]
pub fn installed(name: &str) -> PathBuf {
    let program = program();
    let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    prefix.join("lib/mote").join(name)
}

/// `mote run` on the lane's hypervisor, with `options`, still without a command.
#[must_use]
pub fn mote_run(options: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["run", "--hypervisor", &hypervisor()]).args(options);
    command
}

/// How a call of `mote` ended.
#[derive(Debug)]
pub struct Output {
    /// The exit status; 128+N if a signal ended `mote` itself.
    pub status: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics unless `mote` itself failed, with one line that contains each of `words`.
    ///
    /// # Panics
    /// See above.
    pub fn assert_failed(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        let line = self.stderr.lines().find(|line| line.starts_with("mote: ") || line.starts_with("error: "));
        let line = line.unwrap_or_else(|| panic!("no line says what failed: {self:?}"));
        for word in words {
            assert!(line.contains(word) || self.stderr.contains(word), "'{word}' is not said: {self:?}");
        }
    }
}

impl Output {
    /// Panics unless `mote` failed with this status, and said `words` as runc says things: in a line of its log.
    ///
    /// # Panics
    /// See above.
    pub fn assert_refused(&self, status: i32, words: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let said = |line: &str| line.contains("level=error msg=") && line.contains(words);
        assert!(self.stderr.lines().any(said), "'{words}' is not said: {self:?}");
    }
}

/// The status as a shell shows it.
#[must_use]
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs `sh -c SCRIPT` in a VM.
#[must_use]
pub fn sh(script: &str) -> Output {
    run(mote_run(&[]).args(["--", "sh", "-c", script]), b"")
}

/// Runs a call of `mote` to its end, with `stdin` as its input.
///
/// # Panics
/// It cannot be started, or hangs.
pub fn run(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let input = child.stdin.take();
    let bytes = stdin.to_vec();
    let writer = std::thread::spawn(move || {
        // A command need not read all of its input.
        let _ = input.map(|mut input| input.write_all(&bytes));
    });
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child);
    let output = Output {
        status: shell_status(status),
        stdout: received(&stdout),
        stderr: String::from_utf8_lossy(&received(&stderr)).into_owned(),
    };
    writer.join().unwrap_or_else(|_| panic!("{command:?}: the writer panicked"));
    output
}

/// Reads a stream to its end in a thread of its own.
pub fn collect(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    receiver
}

/// What [`collect`] has read.
///
/// # Panics
/// The stream does not end.
#[must_use]
pub fn received(receiver: &mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    receiver.recv_timeout(HANG).unwrap_or_else(|_| panic!("a stream did not end within {HANG:?}"))
}

/// Waits for a child of ours; kills it and panics if it hangs.
///
/// # Panics
/// See above.
pub fn wait(child: &mut Child) -> ExitStatus {
    if !process_ended(child.id(), HANG) {
        let _ = child.kill();
        let _ = child.wait();
        panic!("process {} hung for {HANG:?}", child.id());
    }
    child.wait().unwrap_or_else(|error| panic!("wait: {error}"))
}

/// Waits until the process has ended, reaped or not; `false` if it still runs when `deadline` has passed.
///
/// # Panics
/// The kernel has no `pidfd_open` (Linux 5.3).
#[must_use]
pub fn process_ended(pid: u32, deadline: Duration) -> bool {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    // SAFETY: the call takes two integers and returns a new descriptor or an error.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        assert_eq!(nix::errno::Errno::last(), nix::errno::Errno::ESRCH, "pidfd_open");
        return true;
    }
    let fd = i32::try_from(fd).unwrap_or(-1);
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut poll = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    let timeout = nix::poll::PollTimeout::try_from(deadline).unwrap_or(nix::poll::PollTimeout::MAX);
    matches!(nix::poll::poll(&mut poll, timeout), Ok(ready) if ready > 0)
}

/// The children of a process that run a program of their own: not the moment's copies of `mote` on their way to be something else.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let others = processes().into_iter().filter(|(_, parent, name)| *parent == pid && name != "mote");
    others.map(|(pid, ..)| pid).collect()
}

/// Every process: its id, its parent's, its name.
#[must_use]
pub fn processes() -> Vec<(u32, u32, String)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            let mut fields = rest.split_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            (state != "Z").then(|| (pid, parent, name.to_owned()))
        })
        .collect()
}

/// A fresh folder for a test.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("temporary folder: {error}"))
}

/// A path as text, for arguments.
///
/// # Panics
/// It is not UTF-8.
#[must_use]
pub fn text(path: &(impl AsRef<OsStr> + ?Sized)) -> String {
    path.as_ref().to_str().unwrap_or_else(|| panic!("{:?} is not UTF-8", path.as_ref())).to_owned()
}
