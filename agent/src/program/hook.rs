//! Hooks: programs that run beside the process, and have to end well before it goes on.

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::{AsFd, OwnedFd},
    io::{Errno, Result},
    pipe::PipeFlags,
    process::{Pid, PidfdFlags, Signal, WaitOptions},
};

use super::kernel::Hook;
use crate::sys;

/// The exit status of a hook that could not be executed.
const NOT_EXECUTED: i32 = 127;

/// Why a hook is no success: an error, what failed, and how much it had to say.
type Failed = (Option<Errno>, &'static str, usize);

/// Runs a hook. What it writes to standard output and standard error goes to `words`, as far as it fits.
pub(super) fn run(hook: Hook<'_>, words: &mut [u8]) -> core::result::Result<(), Failed> {
    let (pid, output) = start(hook).map_err(|errno| (Some(errno), "hook", 0))?;
    let mut used = 0;
    let ended = attend(pid, &output, hook.timeout_ms, words, &mut used);
    if ended.is_err() {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let status = loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    match (ended, status) {
        (Err(Errno::TIMEDOUT), _) => Err((Some(Errno::TIMEDOUT), "hook: killed after its timeout", used)),
        (Err(errno), _) | (Ok(()), Err(errno)) => Err((Some(errno), "hook", used)),
        (Ok(()), Ok(Some((_, status)))) if status.exit_status() == Some(0) => Ok(()),
        (Ok(()), Ok(_)) => Err((None, "hook failed", used)),
    }
}

fn start(hook: Hook<'_>) -> Result<(Pid, OwnedFd)> {
    let (stdin, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (output, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    // It goes into the pipe as a whole, or is too long: nobody has to wait for the hook to read it.
    if rustix::io::write(&input, hook.input)? != hook.input.len() {
        return Err(Errno::TOOBIG);
    }
    rustix::io::ioctl_fionbio(&stdin, false)?;
    let pid = sys::process::spawn(false, || {
        let streams = rustix::stdio::dup2_stdin(&stdin)
            .and_then(|()| rustix::stdio::dup2_stdout(&stdout))
            .and_then(|()| rustix::stdio::dup2_stderr(&stdout));
        if streams.is_ok() {
            let _ = sys::process::execve(hook.path, hook.arguments, hook.environment);
            let _ = rustix::io::write(&stdout, b"cannot be executed");
        }
        NOT_EXECUTED
    })?;
    Ok((pid, output))
}

/// Waits for the end of a hook, and keeps what it says.
fn attend(pid: Pid, output: &OwnedFd, timeout_ms: u32, words: &mut [u8], used: &mut usize) -> Result<()> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = sys::clock::monotonic_ns().saturating_add(u64::from(timeout_ms) * 1_000_000);
    let mut is_open = true;
    loop {
        let left = deadline.saturating_sub(sys::clock::monotonic_ns());
        let left = Timespec {
            tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
        };
        let mut ends =
            [PollFd::new(&pidfd, PollFlags::IN), PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
        let watched = if is_open { &mut ends[..] } else { &mut ends[..1] };
        match rustix::event::poll(watched, (timeout_ms > 0).then_some(&left)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let has_ended = !ends[0].revents().is_empty();
        is_open = is_open && take_words(output, words, used);
        if has_ended {
            return Ok(());
        }
    }
}

/// Takes what a hook has said; what does not fit is dropped. False once it will say nothing more.
fn take_words(output: &OwnedFd, words: &mut [u8], used: &mut usize) -> bool {
    let mut more = [0; 512];
    loop {
        match rustix::io::read(output, &mut more) {
            Ok(0) => return false,
            Ok(count) => {
                let room = words.get_mut(*used..).unwrap_or_default();
                let kept = count.min(room.len());
                room[..kept].copy_from_slice(&more[..kept]);
                *used += kept;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}
