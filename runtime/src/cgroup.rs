//! The cgroup of a sandbox: what it may use of the host, however the guest behaves.
//!
//! The caller makes it, has the sandbox process born in it, and leaves a process behind that removes it afterwards. Should that process be
//! killed, the next caller removes it, by its name, whose caller is gone.
//!
//! Cgroups v2 have one tree for everything. Version 1 has one for each controller; there, the process is moved into each.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::{
        fd::{BorrowedFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::ForkResult,
};

/// Where hosts mount cgroups.
const TREE: &str = "/sys/fs/cgroup";
/// What the names of ours begin with; the process id of the caller follows.
const PREFIX: &str = "mote-";
/// The period of CPU time quotas, in microseconds.
const PERIOD: u64 = 100_000;

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Processes and threads.
    pub(crate) pids: u64,
    /// CPUs.
    pub(crate) cpus: u64,
}

/// A cgroup of ours. Dropping it removes it: its processes must be gone.
#[derive(Debug)]
pub(crate) struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes a cgroup with `limits`, and removes those whose callers are gone. If this user cannot have one on this host, says why.
    ///
    /// # Errors
    /// Root cannot have one.
    pub(crate) fn create(limits: Limits) -> io::Result<Result<Self, String>> {
        Self::create_in(Path::new(TREE), limits, std::process::id())
    }

    fn create_in(tree: &Path, limits: Limits, caller: u32) -> io::Result<Result<Self, String>> {
        let mut cgroup = Self { folders: Vec::new() };
        let name = format!("{PREFIX}{caller}");
        let result = if tree.join("cgroup.controllers").exists() {
            cgroup.fill_unified(tree, &name, limits)
        } else {
            cgroup.fill_separate(tree, &name, limits)
        };
        match result {
            Ok(()) if cgroup.folders.is_empty() => Ok(Err(format!("{} has no controllers", tree.display()))),
            Ok(()) => Ok(Ok(cgroup)),
            Err(error) if is_not_for_us(&error) => Ok(Err(format!("{}: {error}", tree.display()))),
            Err(error) => Err(error),
        }
    }

    fn fill_unified(&mut self, tree: &Path, name: &str, limits: Limits) -> io::Result<()> {
        let enabled = fs::read_to_string(tree.join("cgroup.subtree_control"))?;
        for controller in ["cpu", "memory", "pids"] {
            if !enabled.split_whitespace().any(|other| other == controller) {
                write(&tree.join("cgroup.subtree_control"), &format!("+{controller}"))?;
            }
        }
        let folder = self.make(tree, name)?;
        write(&folder.join("memory.max"), &limits.memory.to_string())?;
        write(&folder.join("pids.max"), &limits.pids.to_string())?;
        write(&folder.join("cpu.max"), &format!("{} {PERIOD}", limits.cpus * PERIOD))
    }

    fn fill_separate(&mut self, tree: &Path, name: &str, limits: Limits) -> io::Result<()> {
        let quota = (limits.cpus * PERIOD).to_string();
        let (memory, pids) = (limits.memory.to_string(), limits.pids.to_string());
        for (controller, file, value) in [
            ("memory", "memory.limit_in_bytes", &memory),
            ("pids", "pids.max", &pids),
            ("cpu", "cpu.cfs_quota_us", &quota),
        ] {
            let root = tree.join(controller);
            // What the host's kernel has not, or does not have mounted, limits nothing.
            if !root.join(file).exists() && !root.join("cgroup.procs").exists() {
                continue;
            }
            let folder = self.make(&root, name)?;
            if controller == "cpu" {
                write(&folder.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
            }
            write(&folder.join(file), value)?;
        }
        Ok(())
    }

    fn make(&mut self, tree: &Path, name: &str) -> io::Result<PathBuf> {
        sweep(tree);
        let folder = tree.join(name);
        match fs::create_dir(&folder) {
            Ok(()) => {}
            // Of a caller that had this process id before, and whose sandbox is gone: it is removed, not used.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir(&folder)?;
                fs::create_dir(&folder)?;
            }
            Err(error) => return Err(error),
        }
        self.folders.push(folder.clone());
        Ok(folder)
    }

    /// Where a process can be born in it: with cgroups v2 only.
    pub(crate) fn cradle(&self) -> Option<OwnedFd> {
        let folder = self.folders.first().filter(|folder| folder.join("cgroup.events").exists())?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        OpenOptions::new().read(true).custom_flags(flags).open(folder).ok().map(OwnedFd::from)
    }

    /// Moves a process in. This takes a grace period of the host's kernel, and whoever moves another one meanwhile, as KVM does, waits
    /// for the same: so it is worth doing for one that was born here, too.
    pub(crate) fn take_in(&self, pid: u32) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| write(&folder.join("cgroup.procs"), &pid.to_string()))
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

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Where that fails, the next sandbox does it.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Removes the cgroups of callers that are gone. One with processes in it cannot be removed.
fn sweep(tree: &Path) {
    for entry in fs::read_dir(tree).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let caller = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if caller.is_some_and(|caller| !Path::new("/proc").join(caller.to_string()).exists()) {
            // Somebody else may be sweeping, too.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Files of a cgroup are there already; nothing is ever made or followed.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(told)?;
    file.write_all(value.as_bytes()).map_err(told)
}

/// Whether an error means that cgroups are not this user's to make, and not that something went wrong.
fn is_not_for_us(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    // Busy: the tree's root is a container's, with processes in it.
    matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}
