//! Signals: which reach the agent and how, what a process starts with, and sending them.

use rustix::{
    fd::{FromRawFd, OwnedFd},
    io::Result,
    process::{Pid, Signal},
};

use super::raw;

/// The length of the kernel's signal set, in bytes: one bit for each of 64 signals.
const SET_LEN: usize = size_of::<u64>();

const IGNORE: usize = 1;
const DEFAULT: usize = 0;

/// `struct sigaction` as the kernel has it on x86_64.
#[repr(C)]
struct Disposition {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Turns the end of children into a readable descriptor, and writing to closed streams into plain errors.
///
/// # Errors
/// Those of `signalfd4(2)`.
pub fn watch_children() -> Result<OwnedFd> {
    const SFD_CLOEXEC: usize = 0o2_000_000;
    const SFD_NONBLOCK: usize = 0o4000;
    const NEW: usize = usize::MAX;
    let children = 1_u64 << (Signal::CHILD.as_raw() - 1);
    block(children)?;
    dispose_of_broken_pipes(IGNORE)?;
    let arguments = [NEW, (&raw const children).expose_provenance(), SET_LEN, SFD_CLOEXEC | SFD_NONBLOCK, 0];
    // SAFETY: the set lives past the call, has the length that is passed and is only read.
    let fd = unsafe { raw::syscall(raw::SIGNALFD4, arguments) }?;
    // SAFETY: the kernel just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(i32::MAX)) })
}

/// Undoes [`watch_children`] in a child: nothing blocked, nothing ignored.
///
/// # Errors
/// Those of `rt_sigprocmask(2)` and `rt_sigaction(2)`.
pub fn reset() -> Result<()> {
    dispose_of_broken_pipes(DEFAULT)?;
    block(0)
}

/// Makes `set` the blocked signals of this thread.
fn block(set: u64) -> Result<()> {
    const SIG_SETMASK: usize = 2;
    let arguments = [SIG_SETMASK, (&raw const set).expose_provenance(), 0, SET_LEN, 0];
    // SAFETY: the set lives past the call, has the length that is passed and is only read; no old set is asked for.
    unsafe { raw::syscall(raw::RT_SIGPROCMASK, arguments) }.map(|_| ())
}

/// Sets what `SIGPIPE` does: `IGNORE` or `DEFAULT`.
fn dispose_of_broken_pipes(handler: usize) -> Result<()> {
    let disposition = Disposition { handler, flags: 0, restorer: 0, mask: 0 };
    let signal = usize::try_from(Signal::PIPE.as_raw()).unwrap_or(0);
    let arguments = [signal, (&raw const disposition).expose_provenance(), 0, SET_LEN, 0];
    // SAFETY: the structure is the kernel's, lives past the call and is only read; no old one is asked for. Neither
    // disposition has a handler that could run.
    unsafe { raw::syscall(raw::RT_SIGACTION, arguments) }.map(|_| ())
}

/// Sends a signal, of any number that the kernel knows, to one process.
///
/// # Errors
/// Those of `kill(2)`.
pub fn send(pid: Pid, signal: u8) -> Result<()> {
    // A `Pid` is positive.
    let pid = usize::try_from(pid.as_raw_pid()).unwrap_or(usize::MAX);
    // SAFETY: the call takes two numbers; the agent has no handler that a signal to itself could run.
    unsafe { raw::syscall(raw::KILL, [pid, usize::from(signal), 0, 0, 0]) }.map(|_| ())
}

/// Whether a signal, other than `SIGKILL`, ends a process that has not said what else it should do.
#[must_use]
pub fn ends_by_default(signal: u8) -> bool {
    let others = [
        Signal::KILL,
        Signal::CHILD,
        Signal::CONT,
        Signal::STOP,
        Signal::TSTP,
        Signal::TTIN,
        Signal::TTOU,
        Signal::URG,
        Signal::WINCH,
    ];
    !others.iter().any(|other| other.as_raw() == i32::from(signal))
}

/// Kills every process that the caller may signal, except itself and PID 1.
///
/// # Errors
/// `ESRCH` if there is none.
pub fn kill_all() -> Result<()> {
    let (every_process, signal) = (usize::MAX, Signal::KILL.as_raw().unsigned_abs());
    // SAFETY: the call takes two numbers and does not reach the caller's own memory.
    unsafe { raw::syscall(raw::KILL, [every_process, usize::try_from(signal).unwrap_or(0), 0, 0, 0]) }
        .map(|_| ())
}
