//! A root file system in memory: names and metadata of every file, and where its content lies; no content itself.
//!
//! Layers are applied to it one after the other ([`crate::layer`]), or a folder is read into it; then an image is
//! written from it ([`crate::erofs`]). Paths are resolved the way a process whose root is this tree would see them:
//! symbolic links lead to places in the tree, and `..` of the root is the root. So there is no path that leads out.
//!
//! Memory: about 150 bytes a file, plus its extended attributes.

mod path;

use std::collections::BTreeMap;

pub use path::PathError;

/// A file of any kind, by its place in the tree's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// The root folder.
pub const ROOT: NodeId = NodeId(0);

/// Where the content of a regular file lies; [`crate::layer::Contents`] gives the fields their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Content {
    /// The file's length in bytes.
    pub size: u64,
    /// Where its whole blocks start, in blocks.
    pub block: u32,
    /// Where the rest, if it is kept apart, starts, in bytes.
    pub tail: u64,
}

/// What a file is.
#[derive(Debug)]
pub enum Kind {
    /// A folder: its entries by name.
    Folder(BTreeMap<Box<[u8]>, Entry>),
    /// A regular file.
    File(Content),
    /// A symbolic link: its target, 1 to 4095 bytes without a NUL.
    Symlink(Box<[u8]>),
    /// A character device: major (12 bits) and minor (20 bits).
    CharDevice(u32, u32),
    /// A block device: the same.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The file that it names.
    pub node: NodeId,
    /// The layer that made it, or something below it, last.
    layer: u32,
}

/// The full name and the value of an extended attribute.
pub type Attribute = (Box<[u8]>, Box<[u8]>);
/// Extended attributes, sorted by name.
pub type Attributes = Box<[Attribute]>;

/// Everything about a file but its kind and its names.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Permissions, set-id and sticky bits: `st_mode & 0o7777`.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// When the content changed last: seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds, below a thousand million.
    pub mtime_nsec: u32,
    /// Extended attributes.
    pub attributes: Attributes,
}

/// A file of any kind.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Everything else about it.
    pub metadata: Metadata,
    /// How many names a file has that is no folder; 0 once the last one is gone.
    pub links: u32,
}

/// The tree. See the module's description.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// The layer that is being applied.
    layer: u32,
    /// What was removed and not yet handed out by [`Tree::take_discarded`].
    discarded: Vec<Content>,
}

/// What a folder that nobody described looks like.
const IMPLIED: u16 = 0o755;

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty root folder that belongs to root.
    #[must_use]
    pub fn new() -> Self {
        let root = Node {
            kind: Kind::Folder(BTreeMap::new()),
            metadata: Metadata { mode: IMPLIED, ..Metadata::default() },
            links: 1,
        };
        Self { nodes: vec![root], layer: 0, discarded: Vec::new() }
    }

    /// Starts the next layer: what is there now is below it.
    pub fn next_layer(&mut self) {
        self.layer = self.layer.saturating_add(1);
    }

    /// A file.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        // Ids come from this tree only, and its table never shrinks.
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// How many files the table has, removed ones included: every id is below this.
    #[must_use]
    pub fn table_len(&self) -> usize {
        self.nodes.len()
    }

    /// The id as an index below [`Tree::table_len`].
    #[must_use]
    pub fn index(id: NodeId) -> usize {
        id.0 as usize
    }

    /// The entries of a folder; none for anything else.
    pub fn entries(&self, id: NodeId) -> impl DoubleEndedIterator<Item = (&[u8], NodeId)> {
        let entries = match &self.node(id).kind {
            Kind::Folder(entries) => Some(entries),
            _ => None,
        };
        entries.into_iter().flatten().map(|(name, entry)| (&**name, entry.node))
    }

    /// The file called `name` in `folder`.
    #[must_use]
    pub fn get(&self, folder: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(folder).kind {
            Kind::Folder(entries) => entries.get(name).map(|entry| entry.node),
            _ => None,
        }
    }

    fn is_folder(&self, id: NodeId) -> bool {
        matches!(self.node(id).kind, Kind::Folder(_))
    }

    /// Changes what is known of a folder; its entries stay.
    pub fn describe(&mut self, id: NodeId, metadata: Metadata) {
        self.node_mut(id).metadata = metadata;
    }

    /// Puts a new file into `folder`. Whatever has the name there is gone, unless both are folders: then the entries stay.
    ///
    /// # Errors
    /// [`PathError::TooMany`], beyond 2^32 files.
    pub fn put(
        &mut self,
        folder: NodeId,
        name: &[u8],
        kind: Kind,
        metadata: Metadata,
    ) -> Result<NodeId, PathError> {
        if let Some(there) = self.get(folder, name) {
            if matches!(kind, Kind::Folder(_)) && self.is_folder(there) {
                self.describe(there, metadata);
                self.touch(folder, name);
                return Ok(there);
            }
            self.remove(folder, name);
        }
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| PathError::TooMany)?);
        self.nodes.push(Node { kind, metadata, links: 1 });
        self.enter(folder, name, id);
        Ok(id)
    }

    /// Gives a file that is no folder one more name.
    pub fn link(&mut self, folder: NodeId, name: &[u8], target: NodeId) {
        if self.get(folder, name) == Some(target) {
            self.touch(folder, name);
            return;
        }
        self.node_mut(target).links += 1;
        self.remove(folder, name);
        self.enter(folder, name, target);
    }

    fn enter(&mut self, folder: NodeId, name: &[u8], node: NodeId) {
        let entry = Entry { node, layer: self.layer };
        if let Kind::Folder(entries) = &mut self.node_mut(folder).kind {
            entries.insert(name.into(), entry);
        }
    }

    /// Marks an entry as one of this layer's.
    fn touch(&mut self, folder: NodeId, name: &[u8]) {
        let layer = self.layer;
        if let Kind::Folder(entries) = &mut self.node_mut(folder).kind
            && let Some(entry) = entries.get_mut(name)
        {
            entry.layer = layer;
        }
    }

    /// Removes `name` from `folder`, with everything below it.
    pub fn remove(&mut self, folder: NodeId, name: &[u8]) {
        let removed = match &mut self.node_mut(folder).kind {
            Kind::Folder(entries) => entries.remove(name),
            _ => None,
        };
        let mut pending: Vec<NodeId> = removed.map(|entry| entry.node).into_iter().collect();
        while let Some(id) = pending.pop() {
            pending.extend(self.unlink(id));
        }
    }

    /// Takes a name from a file; the entries of what was a folder are the caller's to unlink.
    fn unlink(&mut self, id: NodeId) -> Vec<NodeId> {
        let node = self.node_mut(id);
        node.links = node.links.saturating_sub(1);
        if node.links > 0 {
            return Vec::new();
        }
        // What is left of it takes no memory but its place in the table.
        let kind = std::mem::replace(&mut node.kind, Kind::Fifo);
        node.metadata = Metadata::default();
        match kind {
            Kind::Folder(entries) => entries.into_values().map(|entry| entry.node).collect(),
            Kind::File(content) => {
                self.discarded.push(content);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Removes what lower layers have put into `folder` (all of it, or only `name`). What this layer has put there stays,
    /// with the folders that lead to it, wherever in the layer it came.
    pub fn white_out(&mut self, folder: NodeId, name: Option<&[u8]>) {
        let layer = self.layer;
        let mut pending = vec![(folder, name.map(Box::<[u8]>::from))];
        while let Some((folder, only)) = pending.pop() {
            let Kind::Folder(entries) = &self.node(folder).kind else { continue };
            let mut lower = Vec::new();
            for (name, entry) in entries {
                if only.as_ref().is_some_and(|only| only != name) {
                    continue;
                }
                if entry.layer < layer {
                    lower.push(name.clone());
                } else if self.is_folder(entry.node) {
                    pending.push((entry.node, None));
                }
            }
            for name in lower {
                self.remove(folder, &name);
            }
        }
    }

    /// The contents that nothing names any more, once each.
    pub fn take_discarded(&mut self) -> Vec<Content> {
        std::mem::take(&mut self.discarded)
    }
}

#[cfg(test)]
mod tests;
