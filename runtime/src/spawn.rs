//! Starts the sandbox process: this program once more, with what it needs at the places where it looks for it; where that is granted as
//! the first process of a PID namespace, because into one, a process can only be born.

use std::{
    ffi::{CStr, CString, OsString},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream, process::ExitStatusExt},
    },
    process::ExitStatus,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
    sys::socket::{MsgFlags, send},
};

use crate::{
    Error,
    error::{errno, host},
    heap,
    sandbox::{CONTROL_FD, ENDED_FD, LIFELINE_FD},
};

/// The program that we are, also if it was replaced meanwhile.
const OURSELVES: &CStr = c"/proc/self/exe";
/// A flag of `clone3` (`linux/sched.h`).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
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
        loop {
            if let Some(status) = self.look(0)? {
                return Ok(status);
            }
        }
    }

    /// Its status, if it has ended.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.look(libc::WNOHANG)
    }

    /// Kills it, if it has not ended.
    pub(crate) fn kill(&self) {
        if self.status.is_none() {
            // Nobody has waited for it, so the process id is its own. SAFETY: sends a signal; touches no memory.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }

    fn look(&mut self, options: libc::c_int) -> io::Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let mut status = 0;
        // SAFETY: the kernel writes one integer, to a place of ours.
        match Errno::result(unsafe { libc::waitpid(self.pid, &raw mut status, options) }) {
            Ok(0) | Err(Errno::EINTR) => Ok(None),
            Ok(_) => Ok(Some(*self.status.insert(ExitStatus::from_raw(status)))),
            Err(error) => Err(error.into()),
        }
    }
}

/// A sandbox process, and the socket that leads to it.
pub(crate) struct Spawned {
    pub(crate) child: Child,
    pub(crate) lifeline: UnixStream,
}

/// What a sandbox process gets beside its lifeline.
#[derive(Default)]
pub(crate) struct Inheritance {
    /// All three of its standard streams, if they are not the caller's.
    pub(crate) terminal: Option<OwnedFd>,
    /// What it finds in its lifeline.
    pub(crate) words: Vec<u8>,
    /// The cgroup that it is born in, where the kernel can do that.
    pub(crate) cgroup: Option<OwnedFd>,
    /// The network namespace that it starts in, if it can.
    pub(crate) network: Option<OwnedFd>,
    /// For a container: its control socket and the file for its end. It starts in the root folder.
    pub(crate) container: Option<(OwnedFd, OwnedFd)>,
}

/// What a sandbox process is called, and what its program finds as its own name: it then has to go to
/// [`sandbox_main`](crate::sandbox_main).
pub const SANDBOX_NAME: &str = "mote-sandbox";

/// Starts this program once more, with `arguments`. It gets the standard streams, what is in `inheritance`, and no other descriptor. The
/// caller must have one thread.
///
/// # Errors
/// No process, or arguments that no program can get.
pub(crate) fn spawn(arguments: &[OsString], inheritance: Inheritance) -> Result<Spawned, Error> {
    let (mut lifeline, theirs) = UnixStream::pair().map_err(host("create a socket pair"))?;
    // Before it is there: to be woken, it would take the processor away from what its caller has to do next.
    let words = &inheritance.words;
    let said =
        send(lifeline.as_raw_fd(), words, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).unwrap_or(0);
    let mut given = vec![(OwnedFd::from(theirs), LIFELINE_FD)];
    if let Some(terminal) = inheritance.terminal {
        for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            given.push((terminal.try_clone().map_err(host("keep the terminal"))?, stream));
        }
    }
    let folder = inheritance.container.is_some().then_some(c"/");
    if let Some((control, ended)) = inheritance.container {
        given.extend([(control, CONTROL_FD), (ended, ENDED_FD)]);
    }
    let first_free = given.iter().map(|(_, place)| *place).max().unwrap_or(LIFELINE_FD) + 1;
    // Moved up, out of the way of where they are going.
    let given = given.into_iter().map(|(fd, place)| Ok((move_up(&fd)?, place)));
    let given: Vec<(OwnedFd, RawFd)> = given.collect::<Result<_, Error>>()?;
    let places: Vec<(RawFd, RawFd)> = given.iter().map(|(fd, place)| (fd.as_raw_fd(), *place)).collect();

    let arguments = arguments.iter().map(|argument| argument.as_bytes());
    let arguments = std::iter::once(SANDBOX_NAME.as_bytes()).chain(arguments).map(CString::new);
    let arguments: Result<Vec<_>, _> = arguments.collect();
    let arguments = arguments.map_err(|error| host("start the sandbox process")(error.into()))?;
    let pointers: Vec<_> =
        arguments.iter().map(|argument| argument.as_ptr()).chain([std::ptr::null()]).collect();
    // What it took to get here is neither kept nor copied.
    heap::trim();
    // A child in another cgroup would be let run first, and its caller has to ask for its limits before: it takes a grace period of the
    // host's until they are in force.
    let hurries = policy() == libc::SCHED_OTHER;
    if hurries {
        set_policy(libc::SCHED_BATCH);
    }
    let pid = match fork(libc::CLONE_NEWPID, inheritance.cgroup.as_ref()) {
        // No privilege for it, none are left, or there is no such thing.
        Err(Errno::EPERM | Errno::ENOSPC | Errno::EINVAL | Errno::ENOSYS) => fork(0, None),
        result => result,
    };
    // In both.
    if hurries {
        set_policy(libc::SCHED_OTHER);
    }
    let pid = pid.map_err(errno("start the sandbox process"))?;
    if pid == 0 {
        become_sandbox(&pointers, &places, first_free, folder, inheritance.network.as_ref());
    }
    // What was too long. A sandbox process that dies at once is told by its status, not by this.
    let _ = lifeline.write_all(words.get(said..).unwrap_or_default());
    Ok(Spawned { child: Child { pid, status: None }, lifeline })
}

/// The same at a place that nothing is moved to.
fn move_up(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    let moved = fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(ENDED_FD + 1))
        .map_err(errno("duplicate a descriptor"))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// This process's scheduling policy.
fn policy() -> libc::c_int {
    // SAFETY: asks about this process; touches no memory.
    unsafe { libc::sched_getscheduler(0) }
}

/// Sets it. That cannot fail between the two policies without privileges, and nothing is lost if it does.
fn set_policy(policy: libc::c_int) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure is read, and lives until then. It is a system call only, as is allowed after a fork.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
}

/// Makes a child that goes on here, as `fork` does, in new namespaces, and in a cgroup where the kernel lets it (Linux 5.7, cgroups v2);
/// 0 in the child.
fn fork(namespaces: libc::c_int, cgroup: Option<&OwnedFd>) -> nix::Result<libc::pid_t> {
    if let Some(cgroup) = cgroup {
        let arguments = libc::clone_args {
            flags: u64::from(namespaces.cast_unsigned()) | CLONE_INTO_CGROUP,
            exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
            cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
            // SAFETY: a structure of integers, for which zero means none.
            ..unsafe { std::mem::zeroed() }
        };
        // SAFETY: as below; the structure is read, and lives until then.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
        if let Ok(pid) = Errno::result(pid) {
            return libc::pid_t::try_from(pid).map_err(|_| Errno::EOVERFLOW);
        }
    }
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: without memory in common, the child gets a copy of this process and its only thread, on the same stack; it calls nothing
    // but what is allowed after a fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    libc::pid_t::try_from(Errno::result(pid)?).map_err(|_| Errno::EOVERFLOW)
}

/// What the child does: makes system calls only, and returns in no case.
fn become_sandbox(
    arguments: &[*const libc::c_char],
    places: &[(RawFd, RawFd)],
    first_free: RawFd,
    folder: Option<&CStr>,
    network: Option<&OwnedFd>,
) -> ! {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: none of these calls takes a lock or allocates; the pointers are to strings that the parent made, in an array that ends with
    // a null pointer; the environment is the parent's, and has only this thread. What is at the places is not used again.
    unsafe {
        if let Some(network) = network {
            // If that fails, it makes one of its own.
            let _ = libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET);
        }
        let placed = places.iter().all(|(from, to)| libc::dup2(*from, *to) >= 0);
        let moved = folder.is_none_or(|folder| libc::chdir(folder.as_ptr()) == 0);
        // What the caller of `mote` has left open is not for a sandbox process: somebody may wait for its end.
        let closed = libc::syscall(libc::SYS_close_range, first_free.cast_unsigned(), libc::c_uint::MAX, 0);
        if placed && moved && closed == 0 {
            libc::execve(OURSELVES.as_ptr(), arguments.as_ptr(), environ);
        }
        libc::_exit(NOT_STARTED)
    }
}
