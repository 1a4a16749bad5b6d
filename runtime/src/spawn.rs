//! Starts the sandbox process, where that is granted as the first process of a PID namespace: into one, a process can only be born.

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    process::ExitStatus,
};

use nix::{errno::Errno, libc};

use crate::sandbox::LIFELINE_FD;

/// The program that we are, also if it was replaced meanwhile.
const OURSELVES: &std::ffi::CStr = c"/proc/self/exe";
/// What a child reports that could not become the sandbox process: nobody else gives this status.
const NOT_STARTED: i32 = 125;

/// A sandbox process, a child of ours.
#[derive(Debug)]
pub struct Child {
    pid: libc::pid_t,
    status: Option<ExitStatus>,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let mut status = 0;
        loop {
            // SAFETY: the kernel writes one integer, to a place of ours.
            match Errno::result(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(*self.status.insert(ExitStatus::from_raw(status)))
    }
}

/// What a sandbox process is called, and what its program finds as its own name: it then has to go to
/// [`sandbox_main`](crate::sandbox_main).
pub const SANDBOX_NAME: &str = "mote-sandbox";

/// Starts this program once more, with `arguments`, `lifeline` at its place, the standard streams, and no other descriptor. The caller
/// must have one thread.
///
/// # Errors
/// No process, or arguments that no program can get.
pub(crate) fn spawn(arguments: &[OsString], lifeline: &OwnedFd) -> io::Result<Child> {
    let name = CString::new(SANDBOX_NAME)?;
    let arguments = arguments.iter().map(|argument| CString::new(argument.as_bytes()));
    let arguments: Vec<_> = std::iter::once(Ok(name)).chain(arguments).collect::<Result<_, _>>()?;
    let pointers: Vec<_> =
        arguments.iter().map(|argument| argument.as_ptr()).chain([std::ptr::null()]).collect();
    let lifeline = lifeline.as_raw_fd();
    let pid = match fork(libc::CLONE_NEWPID) {
        Ok(pid) => pid,
        // No privilege for it, none are left, or there is no such thing.
        Err(Errno::EPERM | Errno::ENOSPC | Errno::EINVAL | Errno::ENOSYS) => fork(0)?,
        Err(error) => return Err(error.into()),
    };
    if pid == 0 {
        become_sandbox(&pointers, lifeline);
    }
    Ok(Child { pid, status: None })
}

/// Makes a child that goes on here, as `fork` does, in new namespaces; 0 in the child.
fn fork(namespaces: libc::c_int) -> nix::Result<libc::pid_t> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: without memory in common, the child gets a copy of this process and its only thread, on the same stack; it calls nothing
    // but what is allowed after a fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    libc::pid_t::try_from(Errno::result(pid)?).map_err(|_| Errno::EOVERFLOW)
}

/// What the child does: makes system calls only, and returns in no case.
fn become_sandbox(arguments: &[*const libc::c_char], lifeline: RawFd) -> ! {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: none of these calls takes a lock or allocates; the pointers are to strings that the parent made, in an array that ends with
    // a null pointer; the environment is the parent's, and has only this thread.
    unsafe {
        let placed = if lifeline == LIFELINE_FD {
            libc::fcntl(lifeline, libc::F_SETFD, 0)
        } else {
            libc::dup2(lifeline, LIFELINE_FD)
        };
        let first = (LIFELINE_FD + 1).cast_unsigned();
        let closed = libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
        if placed >= 0 && closed == 0 {
            libc::execve(OURSELVES.as_ptr(), arguments.as_ptr(), environ);
        }
        libc::_exit(NOT_STARTED)
    }
}
