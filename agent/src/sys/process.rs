//! Making processes: fork, descriptors of a child, exec.

use core::{
    ffi::CStr,
    sync::atomic::{AtomicBool, Ordering},
};

use heapless::Vec;
use mote_protocol::{StrList, limits};
use rustix::{
    fd::{BorrowedFd, FromRawFd, OwnedFd},
    io::{Errno, Result},
    process::Pid,
    thread::UnshareFlags,
};

use super::raw;

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

/// Leaves a child with four descriptors: standard input, output and error, and `kept`, which is returned under its new
/// number, 3, and closes on exec. Every other descriptor is closed, whoever owned it.
///
/// The sources must be above 2.
///
/// # Errors
/// Those of `dup2(2)` and `close_range(2)`.
pub fn keep_only(streams: [BorrowedFd<'_>; 3], kept: BorrowedFd<'_>) -> Result<OwnedFd> {
    const KEPT: usize = 3;
    const O_CLOEXEC: usize = 0o2_000_000;
    const NO_LIMIT: usize = 0xffff_ffff;
    let [stdin, stdout, stderr] = streams;
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    if raw::descriptor(kept) != KEPT {
        // SAFETY: whatever owned descriptor 3 belongs to the copy of the agent's state, which the child never uses
        // or drops again; `streams` are not used after this point.
        unsafe { raw::syscall(raw::DUP3, [raw::descriptor(kept), KEPT, O_CLOEXEC, 0, 0]) }?;
    }
    // SAFETY: as above, no owner of these descriptors is ever used or dropped in this process.
    unsafe { raw::syscall(raw::CLOSE_RANGE, [KEPT + 1, NO_LIMIT, 0, 0, 0]) }?;
    // SAFETY: descriptor 3 is open, and its only other owner is in the state that the child never uses or drops.
    Ok(unsafe { OwnedFd::from_raw_fd(3) })
}

/// `unshare(2)` for namespaces. Other bits than `CLONE_NEW*` are `EINVAL`.
///
/// # Errors
/// Those of `unshare(2)`.
pub fn unshare(namespaces: u32) -> Result<()> {
    let known = UnshareFlags::NEWNS
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUSER
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWTIME;
    let flags = UnshareFlags::from_bits_retain(namespaces);
    if !known.contains(flags) {
        return Err(Errno::INVAL);
    }
    // SAFETY: CLONE_FILES, the one flag with consequences for memory safety, was ruled out.
    unsafe { rustix::thread::unshare_unsafe(flags) }
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
