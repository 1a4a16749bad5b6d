//! Making processes: fork, descriptors of a child, exec.

use core::{
    ffi::CStr,
    sync::atomic::{AtomicBool, Ordering},
};

use heapless::Vec;
use mote_protocol::{StrList, limits};
use rustix::{
    fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    io::{Errno, Result},
    process::Pid,
    thread::{ThreadNameSpaceType, UnshareFlags},
};

use super::raw;
use crate::program::Scheduler;

/// Whether this process was made by [`spawn`].
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Whether this process is a child of the agent's and not the agent.
#[must_use]
pub fn in_child() -> bool {
    IN_CHILD.load(Ordering::Relaxed)
}

/// Forks. The child runs `child`, with a copy of the caller's memory, and exits with the status that it returns.
///
/// Nothing in the copied memory is dropped in the child. If the caller has other threads, `child` must not wait for
/// anything that they hold, the allocator's locks included; the agent has one thread and no allocator.
///
/// # Errors
/// Those of `clone(2)`.
pub fn spawn(new_pid_namespace: bool, child: impl FnOnce() -> i32) -> Result<Pid> {
    const SIGCHLD: usize = 17;
    const CLONE_NEWPID: usize = 0x2000_0000;
    let flags = SIGCHLD | if new_pid_namespace { CLONE_NEWPID } else { 0 };
    // SAFETY: without CLONE_VM the child has its own copy of all memory and goes on with the same stack pointer in it;
    // no pointers are passed, so the kernel writes nothing.
    match unsafe { raw::syscall(raw::CLONE, [flags, 0, 0, 0, 0]) }? {
        0 => {
            IN_CHILD.store(true, Ordering::Relaxed);
            exit(child())
        }
        pid => i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::CHILD),
    }
}

/// Goes on in a child of this process's parent. What is to be said about it is said by `announce`, in the process that was,
/// which then ends; the new one, where this returns, does not begin before.
///
/// # Errors
/// Those of `pipe2(2)` and `clone(2)`.
pub fn go_on_in_child(announce: impl FnOnce(Pid) -> Result<()>) -> Result<()> {
    const CLONE_PARENT: usize = 0x8000;
    const SIGCHLD: usize = 17;
    let (begin, wait) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: as in `spawn`.
    match unsafe { raw::syscall(raw::CLONE, [SIGCHLD | CLONE_PARENT, 0, 0, 0, 0]) }? {
        0 => {
            // The end of the process that was closes the other end.
            drop(wait);
            let _ = rustix::io::read(&begin, &mut [0]);
            Ok(())
        }
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::CHILD);
            // If nobody can be told, the agent sees a child that has ended without a word.
            let told = pid.and_then(announce);
            exit(i32::from(told.is_err()))
        }
    }
}

/// `setns(2)` with a descriptor of a process or a namespace. Other bits than `CLONE_NEW*` are `EINVAL`.
///
/// # Errors
/// Those of `setns(2)`.
pub fn join(fd: BorrowedFd<'_>, namespaces: u32) -> Result<()> {
    let known = known_namespaces().bits();
    if namespaces & !known != 0 {
        return Err(Errno::INVAL);
    }
    rustix::thread::move_into_thread_name_spaces(fd, ThreadNameSpaceType::from_bits_retain(namespaces))
}

/// `struct rlimit64`.
#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

/// Sets a limit of this process, of any resource that the kernel knows.
///
/// # Errors
/// Those of `prlimit(2)`.
pub fn set_limit(resource: u8, soft: u64, hard: u64) -> Result<()> {
    let limit = Limit { soft, hard };
    let arguments = [0, usize::from(resource), (&raw const limit).expose_provenance(), 0, 0];
    // SAFETY: the structure is the kernel's, lives past the call and is only read; no old one is asked for.
    unsafe { raw::syscall(raw::PRLIMIT64, arguments) }.map(|_| ())
}

/// `struct sched_attr`, version 0.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    times: [u64; 3],
}

/// `sched_setattr(2)` of this process.
///
/// # Errors
/// Those of the call.
pub fn set_scheduler(scheduler: Scheduler) -> Result<()> {
    const SIZE: u32 = 48;
    const { assert!(size_of::<SchedulerAttributes>() == SIZE as usize) };
    let Scheduler { policy, flags, nice, priority, times } = scheduler;
    let attributes = SchedulerAttributes { size: SIZE, policy, flags, nice, priority, times };
    let pointer = (&raw const attributes).expose_provenance();
    // SAFETY: the structure names its own size, lives past the call and is only read.
    unsafe { raw::syscall(raw::SCHED_SETATTR, [0, pointer, 0, 0, 0]) }.map(|_| ())
}

/// `ioprio_set(2)` of this process.
///
/// # Errors
/// Those of the call.
pub fn set_io_priority(priority: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: usize = 1;
    // SAFETY: the call takes three numbers.
    unsafe { raw::syscall(raw::IOPRIO_SET, [IOPRIO_WHO_PROCESS, 0, usize::from(priority), 0, 0]) }.map(|_| ())
}

/// `personality(2)`.
///
/// # Errors
/// Those of the call.
pub fn set_personality(persona: u32) -> Result<()> {
    let persona = usize::try_from(persona).map_err(|_| Errno::INVAL)?;
    // SAFETY: the call takes a number. Flags that change the layout of memory count from the next `execve`.
    unsafe { raw::syscall(raw::PERSONALITY, [persona, 0, 0, 0, 0]) }.map(|_| ())
}

/// Leaves a child with four descriptors: standard input, output and error, and `kept`, which is returned under its new
/// number, 3, and closes on exec; and a fifth, if there is one, which does, too. Every other descriptor is closed, whoever
/// owned it.
///
/// The sources must be above 2.
///
/// # Errors
/// Those of `dup2(2)` and `close_range(2)`.
pub fn keep_only(
    streams: [BorrowedFd<'_>; 3],
    kept: BorrowedFd<'_>,
    fifth: Option<BorrowedFd<'_>>,
) -> Result<(OwnedFd, Option<OwnedFd>)> {
    const KEPT: usize = 3;
    const O_CLOEXEC: usize = 0o2_000_000;
    const NO_LIMIT: usize = 0xffff_ffff;
    let [stdin, stdout, stderr] = streams;
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    // Out of the way of 3.
    let fifth = match fifth {
        Some(fifth) => Some(rustix::io::fcntl_dupfd_cloexec(fifth, 4)?),
        None => None,
    };
    if raw::descriptor(kept) != KEPT {
        // SAFETY: whatever owned descriptor 3 belongs to the copy of the agent's state, which the child never uses
        // or drops again; `streams` are not used after this point.
        unsafe { raw::syscall(raw::DUP3, [raw::descriptor(kept), KEPT, O_CLOEXEC, 0, 0]) }?;
    }
    let between = fifth.as_ref().map_or(NO_LIMIT, |fifth| raw::descriptor(fifth.as_fd()));
    for range in [(KEPT + 1, between.saturating_sub(1)), (between.saturating_add(1), NO_LIMIT)] {
        if range.0 <= range.1 {
            // SAFETY: as above, no owner of these descriptors is ever used or dropped in this process; `fifth` is not in
            // either range.
            unsafe { raw::syscall(raw::CLOSE_RANGE, [range.0, range.1, 0, 0, 0]) }?;
        }
    }
    // SAFETY: descriptor 3 is open, and its only other owner is in the state that the child never uses or drops.
    Ok((unsafe { OwnedFd::from_raw_fd(3) }, fifth))
}

/// `unshare(2)` for namespaces. Other bits than `CLONE_NEW*` are `EINVAL`.
///
/// # Errors
/// Those of `unshare(2)`.
pub fn unshare(namespaces: u32) -> Result<()> {
    let known = known_namespaces();
    let flags = UnshareFlags::from_bits_retain(namespaces);
    if !known.contains(flags) {
        return Err(Errno::INVAL);
    }
    // SAFETY: CLONE_FILES, the one flag with consequences for memory safety, was ruled out.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn known_namespaces() -> UnshareFlags {
    UnshareFlags::NEWNS
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUSER
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWTIME
}

/// Pointers to the strings of a list, with the null pointer at the end that `execve(2)` wants.
fn pointers(strings: StrList<'_>) -> Result<Vec<*const u8, { limits::MAX_STRINGS + 1 }>> {
    let mut table = Vec::new();
    for string in strings.iter() {
        table.push(string.as_ptr().cast()).map_err(|_| Errno::TOOBIG)?;
    }
    table.push(core::ptr::null()).map_err(|_| Errno::TOOBIG)?;
    Ok(table)
}

/// `faccessat2(2)` of an open file, which may be open as a path only: whether this process may execute it, by its effective ids.
///
/// # Errors
/// Those of `faccessat2(2)`.
pub fn check_executable(file: BorrowedFd<'_>) -> Result<()> {
    const X_OK: usize = 1;
    const AT_EACCESS: usize = 0x200;
    const AT_EMPTY_PATH: usize = 0x1000;
    let path = c"".as_ptr().expose_provenance();
    let arguments = [raw::descriptor(file), path, X_OK, AT_EACCESS | AT_EMPTY_PATH, 0];
    // SAFETY: the path is a static string with its NUL, which the kernel only reads.
    unsafe { raw::syscall(raw::FACCESSAT2, arguments) }.map(|_| ())
}

/// `execve(2)`. Returns only if it failed.
#[must_use]
pub fn execve(path: &CStr, arguments: StrList<'_>, environment: StrList<'_>) -> Errno {
    let arguments = match pointers(arguments) {
        Ok(table) => table,
        Err(errno) => return errno,
    };
    let environment = match pointers(environment) {
        Ok(table) => table,
        Err(errno) => return errno,
    };
    let pointers = [
        path.as_ptr().expose_provenance(),
        arguments.as_ptr().expose_provenance(),
        environment.as_ptr().expose_provenance(),
        0,
        0,
    ];
    // SAFETY: the path is a C string; both tables end in a null pointer, and what stands before it points to C strings
    // that are borrowed for longer than this call. The kernel only reads them.
    match unsafe { raw::syscall(raw::EXECVE, pointers) } {
        // A success does not come back here.
        Ok(_) => Errno::INVAL,
        Err(errno) => errno,
    }
}

/// Ends this process at once.
pub fn exit(status: i32) -> ! {
    // The kernel takes the lowest byte.
    let status = usize::from(status.to_le_bytes()[0]);
    loop {
        // SAFETY: the call takes a number, and nothing of this process is used after it.
        let _ = unsafe { raw::syscall(raw::EXIT_GROUP, [status, 0, 0, 0, 0]) };
    }
}

/// Descriptors 0 to 2 of a child that [`keep_only`] has arranged.
#[must_use]
pub fn standard_streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: the agent holds these three open from its start, a child replaces them but never closes them.
    unsafe { [0, 1, 2].map(|number| BorrowedFd::borrow_raw(number)) }
}
