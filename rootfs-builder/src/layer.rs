//! Applies a layer, a tar archive of changes, to a [`Tree`].
//!
//! [`apply`] takes any bytes for an archive and is the place where hostile ones are met: it touches nothing but the
//! tree and the sink that it is given, needs memory for one header and one chunk at a time, and stops at the [`Limits`]. After an
//! error the tree is of no use.
//!
//! What it understands: ustar, GNU and pax headers, sparse files of all their kinds, `SCHILY.xattr.*`, and whiteouts
//! as the OCI image specification has them (`.wh.NAME`, `.wh..wh..opq`), which hide what lower layers have, wherever in the
//! archive they come. Later entries replace earlier ones.

pub(crate) mod decompress;
mod header;
mod pax;
pub(crate) mod pipe;
pub(crate) mod reader;
mod sparse;

use std::io::{self, Read};

use crate::erofs;
use crate::tree::{Attributes, Content, Kind, PathError, Tree};
use reader::{Input, Item, Reader, Stream, What};

/// The bytes that are copied at a time.
const CHUNK: usize = 128 * 1024;
/// The longest path in an archive and the longest target of a link, in bytes, as the kernel has it.
const LONGEST_PATH: usize = 4095;
/// The longest file name, in bytes.
const LONGEST_NAME: usize = 255;

/// Where the contents of regular files go.
pub trait Contents {
    /// Makes room for a file of `size` zero bytes with these attributes.
    ///
    /// # Errors
    /// Those of the storage.
    fn create(&mut self, size: u64, attributes: &Attributes) -> io::Result<Content>;

    /// Writes a part of a file that was created here; it ends within the file's size.
    ///
    /// # Errors
    /// Those of the storage.
    fn write(&mut self, content: &Content, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Forgets a file that was created here.
    ///
    /// # Errors
    /// Those of the storage.
    fn discard(&mut self, content: Content) -> io::Result<()>;
}

/// How much an image may unpack to, in all its layers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of file contents, holes included; the bytes of each archive are held to it, too.
    pub bytes: u64,
    /// Files of any kind, those that are replaced later included.
    pub files: u64,
    /// Bytes of names, link targets and extended attributes.
    pub metadata: u64,
}

impl Default for Limits {
    /// 64 GiB in four million files.
    fn default() -> Self {
        Self { bytes: 64 << 30, files: 4 << 20, metadata: 512 << 20 }
    }
}

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The archive cannot be read: an I/O error, or damage to the compression around it.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The archive ends in the middle.
    #[error("the layer ends in the middle of an entry")]
    Truncated,
    /// A header is damaged, or of no kind that is known.
    #[error("the layer is damaged: {0}")]
    Damaged(&'static str),
    /// An entry says something that an image must not say.
    #[error("the layer has a bad entry, {path:?}: {why}")]
    Entry {
        /// The entry's path as it stands in the archive.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A limit is reached.
    #[error("the image unpacks to more than {limit} {unit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The contents cannot be stored.
    #[error("cannot store the layer's files")]
    Write(#[source] io::Error),
}

/// What is left of the [`Limits`].
#[derive(Debug, Clone)]
pub struct Budget {
    limits: Limits,
    left: Limits,
}

impl Budget {
    /// All of it.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, left: limits }
    }

    pub(crate) fn bytes(&mut self, amount: u64) -> Result<(), LayerError> {
        take(&mut self.left.bytes, amount, self.limits.bytes, "bytes")
    }

    pub(crate) fn file(&mut self, metadata: u64) -> Result<(), LayerError> {
        take(&mut self.left.files, 1, self.limits.files, "files")?;
        take(&mut self.left.metadata, metadata, self.limits.metadata, "bytes of file names and attributes")
    }
}

fn take(left: &mut u64, amount: u64, limit: u64, unit: &'static str) -> Result<(), LayerError> {
    *left = left.checked_sub(amount).ok_or(LayerError::TooLarge { limit, unit })?;
    Ok(())
}

/// Applies the uncompressed archive `source` to `tree`, as a layer on top of what is there. Reads `source` to its end.
///
/// # Errors
/// A [`LayerError`]; `tree` and `contents` then hold a part of the layer.
pub fn apply(
    source: impl Read,
    budget: &mut Budget,
    tree: &mut Tree,
    contents: &mut impl Contents,
) -> Result<(), LayerError> {
    tree.next_layer();
    let mut reader = Reader::new(Stream(source.take(budget.limits.bytes.saturating_add(1))));
    let mut chunk = vec![0; CHUNK];
    while let Some(item) = reader.next()? {
        let attributes: usize =
            item.metadata.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        budget.file((item.path.len() + item.link.len() + attributes) as u64)?;
        let result = add(item, &mut reader, &mut chunk, budget, tree, contents);
        for content in tree.take_discarded() {
            contents.discard(content).map_err(LayerError::Write)?;
        }
        result?;
    }
    // What stands behind the archive's end belongs to the layer's digest.
    let mut source = reader.into_source().0;
    io::copy(&mut source, &mut io::sink()).map_err(LayerError::Read)?;
    if source.limit() == 0 {
        return Err(LayerError::TooLarge { limit: budget.limits.bytes, unit: "bytes" });
    }
    Ok(())
}

/// A path's folder and its last name; no name for the root.
fn split(path: &[u8]) -> Result<(Vec<u8>, &[u8]), &'static str> {
    if path.len() > LONGEST_PATH {
        return Err("its path is longer than 4095 bytes");
    }
    if path.contains(&0) {
        return Err("there is a NUL in its path");
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("there is a .. in its path"),
            _ if name.len() > LONGEST_NAME => return Err("its name is longer than 255 bytes"),
            _ => names.push(name),
        }
    }
    let last = names.pop().unwrap_or_default();
    Ok((names.join(&b'/'), last))
}

fn add<R: Input>(
    item: Item,
    reader: &mut Reader<R>,
    chunk: &mut [u8],
    budget: &mut Budget,
    tree: &mut Tree,
    contents: &mut impl Contents,
) -> Result<(), LayerError> {
    let Item { path, link, what, metadata } = item;
    let bad = |why: &str| LayerError::Entry {
        path: String::from_utf8_lossy(&path).chars().take(200).collect(),
        why: why.into(),
    };
    let wrong = |error: PathError| bad(&error.to_string());
    let (parent, name) = split(&path).map_err(bad)?;
    if is_aufs(&parent) || (name.starts_with(b".wh..wh.") && name != b".wh..wh..opq") {
        return Ok(());
    }
    if name.is_empty() {
        let What::Folder = what else { return Err(bad("the root must be a folder")) };
        if !erofs::root_fits(&metadata.attributes) {
            return Err(bad("the root has too many extended attributes"));
        }
        tree.describe(crate::tree::ROOT, metadata);
        return Ok(());
    }
    if let Some(hidden) = name.strip_prefix(b".wh.") {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(bad("it hides no name"));
        }
        // A folder that is not there has nothing to hide.
        if let Ok(folder) = tree.folder(&parent) {
            tree.white_out(folder, Some(hidden).filter(|&name| name != b".wh..opq"));
        }
        return Ok(());
    }
    let folder = tree.make_folders(&parent).map_err(wrong)?;
    let kind = match what {
        What::Link => {
            let (parent, last) = split(&link).map_err(|why| bad(&format!("of what it links to, {why}")))?;
            let target = tree.folder(&parent).ok().and_then(|parent| tree.get(parent, last));
            let Some(target) = target else {
                return Err(bad(&format!(
                    "it links to {:?}, which is not there",
                    String::from_utf8_lossy(&link)
                )));
            };
            if matches!(tree.node(target).kind, Kind::Folder(_)) {
                return Err(bad("it is a hard link to a folder"));
            }
            tree.link(folder, name, target);
            return Ok(());
        }
        What::File(segments) => {
            budget.bytes(segments.size)?;
            let content = contents.create(segments.size, &metadata.attributes).map_err(LayerError::Write)?;
            // In the tree before its content, so that it is discarded if that fails.
            tree.put(folder, name, Kind::File(content), metadata).map_err(wrong)?;
            for (offset, length) in segments.list {
                copy(reader, chunk, contents, &content, offset, length)?;
            }
            return Ok(());
        }
        What::Symlink if link.is_empty() => return Err(bad("its target is empty")),
        What::Symlink if link.len() > LONGEST_PATH => {
            return Err(bad("its target is longer than 4095 bytes"));
        }
        What::Symlink if link.contains(&0) => return Err(bad("there is a NUL in its target")),
        What::Symlink => Kind::Symlink(link.into()),
        What::Folder => Kind::Folder(Default::default()),
        What::CharDevice(major, minor) => Kind::CharDevice(major, minor),
        What::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
        What::Fifo => Kind::Fifo,
    };
    tree.put(folder, name, kind, metadata).map_err(wrong)?;
    Ok(())
}

/// What AUFS kept beside its layers, and what old images still have: nothing of it belongs to the image.
fn is_aufs(folder: &[u8]) -> bool {
    folder.split(|&byte| byte == b'/').any(|name| name.starts_with(b".wh..wh."))
}

fn copy<R: Input>(
    reader: &mut Reader<R>,
    chunk: &mut [u8],
    contents: &mut impl Contents,
    content: &Content,
    mut offset: u64,
    mut left: u64,
) -> Result<(), LayerError> {
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.get_mut(..most).unwrap_or_default();
        reader.read_exact(part)?;
        contents.write(content, offset, part).map_err(LayerError::Write)?;
        offset += part.len() as u64;
        left -= part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
