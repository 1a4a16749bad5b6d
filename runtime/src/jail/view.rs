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
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2},
    libc,
    sys::stat::{Mode, mkdirat},
};
use serde::{Deserialize, Serialize};

use super::{credentials, refused, root};
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

/// A view whose parts are at hand: to show it takes no name of the host's.
pub(super) struct Prepared<'v> {
    read_only: bool,
    top: OwnedFd,
    places: Vec<(&'v Path, Part)>,
}

/// What lies at a place.
enum Part {
    /// A file or a folder of the host's.
    Shared { tree: OwnedFd, is_folder: bool },
    /// A file system of the guest's, and what it has for the host.
    Own(Vec<(PathBuf, OwnedFd)>),
}

impl View {
    /// Gathers the parts of the view. The calling process must have a mount namespace of its own, and still see the host's files.
    pub(super) fn prepare(&self, shares: &[Share]) -> Result<Prepared<'_>, Error> {
        let missing = refused("the container's root cannot be shown");
        let first = shares.first().ok_or(Errno::ENOENT).map_err(&missing)?;
        let top = share(first).map_err(missing)?;
        let mut places = Vec::new();
        for place in &self.places {
            match part(place, shares) {
                Ok(part) => places.push((place.target.as_path(), part)),
                Err(error) => not_seen(&place.target, error),
            }
        }
        Ok(Prepared { read_only: self.read_only, top, places })
    }
}

impl Prepared<'_> {
    /// Puts the view on top of the root of the calling process.
    pub(super) fn show(self) -> Result<(), Error> {
        let Self { read_only, top, places } = self;
        root::attach(&top, None).map_err(refused("the container's root cannot be shown"))?;
        let mut protected = Vec::new();
        for (target, part) in places {
            match furnish(&top, target, part) {
                Ok(own) => protected.extend(own),
                Err(error) => not_seen(target, error),
            }
        }
        protected.extend(read_only.then_some(top));
        for mount in &protected {
            root::set_attributes(mount, ATTRIBUTES | libc::MOUNT_ATTR_RDONLY, false)
                .map_err(refused("what is the guest's alone cannot be protected"))?;
        }
        Ok(())
    }
}

fn not_seen(target: &Path, error: Errno) {
    tracing::debug!("{} is not seen from the host: {error}", target.display());
}

/// Opens what lies at a place.
fn part(place: &Place, shares: &[Share]) -> nix::Result<Part> {
    if let Some(source) = place.share.and_then(|index| shares.get(index)) {
        return Ok(Part::Shared { tree: share(source)?, is_folder: source.source.is_dir() });
    }
    let mut files = Vec::new();
    if place.target == Path::new("/proc") {
        // As the host counts processes, whatever this one takes itself for.
        let process = credentials::process_id().ok_or(Errno::ENOENT)?;
        for path in [PathBuf::from(format!("/proc/{process}")), "/proc/stat".into()] {
            let tree = root::open_tree(&path)?;
            files.push((path, tree));
        }
    }
    Ok(Part::Own(files))
}

/// Mounts what is at one place; returns it if it has to become read-only.
fn furnish(top: &OwnedFd, target: &Path, part: Part) -> nix::Result<Option<OwnedFd>> {
    match part {
        Part::Shared { tree, is_folder } => {
            root::attach(&tree, Some(&find(top, target, is_folder)?))?;
            Ok(None)
        }
        Part::Own(files) => {
            let own = root::memory_file_system()?;
            root::attach(&own, Some(&find(top, target, true)?))?;
            for (path, tree) in files {
                let is_folder = path != Path::new("/proc/stat");
                root::attach(&tree, Some(&find(top, &path, is_folder)?))?;
            }
            Ok(Some(own))
        }
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
