//! A cgroup of the host's, in every hierarchy that has it.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};

use super::{
    hierarchy::{self, Hierarchy, write},
    limits::Limits,
};
use crate::{Error, error::Kind, identity::Identity};

/// How often a cgroup that is not empty is emptied: what is killed may have started something just before.
const MAX_ROUNDS: u32 = 16;

/// How long the last processes of a cgroup may take to go, in milliseconds: longer than taking a large VM apart takes.
const EMPTY_TIMEOUT_MS: u16 = 10_000;

/// The folders of one cgroup, one for each hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostCgroup {
    folders: Vec<Folder>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Folder {
    path: PathBuf,
    hierarchy: Hierarchy,
}

impl HostCgroup {
    /// Makes the cgroup in every hierarchy there is, and sets its limits.
    pub(crate) fn create(name: &Path, limits: &Limits) -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let cgroup = Self::create_in(hierarchy::mounted(&mounts), name, limits).map_err(|error| {
            Error::because(Kind::Host, format!("cannot set up cgroup {}", name.display()), &error)
        })?;
        if let Some(count) =
            cgroup.folders.iter().map(|folder| pids(&folder.path).len()).max().filter(|n| *n > 0)
        {
            // Somebody else's: not ours to remove.
            return Err(Error::new(
                Kind::Container,
                format!("container's cgroup is not empty: {count} process(es) found"),
            ));
        }
        Ok(cgroup)
    }

    /// Makes it in these hierarchies, or in none of them.
    pub(super) fn create_in(
        hierarchies: Vec<(PathBuf, Hierarchy)>,
        name: &Path,
        limits: &Limits,
    ) -> io::Result<Self> {
        let mut cgroup = Self::default();
        for (mount, hierarchy) in hierarchies {
            let path = mount.join(name);
            let made =
                hierarchy::make(&mount, name, &hierarchy).and_then(|()| limits.write(&path, &hierarchy));
            cgroup.folders.push(Folder { path, hierarchy });
            if let Err(error) = made {
                cgroup.remove();
                return Err(error);
            }
        }
        Ok(cgroup)
    }

    /// Changes its limits.
    pub(crate) fn limit(&self, limits: &Limits) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| limits.write(&folder.path, &folder.hierarchy))
    }

    /// Whether there is one at all.
    pub(crate) fn is_some(&self) -> bool {
        !self.folders.is_empty()
    }

    /// Where a process can be born in it: with cgroups v2 only.
    pub(crate) fn cradle(&self) -> Option<OwnedFd> {
        let unified = self.folders.iter().find(|folder| folder.hierarchy.is_v2())?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        OpenOptions::new().read(true).custom_flags(flags).open(&unified.path).ok().map(OwnedFd::from)
    }

    /// Puts a process into it.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        let add = |folder: &Folder| write(&folder.path.join("cgroup.procs"), &pid.to_string());
        self.folders.iter().try_for_each(add)
    }

    /// Removes it, with whatever is left of a sandbox in it.
    pub(crate) fn remove(&self) {
        // Version 2 tells when the last process, also one that is on its way out and not listed any more, has gone from all of them.
        if let Some(folder) = self.folders.iter().find(|folder| folder.hierarchy.is_v2()) {
            pids(&folder.path).into_iter().filter_map(|pid| Identity::of(pid).ok()).for_each(|p| p.kill());
            if let Err(error) = wait_until_empty(&folder.path.join("cgroup.events")) {
                tracing::debug!("cgroup {}: {error}", folder.path.display());
            }
        }
        for folder in &self.folders {
            for _ in 0..MAX_ROUNDS {
                match fs::remove_dir(&folder.path) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if Errno::from_raw(error.raw_os_error().unwrap_or(0)) == Errno::EBUSY => {
                        let left = pids(&folder.path);
                        if left.is_empty() {
                            tracing::warn!("cgroup {} cannot be removed: {error}", folder.path.display());
                            break;
                        }
                        for process in left.into_iter().filter_map(|pid| Identity::of(pid).ok()) {
                            process.kill();
                        }
                    }
                    Err(error) => {
                        tracing::warn!("cgroup {} cannot be removed: {error}", folder.path.display());
                        break;
                    }
                }
            }
        }
    }

    /// Removes it if nobody is in it.
    pub(super) fn remove_empty(&self) {
        for folder in &self.folders {
            let _ = fs::remove_dir(&folder.path);
        }
    }

    /// What a file of the controller's says, in whichever hierarchy it is: version 2's file, or version 1's.
    pub(crate) fn read(&self, controller: &str, v2: &str, v1: &str) -> Option<String> {
        let folder = |folder: &Folder| {
            let file = folder.path.join(folder.hierarchy.either(v2, v1));
            folder.hierarchy.has(controller).then(|| fs::read_to_string(file).ok()).flatten()
        };
        self.folders.iter().find_map(folder)
    }
}

pub(super) fn pids(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Waits until a version 2 cgroup has no processes: not longer than it takes the host's kernel to take a VM apart.
fn wait_until_empty(events: &Path) -> io::Result<()> {
    let file = fs::File::open(events)?;
    let timeout = PollTimeout::from(EMPTY_TIMEOUT_MS);
    loop {
        let mut text = [0; 256];
        let len = file.read_at(&mut text, 0)?;
        if text[..len].windows(11).any(|word| word == b"populated 0") {
            return Ok(());
        }
        if poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}
