//! Reads files and folders of an uncompressed EROFS image, to look up what a container needs to know before it starts.
//!
//! The image may be anybody's: every number in it is checked, and what is read has limits.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{MAGIC, SUPERBLOCK_LENGTH, SUPERBLOCK_OFFSET};

/// The most bytes of a folder that are looked at.
const LARGEST_FOLDER: u64 = 64 << 20;
/// How many symbolic links one path may go through, as in the kernel.
const MOST_LINKS: u32 = 40;
/// The longest target of a link, in bytes.
const LONGEST_TARGET: u64 = 4096;

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An open image.
#[derive(Debug)]
pub struct Reader {
    file: File,
    block_size: u64,
    /// Where inode 0 would be, in bytes.
    inodes: u64,
    root: u64,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
struct Inode {
    /// `st_mode & S_IFMT`.
    kind: u32,
    size: u64,
    /// Where the whole blocks start, in bytes.
    start: u64,
    /// Where what is left starts, if it lies beside the inode, and how much that is.
    tail: Option<(u64, u64)>,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The same place, from the root and without links. Names that are not there are at its end as they were.
    pub path: Vec<u8>,
    /// The file, if it is there.
    node: Option<u64>,
}

impl Reader {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// It is no EROFS image, or cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = super::open_at_once(path)?;
        let mut bytes = [0; SUPERBLOCK_LENGTH];
        file.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET)?;
        let bits = bytes[12];
        if number(&bytes, 0, 4) != u64::from(MAGIC) || !(9..=12).contains(&bits) {
            return Err(damaged());
        }
        let block_size = 1 << bits;
        let inodes = number(&bytes, 40, 4) * block_size;
        Ok(Self { file, block_size, inodes, root: number(&bytes, 14, 2) })
    }

    /// Resolves `path` as a process would whose root the image is.
    ///
    /// # Errors
    /// It goes through too many links or something that is no folder, or the image is damaged or compressed.
    pub fn resolve(&self, path: &[u8]) -> io::Result<Resolved> {
        let mut trail: Vec<(Vec<u8>, Option<u64>)> = Vec::new();
        let mut rest: Vec<Vec<u8>> = names(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                trail.pop();
                continue;
            }
            let here = trail.last().map_or(Some(self.root), |(_, node)| *node);
            let next = match here {
                Some(here) => self.look_up(here, &name)?,
                None => None,
            };
            if let Some(node) = next {
                let inode = self.inode(node)?;
                if inode.kind == SYMLINK {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(io::Error::other("too many symbolic links"));
                    }
                    let target = self.content(&inode, LONGEST_TARGET)?;
                    if target.first() == Some(&b'/') {
                        trail.clear();
                    }
                    rest.extend(names(&target));
                    continue;
                }
            }
            trail.push((name, next));
        }
        let node = trail.last().map_or(Some(self.root), |(_, node)| *node);
        let path = trail.iter().flat_map(|(name, _)| [&b"/"[..], name]).collect::<Vec<_>>().concat();
        Ok(Resolved { path: if path.is_empty() { b"/".to_vec() } else { path }, node })
    }

    /// The content of the regular file at `path`, if there is one, and if it is not longer than `limit` bytes.
    ///
    /// # Errors
    /// As for [`Reader::resolve`].
    pub fn read(&self, path: &[u8], limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(node) = self.resolve(path)?.node else { return Ok(None) };
        let inode = self.inode(node)?;
        if inode.kind == REGULAR { self.content(&inode, limit).map(Some) } else { Ok(None) }
    }

    fn inode(&self, node: u64) -> io::Result<Inode> {
        let at =
            node.checked_mul(32).and_then(|offset| offset.checked_add(self.inodes)).ok_or_else(damaged)?;
        let mut bytes = [0; 64];
        self.file.read_exact_at(&mut bytes[..32], at)?;
        let format = number(&bytes, 0, 2);
        let is_extended = format & 1 == 1;
        if is_extended {
            self.file.read_exact_at(&mut bytes, at)?;
        }
        let size = number(&bytes, 8, if is_extended { 8 } else { 4 });
        let attributes = match number(&bytes, 2, 2) {
            0 => 0,
            count => 12 + 4 * (count - 1),
        };
        let beside = at + if is_extended { 64 } else { 32 } + attributes;
        let tail = match format >> 1 & 7 {
            0 => None,
            2 => Some((beside, size % self.block_size)),
            _ => return Err(io::Error::other("compressed images are not read")),
        };
        let start = number(&bytes, 16, 4) * self.block_size;
        let kind = u32::try_from(number(&bytes, 4, 2)).unwrap_or(0) & 0o170_000;
        Ok(Inode { kind, size, start, tail })
    }

    fn content(&self, inode: &Inode, limit: u64) -> io::Result<Vec<u8>> {
        let size = usize::try_from(inode.size).ok().filter(|_| inode.size <= limit);
        let size = size.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let (tail_at, tail) = inode.tail.unwrap_or_default();
        let whole = size - usize::try_from(tail).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        let (front, back) = bytes.split_at_mut(whole);
        self.file.read_exact_at(front, inode.start)?;
        self.file.read_exact_at(back, tail_at)?;
        Ok(bytes)
    }

    /// The file called `name` in a folder.
    fn look_up(&self, folder: u64, name: &[u8]) -> io::Result<Option<u64>> {
        let inode = self.inode(folder)?;
        if inode.kind != FOLDER {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let content = self.content(&inode, LARGEST_FOLDER)?;
        let block_size = usize::try_from(self.block_size).map_err(io::Error::other)?;
        for block in content.chunks(block_size) {
            for (node, entry) in entries(block)? {
                if entry == name {
                    return Ok(Some(node));
                }
            }
        }
        Ok(None)
    }
}

/// The names of a path, the last one first.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|&byte| byte == b'/').rev();
    names.filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).collect()
}

/// The entries of one block of a folder: inode numbers and names.
fn entries(block: &[u8]) -> io::Result<Vec<(u64, &[u8])>> {
    let start = |index: usize| {
        let bytes = block.get(index * 12 + 8..index * 12 + 10).ok_or_else(damaged)?;
        Ok::<_, io::Error>(usize::try_from(number(bytes, 0, 2)).unwrap_or(usize::MAX))
    };
    let count = start(0)? / 12;
    (0..count)
        .map(|index| {
            let end = if index + 1 < count { start(index + 1)? } else { block.len() };
            let name = block.get(start(index)?..end).ok_or_else(damaged)?;
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let node = block.get(index * 12..index * 12 + 8).ok_or_else(damaged)?;
            Ok((number(node, 0, 8), name))
        })
        .collect()
}

/// The little-endian number of `length` bytes at `offset`, which the caller has.
fn number(bytes: &[u8], offset: usize, length: usize) -> u64 {
    let field = bytes.get(offset..offset + length).unwrap_or_default();
    field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the image is damaged")
}
