//! What others find who join the mount namespace of a container's sandbox process.
//!
//! To an engine, that process is the container: it joins its mount namespace to copy files into the container, and to list its
//! processes. What the guest has mounted is out of reach; so the namespace has what both sides share: the container's root, with
//! its volumes where the container has them. Where the guest has a file system of its own there is an empty one that is read-only,
//! so that a copy to there fails instead of going where the container never sees it. `/proc` has one process, this one, as
//! the container has for the host.
//!
//! All of it lies *on top of* the namespace's root, where only those find it who come in from outside: the process itself, and QEMU,
//! stay below with the root that they have.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlink},
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, mkdirat},
};
use serde::{Deserialize, Serialize};

use super::{refused, root};
use crate::{Error, spec::Share};

/// What a container's mounts are, as far as the host is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    /// Whether the root, which is the first share, is read-only to the container.
    pub(crate) read_only: bool,
    /// In the order in which they are mounted.
    pub(crate) places: Vec<Place>,
}

/// A mount of the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Where it is, in the container.
    pub(crate) target: PathBuf,
    /// The share that is there; none for a file system of the guest's.
    pub(crate) share: Option<usize>,
}

const ATTRIBUTES: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

impl View {
    /// Moves the calling process, which has one thread, to a mount namespace that has this view. Without the privilege for it, nothing
    /// is done: nobody can join the namespace of such a process either.
    pub(crate) fn show(&self, shares: &[Share]) -> Result<(), Error> {
        match unshare(CloneFlags::CLONE_NEWNS) {
            Ok(()) => {}
            Err(Errno::EPERM) => return Ok(()),
            Err(error) => return Err(refused("no mount namespace")(error)),
        }
        // What is mounted here must not show on the host, but what the host unmounts must not stay here.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .map_err(refused("its mounts cannot be told from the host's"))?;
        let Some(first) = shares.first() else { return Ok(()) };
        let top = share(first).map_err(refused("the container's root cannot be shown"))?;
        root::attach(&top, None).map_err(refused("the container's root cannot be shown"))?;
        let mut read_only = Vec::new();
        for place in &self.places {
            match self.furnish(&top, place, shares) {
                Ok(own) => read_only.extend(own),
                Err(error) => {
                    tracing::debug!("{} is not seen from the host: {error}", place.target.display())
                }
            }
        }
        read_only.extend(self.read_only.then_some(top));
        for mount in &read_only {
            root::set_attributes(mount, ATTRIBUTES | libc::MOUNT_ATTR_RDONLY, false)
                .map_err(refused("what is the guest's alone cannot be protected"))?;
        }
        Ok(())
    }

    /// Mounts what is at one place; returns it if it has to become read-only.
    fn furnish(&self, top: &OwnedFd, place: &Place, shares: &[Share]) -> nix::Result<Option<OwnedFd>> {
        if let Some(source) = place.share.and_then(|index| shares.get(index)) {
            let is_folder = source.source.is_dir();
            let tree = share(source)?;
            root::attach(&tree, Some(&find(top, &place.target, is_folder)?))?;
            return Ok(None);
        }
        let target = find(top, &place.target, true)?;
        let own = root::memory_file_system()?;
        root::attach(&own, Some(&target))?;
        if place.target == Path::new("/proc") {
            // As the host counts processes, whatever this one takes itself for.
            let process = Path::new("/proc").join(readlink("/proc/self")?);
            for source in [process.as_path(), Path::new("/proc/stat")] {
                let target = find(top, source, source.is_dir())?;
                root::attach(&root::open_tree(source)?, Some(&target))?;
            }
        }
        Ok(Some(own))
    }
}

/// A share, to be mounted somewhere.
fn share(share: &Share) -> nix::Result<OwnedFd> {
    let tree = root::open_tree(&share.source)?;
    let read_only = if share.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    root::set_attributes(&tree, ATTRIBUTES | read_only, true)?;
    Ok(tree)
}

/// Finds a place in the container's root, whatever links there are, and makes it if it is missing, as the guest would.
fn find(top: &OwnedFd, target: &Path, is_folder: bool) -> nix::Result<OwnedFd> {
    let open = |path: &Path| {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        openat2(top, if path.as_os_str().is_empty() { Path::new(".") } else { path }, how)
    };
    match open(target) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Err(Errno::ENOENT) };
    let parent = find(top, parent, true)?;
    if is_folder {
        mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o755))?;
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(parent.as_fd(), name, flags, Mode::from_bits_truncate(0o644))?;
    }
    open(target)
}
