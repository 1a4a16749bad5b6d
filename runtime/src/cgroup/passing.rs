//! The cgroup of a `mote run`, which goes with its sandbox process.
//!
//! The caller makes it, has the sandbox process born in it, and leaves a process behind that removes it afterwards. Should that be killed,
//! the next caller removes the cgroup, by its name, whose caller is gone.

use std::{
    fs, io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::ForkResult,
};

use super::{
    hierarchy::{self, Hierarchy},
    host::{self, HostCgroup},
    limits::Limits,
};

/// Where hosts mount cgroups.
const TREE: &str = "/sys/fs/cgroup";
/// What the names of ours begin with; the process id of the caller follows.
const PREFIX: &str = "mote-";
/// The controllers that are needed. No others: to be moved into each of version 1's costs time.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// A cgroup of ours. Dropping it removes it: its processes must be gone.
#[derive(Debug)]
pub(crate) struct Passing {
    cgroup: HostCgroup,
    /// The folders of other callers' cgroups, as they were when this was made.
    others: Vec<PathBuf>,
}

impl Passing {
    /// Makes a cgroup with `limits`, and removes those whose callers are gone. If this user cannot have one on this host, says why.
    ///
    /// # Errors
    /// Something went wrong that has nothing to do with who this user is.
    pub(crate) fn create(limits: &Limits) -> io::Result<Result<Self, String>> {
        let tree = Path::new(TREE);
        match Self::create_in(tree, limits, std::process::id()) {
            Ok(passing) if passing.cgroup.is_some() => Ok(Ok(passing)),
            Ok(_) => Ok(Err(format!("{} has no controllers", tree.display()))),
            Err(error) if is_not_for_us(&error) => Ok(Err(format!("{}: {error}", tree.display()))),
            Err(error) => Err(error),
        }
    }

    fn create_in(tree: &Path, limits: &Limits, caller: u32) -> io::Result<Self> {
        let hierarchies = if tree.join("cgroup.controllers").exists() {
            hierarchy::enable(tree, &CONTROLLERS)?;
            vec![(tree.to_owned(), Hierarchy::V2)]
        } else {
            // What the host's kernel has not, or does not have mounted, limits nothing.
            let mounted = |name: &&str| tree.join(name).join("cgroup.procs").exists();
            let one = |name: &str| (tree.join(name), Hierarchy::V1(vec![name.to_owned()]));
            CONTROLLERS.into_iter().filter(mounted).map(one).collect()
        };
        let name = PathBuf::from(format!("{PREFIX}{caller}"));
        let mut others = Vec::new();
        for (mount, _) in &hierarchies {
            others = sweep(mount);
            // Of a caller that had this process id before, and whose sandbox is gone: it is removed, not used.
            match fs::remove_dir(mount.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let cgroup = HostCgroup::create_in(hierarchies, &name, limits)?;
        Ok(Self { cgroup, others })
    }

    /// What is found of the sandboxes that ran when this was made: the processes of each, in the cgroup that only they are in.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = Neighbour<'_>> {
        self.others.iter().filter_map(|cgroup| {
            let pid = host::pids(cgroup).into_iter().next()?;
            Some(Neighbour { cgroup, pid })
        })
    }

    /// Where a process can be born in it: with cgroups v2 only.
    pub(crate) fn cradle(&self) -> Option<OwnedFd> {
        self.cgroup.cradle()
    }

    /// Moves a process in. This takes a grace period of the host's kernel, and whoever moves another one meanwhile, as KVM does, waits
    /// for the same: so it is worth doing early, and for one that was born here, too.
    pub(crate) fn take_in(&self, pid: u32) -> io::Result<()> {
        self.cgroup.add(pid)
    }

    /// Removes it as soon as the process in it is gone, and does not wait for that: a child is left behind that does. The caller must
    /// have one thread, and not have waited for the process.
    pub(crate) fn remove_after(self, pid: u32) {
        // SAFETY: the child makes system calls and frees nothing that others have; there is one thread, so no lock is held.
        match unsafe { nix::unistd::fork() } {
            Ok(ForkResult::Child) => {
                // In nobody's session: not killed with the caller's group.
                let _ = nix::unistd::setsid();
                if self.wait_for(pid).is_ok() {
                    drop(self);
                }
                // SAFETY: ends the process without anything of the parent's being done twice.
                unsafe { libc::_exit(0) }
            }
            // It is left to whoever takes over the children of this process. If there is none, the next sandbox removes the cgroup.
            Ok(ForkResult::Parent { .. }) | Err(_) => std::mem::forget(self),
        }
    }

    /// What the child that is left behind does first: lets go of everything else, and waits.
    fn wait_for(&self, pid: u32) -> nix::Result<()> {
        // SAFETY: makes a new descriptor; touches no memory.
        let pidfd = match Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }) {
            // Its end was faster than this.
            Err(Errno::ESRCH) => return Ok(()),
            pidfd => pidfd?,
        };
        let pidfd = RawFd::try_from(pidfd).map_err(|_| Errno::EBADF)?;
        // Nobody who waits for the end of a stream or of a lifeline waits for this process.
        for (first, last) in
            [(0, pidfd.cast_unsigned().wrapping_sub(1)), (pidfd.cast_unsigned() + 1, u32::MAX)]
        {
            // SAFETY: what is closed is not used in this process any more, which ends by `_exit`.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        // SAFETY: the descriptor is open for as long as this process lives.
        let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd) };
        poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], PollTimeout::NONE).map(drop)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Where that fails, the next sandbox does it.
        self.cgroup.remove_empty();
    }
}

/// A process of another caller's sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neighbour<'a> {
    cgroup: &'a Path,
    pub(crate) pid: u32,
}

impl Neighbour<'_> {
    /// Whether the process is still there. What was opened of it before is its own then, and not of one that got its number later.
    pub(crate) fn is_there(self) -> bool {
        host::pids(self.cgroup).contains(&self.pid)
    }
}

/// Removes the cgroups of callers that are gone, and tells those of others. One with processes in it cannot be removed.
fn sweep(tree: &Path) -> Vec<PathBuf> {
    let mut others = Vec::new();
    for entry in fs::read_dir(tree).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let caller = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let Some(caller) = caller else { continue };
        if Path::new("/proc").join(caller.to_string()).exists() {
            others.push(entry.path());
        } else {
            // Somebody else may be sweeping, too.
            let _ = fs::remove_dir(entry.path());
        }
    }
    others
}

/// Whether an error means that cgroups are not this user's to make, and not that something went wrong.
fn is_not_for_us(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    // Busy: the tree's root is a container's, with processes in it.
    matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}
