//! Reads an uncompressed EROFS image, by the kernel's `fs/erofs/erofs_fs.h`. It shares no code with what is tested.
//!
//! `fsck.erofs --extract` is not enough to compare images with: version 1.5 loses set-id bits and extended attributes.

use std::collections::BTreeMap;
use std::path::Path;

const SUPERBLOCK: usize = 1024;
const EXTENDED: u16 = 1;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;

/// One file of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) inode: u64,
    /// Type and permissions, as in `st_mode`.
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    /// The device number, of a device node.
    pub(crate) device: u64,
    /// The content of a regular file, or the target of a symbolic link.
    pub(crate) content: Vec<u8>,
    pub(crate) attributes: BTreeMap<String, Vec<u8>>,
}

/// Every file in the image at `path`, by its path from the root (which is empty).
pub(crate) fn read(path: &Path) -> BTreeMap<Vec<u8>, Node> {
    let image = Image { bytes: std::fs::read(path).unwrap() };
    assert_eq!(image.number(SUPERBLOCK, 4), 0xE0F5_E1E2);
    let root = image.number(SUPERBLOCK + 14, 2);
    let mut nodes = BTreeMap::new();
    image.tree(root, Vec::new(), &mut nodes);
    nodes
}

struct Image {
    bytes: Vec<u8>,
}

impl Image {
    fn number(&self, offset: usize, length: usize) -> u64 {
        self.bytes[offset..offset + length].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn small(&self, offset: usize, length: usize) -> u32 {
        u32::try_from(self.number(offset, length)).unwrap()
    }

    fn size(&self, offset: usize, length: usize) -> usize {
        usize::try_from(self.number(offset, length)).unwrap()
    }

    fn block_size(&self) -> usize {
        1 << self.bytes[SUPERBLOCK + 12]
    }

    fn tree(&self, id: u64, path: Vec<u8>, nodes: &mut BTreeMap<Vec<u8>, Node>) {
        let (node, data) = self.node(id);
        if node.mode & 0o170_000 == 0o040_000 {
            for block in data.chunks(self.block_size()) {
                for (id, name) in entries(block) {
                    if name != b"." && name != b".." {
                        let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                        self.tree(id, [&path, separator, &name].concat(), nodes);
                    }
                }
            }
        }
        assert_eq!(nodes.insert(path, node), None);
    }

    fn node(&self, id: u64) -> (Node, Vec<u8>) {
        let start = self.size(SUPERBLOCK + 40, 4) * self.block_size() + usize::try_from(id).unwrap() * 32;
        let format = u16::try_from(self.number(start, 2)).unwrap();
        let extended = format & 1 == EXTENDED;
        let (attributes, inline) = self.attributes(start, if extended { 64 } else { 32 });
        let mode = self.small(start + 4, 2);
        let place = self.number(start + 16, 4);
        let is_device = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
        let data = self.data(format >> 1, self.size(start + 8, if extended { 8 } else { 4 }), place, inline);
        let is_content = matches!(mode & 0o170_000, 0o100_000 | 0o120_000);
        let node = Node {
            inode: self.number(start + 20, 4),
            mode,
            links: if extended { self.small(start + 44, 4) } else { self.small(start + 6, 2) },
            owner: if extended {
                (self.small(start + 24, 4), self.small(start + 28, 4))
            } else {
                (self.small(start + 24, 2), self.small(start + 26, 2))
            },
            // The short form has the time of the whole image.
            modified: if extended { self.time(start + 32) } else { self.time(SUPERBLOCK + 24) },
            device: if is_device { place } else { 0 },
            content: if is_content { data.clone() } else { Vec::new() },
            attributes,
        };
        (node, data)
    }

    fn time(&self, offset: usize) -> (i64, i64) {
        (i64::try_from(self.number(offset, 8)).unwrap(), self.small(offset + 8, 4).into())
    }

    /// The attributes after the inode of `length` bytes at `start`, and where they end.
    fn attributes(&self, start: usize, length: usize) -> (BTreeMap<String, Vec<u8>>, usize) {
        let mut attributes = BTreeMap::new();
        let count = self.size(start + 2, 2);
        if count == 0 {
            return (attributes, start + length);
        }
        assert_eq!(self.bytes[start + length + 4], 0, "no shared attributes");
        let end = start + length + 12 + 4 * (count - 1);
        let mut entry = start + length + 12;
        while entry < end {
            let name_length = self.size(entry, 1);
            if name_length == 0 && self.bytes[entry + 1] == 0 {
                break;
            }
            let prefix = match self.bytes[entry + 1] {
                1 => "user.",
                2 => "system.posix_acl_access",
                3 => "system.posix_acl_default",
                4 => "trusted.",
                6 => "security.",
                other => panic!("attribute prefix {other}"),
            };
            let name = String::from_utf8(self.bytes[entry + 4..][..name_length].to_vec()).unwrap();
            let value_length = self.size(entry + 2, 2);
            let value = self.bytes[entry + 4 + name_length..][..value_length].to_vec();
            attributes.insert(format!("{prefix}{name}"), value);
            entry += (4 + name_length + value_length).next_multiple_of(4);
        }
        (attributes, end)
    }

    fn data(&self, layout: u16, size: usize, block: u64, inline: usize) -> Vec<u8> {
        let tail = match layout {
            FLAT_PLAIN => 0,
            FLAT_INLINE => size % self.block_size(),
            other => panic!("data layout {other}"),
        };
        if size == 0 {
            return Vec::new();
        }
        let mut data = Vec::new();
        if size > tail {
            let start = usize::try_from(block).unwrap() * self.block_size();
            data.extend_from_slice(&self.bytes[start..start + size - tail]);
        }
        data.extend_from_slice(&self.bytes[inline..inline + tail]);
        data
    }
}

/// The entries of one block of a folder.
fn entries(block: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let name_start =
        |index: usize| usize::from(u16::from_le_bytes([block[index * 12 + 8], block[index * 12 + 9]]));
    let count = name_start(0) / 12;
    (0..count)
        .map(|index| {
            let id = u64::from_le_bytes(block[index * 12..][..8].try_into().unwrap());
            let end = if index + 1 < count { name_start(index + 1) } else { block.len() };
            let name = block[name_start(index)..end].split(|&byte| byte == 0).next().unwrap();
            (id, name.to_vec())
        })
        .collect()
}
