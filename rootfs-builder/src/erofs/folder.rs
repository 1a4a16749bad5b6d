//! The content of folders: blocks that each have entries in front and their names behind, sorted by name.

use std::io;

use super::{BLOCK, Numbers};
use crate::tree::{Kind, NodeId, Tree};

/// The length of an entry without its name: inode number, offset of the name, type, a spare byte.
const ENTRY: usize = 12;

/// The entries with `.` and `..` among them, by name.
fn names(tree: &Tree, id: NodeId, parent: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
    let mut own = [(&b"."[..], id), (&b".."[..], parent)].into_iter().peekable();
    let mut entries = tree.entries(id).peekable();
    std::iter::from_fn(move || match (own.peek(), entries.peek()) {
        (Some((dots, _)), Some((name, _))) if name < dots => entries.next(),
        (Some(_), _) => own.next(),
        (None, _) => entries.next(),
    })
}

/// The length of a folder's content in bytes. The last block counts as far as it is used.
pub(super) fn size(tree: &Tree, id: NodeId) -> u64 {
    let (mut full, mut used) = (0_u64, 0);
    for (name, _) in names(tree, id, id) {
        let need = ENTRY + name.len();
        if used + need > BLOCK {
            full += 1;
            used = 0;
        }
        used += need;
    }
    full * BLOCK as u64 + used as u64
}

/// Calls `write` with one block after the other, each filled up with zeros.
pub(super) fn blocks(
    tree: &Tree,
    id: NodeId,
    parent: NodeId,
    numbers: &Numbers,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut entries = Vec::with_capacity(BLOCK);
    let mut text = Vec::with_capacity(BLOCK);
    let mut group: Vec<(&[u8], NodeId)> = Vec::new();
    let mut used = 0;
    let mut flush = |group: &mut Vec<(&[u8], NodeId)>| {
        entries.clear();
        text.clear();
        let names_start = group.len() * ENTRY;
        for (name, node) in group.drain(..) {
            let offset = u16::try_from(names_start + text.len()).unwrap_or(u16::MAX);
            entries.extend_from_slice(&numbers.of(node).to_le_bytes());
            entries.extend_from_slice(&offset.to_le_bytes());
            entries.extend_from_slice(&[file_type(tree, node), 0]);
            text.extend_from_slice(name);
        }
        entries.extend_from_slice(&text);
        entries.resize(BLOCK, 0);
        write(&entries)
    };
    for (name, node) in names(tree, id, parent) {
        let need = ENTRY + name.len();
        if used + need > BLOCK {
            flush(&mut group)?;
            used = 0;
        }
        used += need;
        group.push((name, node));
    }
    flush(&mut group)
}

/// The kernel's `FT_*`.
fn file_type(tree: &Tree, id: NodeId) -> u8 {
    match tree.node(id).kind {
        Kind::File(_) => 1,
        Kind::Folder(_) => 2,
        Kind::CharDevice(..) => 3,
        Kind::BlockDevice(..) => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}
