//! Inodes: 32 bytes where they can be, else 64, and extended attributes behind them.

use super::{LONGEST_INODE, Plan};
use crate::tree::{Attributes, Kind, Node, NodeId, Tree};

/// The inode's short form.
const COMPACT: usize = 32;
/// The header before the attributes.
const ATTRIBUTES_HEADER: usize = 12;
/// The header before each attribute.
const ATTRIBUTE_HEADER: usize = 4;
/// What may stand behind an inode: its count of 4-byte units has 16 bits.
const MOST_ATTRIBUTES: usize = ATTRIBUTES_HEADER + 4 * (u16::MAX as usize - 1);

/// The beginnings of names that have a number, and that number.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// How the content of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// All of it in blocks.
    Plain = 0,
    /// Its end behind the inode.
    Inline = 2,
}

/// The number of an attribute's prefix, and what is left of its name; `None` for attributes that EROFS has no room for: they belong
/// to file systems of other kinds.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (index, rest) =
        PREFIXES.iter().find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)))?;
    let is_whole = matches!(index, 2 | 3);
    (rest.is_empty() == is_whole && rest.len() <= 255).then_some((index, rest))
}

/// Whether an image can have the attribute.
pub(crate) fn is_attribute(name: &[u8], value: &[u8]) -> bool {
    split(name).is_some() && u16::try_from(value.len()).is_ok()
}

/// Whether an image can have all of these on one file.
pub(crate) fn fit(attributes: &Attributes) -> bool {
    attributes_len(attributes) <= MOST_ATTRIBUTES
}

/// The bytes that attributes take behind an inode.
pub(super) fn attributes_len(attributes: &Attributes) -> usize {
    if attributes.is_empty() {
        return 0;
    }
    let lengths = attributes.iter().filter_map(|(name, value)| {
        let (_, rest) = split(name)?;
        Some((ATTRIBUTE_HEADER + rest.len() + value.len()).next_multiple_of(4))
    });
    ATTRIBUTES_HEADER + lengths.sum::<usize>()
}

/// The length of the inode itself.
pub(super) fn length(tree: &Tree, id: NodeId) -> usize {
    let node = tree.node(id);
    let metadata = &node.metadata;
    let size_fits = match &node.kind {
        // How long a folder is, is not known yet.
        Kind::Folder(_) => false,
        Kind::File(content) => u32::try_from(content.size).is_ok(),
        _ => true,
    };
    let short = (metadata.mtime, metadata.mtime_nsec) == (0, 0)
        && u16::try_from(metadata.uid).is_ok()
        && u16::try_from(metadata.gid).is_ok()
        && u16::try_from(node.links).is_ok()
        && size_fits;
    if short { COMPACT } else { LONGEST_INODE }
}

/// `st_mode`.
fn mode(node: &Node) -> u16 {
    let kind = match node.kind {
        Kind::Fifo => 0o010_000,
        Kind::CharDevice(..) => 0o020_000,
        Kind::Folder(_) => 0o040_000,
        Kind::BlockDevice(..) => 0o060_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Socket => 0o140_000,
    };
    kind | node.metadata.mode & 0o7777
}

/// A device number as the kernel's `new_encode_dev()` has it.
fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// Appends the inode with its attributes. `index` is its place in the image's order.
pub(super) fn write(out: &mut Vec<u8>, tree: &Tree, id: NodeId, plan: &Plan, index: usize) {
    let start = out.len();
    let node = tree.node(id);
    let metadata = &node.metadata;
    let extended = length(tree, id) == LONGEST_INODE;
    let attributes = attributes_len(&metadata.attributes);
    let units = if attributes == 0 { 0 } else { (attributes - ATTRIBUTES_HEADER) / 4 + 1 };
    let place = match node.kind {
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => device(major, minor),
        _ => plan.block,
    };
    let links = match node.kind {
        Kind::Folder(_) => folder_links(tree, id),
        _ => node.links,
    };
    // Counted from 1; only 32-bit programs see it.
    let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
    let low = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    let mut put = |field: &[u8]| out.extend_from_slice(field);
    put(&(u16::from(extended) | (plan.layout as u16) << 1).to_le_bytes());
    put(&low(units));
    put(&mode(node).to_le_bytes());
    if extended {
        put(&[0; 2]);
        put(&plan.size.to_le_bytes());
        put(&place.to_le_bytes());
        put(&number.to_le_bytes());
        put(&metadata.uid.to_le_bytes());
        put(&metadata.gid.to_le_bytes());
        put(&metadata.mtime.to_le_bytes());
        put(&metadata.mtime_nsec.to_le_bytes());
        put(&links.to_le_bytes());
        put(&[0; 16]);
    } else {
        // `length` has seen to it that all of this fits.
        put(&low(links as usize));
        put(&u32::try_from(plan.size).unwrap_or(u32::MAX).to_le_bytes());
        put(&[0; 4]);
        put(&place.to_le_bytes());
        put(&number.to_le_bytes());
        put(&low(metadata.uid as usize));
        put(&low(metadata.gid as usize));
        put(&[0; 4]);
    }
    if attributes > 0 {
        out.extend_from_slice(&[0; ATTRIBUTES_HEADER]);
        for (name, value) in &metadata.attributes {
            let Some((index, rest)) = split(name) else { continue };
            out.extend_from_slice(&[u8::try_from(rest.len()).unwrap_or(u8::MAX), index]);
            out.extend_from_slice(&low(value.len()));
            out.extend_from_slice(rest);
            out.extend_from_slice(value);
            out.resize(start + (out.len() - start).next_multiple_of(4), 0);
        }
    }
}

/// A folder's own name, `.` in it, and `..` in each folder of it.
fn folder_links(tree: &Tree, id: NodeId) -> u32 {
    let folders = tree.entries(id).filter(|(_, child)| matches!(tree.node(*child).kind, Kind::Folder(_)));
    u32::try_from(folders.count()).unwrap_or(u32::MAX).saturating_add(2)
}
