//! What the guest knows: a node for every file that it has looked up and not forgotten.
//!
//! A node is a number for the guest, and for us an identity (device and inode number) and a *place*: a name in the folder of
//! another node. Most nodes are no more than that. A descriptor is held only where a place is not enough: for folders that names
//! were looked up in lately, for files that are open, and for files that the guest has removed but still uses. So a guest
//! that looks at a million files costs memory, of which there is a limit, and no descriptors.
//!
//! A place is a hint that the host may invalidate at any time: whatever is found there counts only if it is the file that the
//! node stands for. If not, the guest is told that its node is stale, and looks the name up again.

mod find;
mod version;

use std::{
    collections::{HashMap, VecDeque},
    ffi::{CStr, CString},
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::errno::Errno;

use self::find::open_same;
pub(super) use self::version::Version;
use super::{
    abi,
    host::{self, Result, Stat},
};

/// How many folders keep a descriptor after they were used, at most.
const FOLDERS: usize = 512;
/// How many removed files that the guest still knows keep one, at most.
const REMOVED: usize = 1024;

/// What makes a file the same file. The share belongs to it: a folder that is shared twice has two nodes, because one share may be
/// read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    share: usize,
    device: u64,
    mount: u64,
    number: u64,
    /// A number that was used again for another kind of file.
    kind: u32,
}

impl Identity {
    fn new(share: usize, stat: &Stat) -> Self {
        let raw = stat.raw();
        let (device, mount) = (stat.device(), raw.stx_mnt_id);
        Self { share, device, mount, number: raw.stx_ino, kind: stat.kind() }
    }
}

/// Where a file was last seen.
#[derive(Debug)]
struct Place {
    folder: u64,
    name: CString,
}

#[derive(Debug)]
struct Node {
    identity: Identity,
    /// How often the guest has got the number: it will take it back as often.
    lookups: u64,
    /// How many nodes have their place in this one.
    inhabitants: usize,
    place: Option<Place>,
    held: Option<Arc<OwnedFd>>,
    /// Used since the clock's hand came by; see [`Nodes::keep_folder`].
    recent: bool,
    /// Removed by the guest: `held` is all that is left of it, and counted.
    removed: bool,
    /// The file as the guest opened it last, while it is open.
    open: Option<Arc<File>>,
    handles: usize,
    /// How the file was when the guest opened it last.
    version: Option<Version>,
}

/// The guest's nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    by_number: HashMap<u64, Node>,
    by_identity: HashMap<Identity, u64>,
    next: u64,
    limit: usize,
    /// Folders that keep a descriptor, a clock.
    folders: VecDeque<u64>,
    max_folders: usize,
    removed: usize,
    max_removed: usize,
}

impl Nodes {
    /// No nodes, and room for `limit` of them. Folders, and removed files, keep at most `held` descriptors each.
    pub(super) fn new(limit: usize, held: usize) -> Self {
        Self {
            by_number: HashMap::new(),
            by_identity: HashMap::new(),
            next: abi::ROOT + 1,
            limit,
            folders: VecDeque::new(),
            max_folders: held.clamp(1, FOLDERS),
            removed: 0,
            max_removed: held.min(REMOVED),
        }
    }

    /// Forgets everything the guest knew. Numbers are not used again.
    pub(super) fn clear(&mut self) {
        self.by_number.clear();
        self.by_identity.clear();
        self.folders.clear();
        self.removed = 0;
    }

    /// Adds what a share shares. It stays until [`clear`](Self::clear).
    pub(super) fn add_root(&mut self, share: usize, fd: Arc<OwnedFd>, stat: &Stat) -> u64 {
        let number = self.add(Identity::new(share, stat), None);
        if let Some(node) = self.by_number.get_mut(&number) {
            node.held = Some(fd);
            node.lookups = 1;
        }
        number
    }

    fn add(&mut self, identity: Identity, place: Option<Place>) -> u64 {
        let number = self.next;
        self.next += 1;
        if let Some(folder) = place.as_ref().and_then(|place| self.by_number.get_mut(&place.folder)) {
            folder.inhabitants += 1;
        }
        let node = Node {
            identity,
            lookups: 0,
            inhabitants: 0,
            place,
            held: None,
            recent: false,
            removed: false,
            open: None,
            handles: 0,
            version: None,
        };
        self.by_number.insert(number, node);
        self.by_identity.insert(identity, number);
        number
    }

    fn node(&self, number: u64) -> Result<&Node> {
        self.by_number.get(&number).ok_or(Errno::ESTALE)
    }

    /// The share that a node belongs to.
    pub(super) fn share(&self, number: u64) -> Result<usize> {
        Ok(self.node(number)?.identity.share)
    }

    /// `S_IFMT` bits.
    pub(super) fn kind(&self, number: u64) -> Result<u32> {
        Ok(self.node(number)?.identity.kind)
    }

    /// The device that a node's file lies on.
    pub(super) fn device(&self, number: u64) -> Result<u64> {
        Ok(self.node(number)?.identity.device)
    }

    /// The guest gets the number of what was found under a name.
    ///
    /// # Errors
    /// `ENFILE` if the guest knows as many files as it can.
    pub(super) fn look_up(&mut self, folder: u64, name: &CStr, stat: &Stat) -> Result<u64> {
        let identity = Identity::new(self.share(folder)?, stat);
        let number = match self.by_identity.get(&identity) {
            Some(number) => {
                let number = *number;
                self.move_to(number, folder, name);
                number
            }
            None if self.by_number.len() >= self.limit => return Err(Errno::ENFILE),
            None => self.add(identity, Some(Place { folder, name: name.into() })),
        };
        if let Some(node) = self.by_number.get_mut(&number) {
            node.lookups = node.lookups.saturating_add(1);
        }
        Ok(number)
    }

    /// The guest knows a file that has no name, and holds it open.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up); also if there are too many of its kind.
    pub(super) fn add_unnamed(&mut self, share: usize, file: &File) -> Result<(u64, Stat)> {
        if self.by_number.len() >= self.limit || self.removed >= self.max_removed {
            return Err(Errno::ENFILE);
        }
        let stat = host::stat(file.as_fd())?;
        let number = self.add(Identity::new(share, &stat), None);
        let held = host::reopen_path(file.as_fd());
        if let Some(node) = self.by_number.get_mut(&number) {
            node.lookups = 1;
            node.removed = true;
            self.removed += 1;
            node.held = held.ok().map(Arc::new);
        }
        Ok((number, stat))
    }

    /// A file has this name now; whichever it had before is none of ours.
    fn move_to(&mut self, number: u64, folder: u64, name: &CStr) {
        let Some(node) = self.by_number.get_mut(&number) else { return };
        if node.place.as_ref().is_some_and(|place| place.folder == folder && *place.name == *name) {
            return;
        }
        // What a share shares has no name in any of its folders.
        if node.place.is_none() && !node.removed {
            return;
        }
        if std::mem::take(&mut node.removed) {
            self.removed -= 1;
            node.held = None;
        }
        let old = node.place.replace(Place { folder, name: name.into() });
        if let Some(folder) = self.by_number.get_mut(&folder) {
            folder.inhabitants += 1;
        }
        if let Some(old) = old {
            self.leave(old.folder);
        }
    }

    /// The guest has given a file this name.
    pub(super) fn renamed(&mut self, folder: u64, name: &CStr) {
        // What has gone meanwhile, or cannot be found, will be looked up again.
        if let Ok(Some((number, _))) = self.known(folder, name) {
            self.move_to(number, folder, name);
        }
    }

    /// Has the guest remove a name with `remove`, which is given the folder. If it knows the file, it may go on using it: a
    /// descriptor is kept.
    pub(super) fn remove(
        &mut self,
        folder: u64,
        name: &CStr,
        remove: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<()> {
        let fd = self.folder(folder)?;
        let kept = match self.known(folder, name)? {
            Some((number, identity)) => self.keep_removed(number, fd.as_fd(), name, identity)?,
            None => None,
        };
        let result = remove(fd.as_fd());
        if let (Err(_), Some(number)) = (&result, kept) {
            self.not_removed(number);
        }
        result
    }

    /// The node of the file that has a name, if the guest knows it.
    fn known(&mut self, folder: u64, name: &CStr) -> Result<Option<(u64, Identity)>> {
        let share = self.share(folder)?;
        let identity = match host::stat_at(self.folder(folder)?.as_fd(), name) {
            Ok(stat) => Identity::new(share, &stat),
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(self.by_identity.get(&identity).map(|number| (*number, identity)))
    }

    /// Returns the node if it was not kept before.
    fn keep_removed(
        &mut self,
        number: u64,
        folder: BorrowedFd<'_>,
        name: &CStr,
        identity: Identity,
    ) -> Result<Option<u64>> {
        let Some(node) = self.by_number.get_mut(&number) else { return Ok(None) };
        // Beyond the limit, what the guest uses after its end is stale.
        if node.place.is_none() || node.removed || self.removed >= self.max_removed {
            return Ok(None);
        }
        if node.held.is_none() {
            match open_same(folder, name, identity) {
                Ok(held) => node.held = Some(Arc::new(held)),
                Err(Errno::ESTALE) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        node.removed = true;
        self.removed += 1;
        Ok(Some(number))
    }

    fn not_removed(&mut self, number: u64) {
        if let Some(node) = self.by_number.get_mut(&number)
            && std::mem::take(&mut node.removed)
        {
            self.removed -= 1;
            // A folder's is opened again when it is needed.
            node.held = None;
        }
    }

    /// The guest takes a number back as often as it says.
    pub(super) fn forget(&mut self, number: u64, count: u64) {
        let Some(node) = self.by_number.get_mut(&number) else { return };
        // What a share shares has no place, and was there before the guest asked.
        if node.place.is_none() && !node.removed {
            return;
        }
        node.lookups = node.lookups.saturating_sub(count);
        self.drop_unused(number);
    }

    /// A node that has its place in this one is gone.
    fn leave(&mut self, folder: u64) {
        if let Some(node) = self.by_number.get_mut(&folder) {
            node.inhabitants = node.inhabitants.saturating_sub(1);
            self.drop_unused(folder);
        }
    }

    /// Drops a node that nobody knows any more, and then perhaps the folder that it was in.
    fn drop_unused(&mut self, number: u64) {
        let mut next = Some(number);
        while let Some(number) = next.take() {
            let Some(node) = self.by_number.get(&number) else { return };
            if node.lookups > 0 || node.inhabitants > 0 || node.handles > 0 {
                return;
            }
            let Some(node) = self.by_number.remove(&number) else { return };
            if self.by_identity.get(&node.identity) == Some(&number) {
                self.by_identity.remove(&node.identity);
            }
            if node.removed {
                self.removed -= 1;
            }
            next = node.place.map(|place| place.folder);
            if let Some(folder) = next.and_then(|folder| self.by_number.get_mut(&folder)) {
                folder.inhabitants = folder.inhabitants.saturating_sub(1);
            }
        }
    }

    /// The guest has opened a file.
    pub(super) fn opened(&mut self, number: u64, file: Option<&Arc<File>>) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.handles += 1;
            if let Some(file) = file {
                node.open = Some(Arc::clone(file));
            }
        }
    }

    /// Whether a file that the guest opens has not been changed since it opened it last, so that what it remembers of it is true.
    pub(super) fn is_as_before(&mut self, number: u64, version: Option<Version>) -> bool {
        let Some(node) = self.by_number.get_mut(&number) else { return false };
        let before = std::mem::replace(&mut node.version, version);
        before.is_some() && before == version
    }

    /// The guest has closed a file.
    pub(super) fn closed(&mut self, number: u64) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.handles = node.handles.saturating_sub(1);
            if node.handles == 0 {
                node.open = None;
            }
            self.drop_unused(number);
        }
    }
}
