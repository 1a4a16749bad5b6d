//! From a node to its file on the host, by its place: down the folders from one that is open.

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::errno::Errno;

use super::{Identity, Nodes};
use crate::virtio::fs::host::{self, Result, Stat};

/// How many folders may lie between a node and one whose descriptor is held. Deeper ones are out of reach.
const DEPTH: usize = 2048;

/// A file that is known by a descriptor of its own, or by one of its folder.
enum Found<'a> {
    Held(BorrowedFd<'a>),
    Named(Arc<OwnedFd>, &'a CStr),
}

impl Nodes {
    /// What a node's file looks like now.
    pub(in crate::virtio::fs) fn stat(&mut self, number: u64) -> Result<Stat> {
        let identity = self.node(number)?.identity;
        let stat = match self.find(number)? {
            Found::Held(fd) => host::stat(fd)?,
            Found::Named(folder, name) => host::stat_at(folder.as_fd(), name).map_err(stale)?,
        };
        if Identity::new(identity.share, &stat) == identity { Ok(stat) } else { Err(Errno::ESTALE) }
    }

    /// A descriptor that names a node's file.
    pub(in crate::virtio::fs) fn path(&mut self, number: u64) -> Result<Arc<OwnedFd>> {
        let identity = self.node(number)?.identity;
        if identity.kind == nix::libc::S_IFDIR {
            return self.folder(number);
        }
        let node = self.node(number)?;
        if let Some(held) = &node.held {
            return Ok(Arc::clone(held));
        }
        let fd = match self.find(number)? {
            Found::Held(fd) => host::reopen_path(fd)?,
            Found::Named(folder, name) => open_same(folder.as_fd(), name, identity)?,
        };
        Ok(Arc::new(fd))
    }

    fn find(&mut self, number: u64) -> Result<Found<'_>> {
        let node = self.node(number)?;
        if node.held.is_none() && node.open.is_none() {
            let folder = node.place.as_ref().ok_or(Errno::ESTALE)?.folder;
            let folder = self.folder(folder)?;
            let place = self.node(number)?.place.as_ref().ok_or(Errno::ESTALE)?;
            return Ok(Found::Named(folder, &place.name));
        }
        let node = self.node(number)?;
        match (&node.held, &node.open) {
            (Some(held), _) => Ok(Found::Held(held.as_fd())),
            (None, Some(file)) => Ok(Found::Held(file.as_fd())),
            (None, None) => Err(Errno::ESTALE),
        }
    }

    /// A descriptor that names a node's folder.
    ///
    /// # Errors
    /// `ENOTDIR` if it is none, `ESTALE` if it is no longer where it was.
    pub(in crate::virtio::fs) fn folder(&mut self, number: u64) -> Result<Arc<OwnedFd>> {
        // From the folder upwards to one that is open …
        let mut way = Vec::new();
        let mut at = number;
        let mut fd = loop {
            let node = self.by_number.get_mut(&at).ok_or(Errno::ESTALE)?;
            if node.identity.kind != nix::libc::S_IFDIR {
                return Err(Errno::ENOTDIR);
            }
            node.recent = true;
            if let Some(held) = &node.held {
                break Arc::clone(held);
            }
            // The host may have moved folders so that the places that we know form a circle.
            if way.len() == DEPTH {
                return Err(Errno::ELOOP);
            }
            way.push(at);
            at = node.place.as_ref().ok_or(Errno::ESTALE)?.folder;
        };
        // … and down again.
        for at in way.into_iter().rev() {
            let node = self.node(at)?;
            let place = node.place.as_ref().ok_or(Errno::ESTALE)?;
            fd = Arc::new(open_same(fd.as_fd(), &place.name, node.identity)?);
            self.keep_folder(at, &fd);
        }
        Ok(fd)
    }

    /// Keeps a folder's descriptor, in place of that of a folder that was not used for long.
    fn keep_folder(&mut self, number: u64, fd: &Arc<OwnedFd>) {
        let mut turns = self.folders.len();
        while self.folders.len() >= self.max_folders
            && let Some(oldest) = self.folders.pop_front()
        {
            match self.by_number.get_mut(&oldest) {
                Some(node) if node.recent && turns > 0 => {
                    node.recent = false;
                    self.folders.push_back(oldest);
                }
                Some(node) if !node.removed => node.held = None,
                _ => {}
            }
            turns = turns.saturating_sub(1);
        }
        if let Some(node) = self.by_number.get_mut(&number) {
            node.held = Some(Arc::clone(fd));
            node.recent = true;
            self.folders.push_back(number);
        }
    }
}

/// Opens what a name stands for, if that is the file with this identity.
pub(super) fn open_same(folder: BorrowedFd<'_>, name: &CStr, identity: Identity) -> Result<OwnedFd> {
    let fd = host::open_path(folder, name).map_err(stale)?;
    let stat = host::stat(fd.as_fd())?;
    if Identity::new(identity.share, &stat) == identity { Ok(fd) } else { Err(Errno::ESTALE) }
}

/// A name that is gone says that the node was somewhere else, not that the guest asked for nothing.
fn stale(error: Errno) -> Errno {
    match error {
        Errno::ENOENT | Errno::ENOTDIR => Errno::ESTALE,
        error => error,
    }
}
