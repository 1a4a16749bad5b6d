//! A folder that is to be packed: its tree, and a fingerprint that tells whether it is still the same.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{major, minor};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getres, clock_gettime};
use nix::unistd::{Whence, lseek};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::erofs;
use crate::error::Error;
use crate::layer::Contents;
use crate::tree::{self, Attributes, Content, Kind, NodeId, ROOT, Tree};
use crate::xattr;

/// Hashed first. Changes whenever an image of the same tree would be another one, as the index would otherwise lead
/// from the new fingerprint to the old image.
const VERSION: &[u8] = b"mote folder fingerprint 2\0";

/// The bytes that are copied at a time.
const CHUNK: usize = 128 * 1024;

/// A folder that is to be packed. Mount points in it are followed, as a container would see what is mounted there.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// Why a folder could not be read into a tree.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Because of the folder.
    Read(Error),
    /// Because of where its contents go.
    Write(io::Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

/// What a tree was at one moment, without the contents of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    digest: Digest,
    /// When an inode of the tree changed last: seconds and nanoseconds.
    newest_change: (i64, i64),
}

impl Folder {
    /// The folder at `path`; symbolic links on the way to it are followed.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let resolved = path.canonicalize().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::FolderMissing { path: path.to_path_buf() },
            io::ErrorKind::NotADirectory => Error::NotAFolder { path: path.to_path_buf() },
            _ => Error::unreadable(path, source),
        })?;
        let metadata = fs::metadata(&resolved).map_err(|source| Error::unreadable(path, source))?;
        if !metadata.is_dir() {
            return Err(Error::NotAFolder { path: path.to_path_buf() });
        }
        Ok(Self { path: resolved })
    }

    /// The absolute path, free of symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the fingerprint: everything that `stat` says about each file except for access times and link counts,
    /// the targets of symbolic links and the extended attributes. No file is opened.
    pub(crate) fn fingerprint(&self) -> Result<Fingerprint, Error> {
        let mut hasher = Sha256::new();
        hasher.update(VERSION);
        let mut newest_change = (i64::MIN, 0);
        let mut entries = 0_u64;
        self.walk(|path, metadata| {
            entries += 1;
            newest_change = newest_change.max((metadata.ctime(), metadata.ctime_nsec()));
            self.hash_entry(&mut hasher, path, metadata)
                .map_err(|source| self.unreadable_or_gone(path, source))
        })?;
        if entries <= 1 {
            return Err(Error::FolderEmpty { path: self.path.clone() });
        }
        Ok(Fingerprint { digest: Digest::of(hasher), newest_change })
    }

    /// Reads the folder into a tree, and its files into `contents`. A hole in a file stays one.
    pub(crate) fn read(&self, contents: &mut impl Contents) -> Result<Tree, ReadError> {
        let mut tree = Tree::new();
        let mut linked: HashMap<(u64, u64), NodeId> = HashMap::new();
        let mut folders: Vec<(PathBuf, NodeId)> = vec![(self.path.clone(), ROOT)];
        let mut chunk = vec![0; CHUNK];
        self.walk(|path, metadata| -> Result<(), ReadError> {
            let gone = |source| self.unreadable_or_gone(path, source);
            let described = describe(path, metadata).map_err(gone)?;
            if path == self.path {
                tree.describe(ROOT, described);
                return Ok(());
            }
            // Folders come before what is in them: those that are done are taken away.
            while folders.last().is_some_and(|(folder, _)| path.parent() != Some(folder)) {
                folders.pop();
            }
            let parent = folders.last().map_or(ROOT, |(_, id)| *id);
            let name = path.file_name().unwrap_or_default().as_bytes();
            let inode = (metadata.dev(), metadata.ino());
            if let Some(&target) = linked.get(&inode).filter(|_| !metadata.is_dir()) {
                tree.link(parent, name, target);
                return Ok(());
            }
            let kind = match kind(path, metadata).map_err(gone)? {
                Kind::File(_) => {
                    let mut file = open(path).map_err(gone)?;
                    let content =
                        contents.create(metadata.len(), &described.attributes).map_err(ReadError::Write)?;
                    copy(&mut file, contents, &content, &mut chunk, &gone)?;
                    Kind::File(content)
                }
                other => other,
            };
            let id = tree
                .put(parent, name, kind, described)
                .map_err(|error| ReadError::Read(Error::unreadable(path, io::Error::other(error))))?;
            if metadata.is_dir() {
                folders.push((path.to_path_buf(), id));
            } else if metadata.nlink() > 1 {
                linked.insert(inode, id);
            }
            Ok(())
        })?;
        Ok(tree)
    }

    /// Visits the folder itself and everything below it, each folder before what lies in it, siblings in the order
    /// of their names' bytes.
    pub(crate) fn walk<E: From<Error>>(
        &self,
        mut visit: impl FnMut(&Path, &Metadata) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pending = vec![self.path.clone()];
        while let Some(path) = pending.pop() {
            let metadata =
                fs::symlink_metadata(&path).map_err(|source| self.unreadable_or_gone(&path, source))?;
            visit(&path, &metadata)?;
            if metadata.is_dir() {
                let start = pending.len();
                let entries = fs::read_dir(&path).map_err(|source| self.unreadable_or_gone(&path, source))?;
                for entry in entries {
                    pending.push(entry.map_err(|source| Error::unreadable(&path, source))?.path());
                }
                if let Some(siblings) = pending.get_mut(start..) {
                    // The last one is visited first.
                    siblings.sort_unstable_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
                }
            }
        }
        Ok(())
    }

    fn hash_entry(&self, hasher: &mut Sha256, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let name = path.strip_prefix(&self.path).unwrap_or(path);
        update_sized(hasher, name.as_os_str().as_bytes());
        for field in [metadata.mode(), metadata.uid(), metadata.gid()] {
            hasher.update(field.to_le_bytes());
        }
        for field in [metadata.size(), metadata.ino(), metadata.rdev()] {
            hasher.update(field.to_le_bytes());
        }
        for field in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
            hasher.update(field.to_le_bytes());
        }
        if metadata.is_symlink() {
            update_sized(hasher, fs::read_link(path)?.as_os_str().as_bytes());
        }
        let attributes = xattr::read(path)?;
        hasher.update(length(attributes.len()));
        for (name, value) in attributes {
            update_sized(hasher, name.as_bytes());
            update_sized(hasher, &value);
        }
        Ok(())
    }

    /// A path that was listed and is gone now was deleted during the walk.
    fn unreadable_or_gone(&self, path: &Path, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::NotFound {
            Error::FolderChanged { path: self.path.clone() }
        } else {
            Error::unreadable(path, source)
        }
    }
}

impl Fingerprint {
    /// The name of the fingerprint's index entry.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Makes sure that whatever changes from now on changes the fingerprint, too.
    ///
    /// The kernel stamps inodes with a clock that moves once per tick (a few milliseconds). A file that is written
    /// twice within a tick has the same stamp after both, so a tree that changed in the current tick can change again
    /// unseen. In that case this waits, once, until the tick is over. File systems with coarser stamps than that
    /// (FAT, some network file systems) can hide a change within their own resolution; nothing can be done about it
    /// here.
    pub(crate) fn outlast_tick(&self) -> io::Result<()> {
        let tick = Duration::from(clock_getres(ClockId::CLOCK_REALTIME_COARSE)?);
        let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
        let (seconds, nanoseconds) = self.newest_change;
        let newest = TimeSpec::new(seconds, nanoseconds);
        // A stamp from a later tick is of a clock that was set back since: no file gets it again soon.
        if newest >= now && newest <= now + TimeSpec::from_duration(tick) {
            std::thread::sleep(2 * tick);
        }
        Ok(())
    }
}

/// Opens a regular file. Not to wait for a writer, if it has become a pipe since.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn kind(path: &Path, metadata: &Metadata) -> io::Result<Kind> {
    let kind = metadata.file_type();
    let device = || {
        let part = |part: u64| u32::try_from(part).map_err(io::Error::other);
        Ok::<_, io::Error>((part(major(metadata.rdev()))?, part(minor(metadata.rdev()))?))
    };
    Ok(if kind.is_dir() {
        Kind::Folder(BTreeMap::new())
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path)?.as_os_str().as_bytes().into())
    } else if kind.is_char_device() {
        device().map(|(major, minor)| Kind::CharDevice(major, minor))?
    } else if kind.is_block_device() {
        device().map(|(major, minor)| Kind::BlockDevice(major, minor))?
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else {
        Kind::File(Content::default())
    })
}

fn describe(path: &Path, metadata: &Metadata) -> io::Result<tree::Metadata> {
    let attributes = xattr::read(path)?.into_iter();
    let attributes: Attributes = attributes
        .filter(|(name, value)| erofs::is_attribute(name.to_bytes(), value))
        .map(|(name, value)| (name.into_bytes().into(), value.into()))
        .collect();
    if !erofs::fit(&attributes) {
        return Err(io::Error::other("it has too many extended attributes"));
    }
    Ok(tree::Metadata {
        mode: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
        mtime_nsec: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        attributes,
    })
}

/// Copies what is no hole. A file that is shorter by now has changed, which its fingerprint will tell.
fn copy(
    file: &mut File,
    contents: &mut impl Contents,
    content: &Content,
    chunk: &mut [u8],
    unreadable: &impl Fn(io::Error) -> Error,
) -> Result<(), ReadError> {
    let mut end = 0;
    loop {
        let Some((mut offset, hole)) = next_data(file, end).map_err(unreadable)? else { return Ok(()) };
        end = hole.min(content.size);
        file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        while offset < end {
            let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.get_mut(..most).unwrap_or_default();
            let length = file.read(part).map_err(unreadable)?;
            if length == 0 {
                return Ok(());
            }
            let part = part.get(..length).unwrap_or_default();
            contents.write(content, offset, part).map_err(ReadError::Write)?;
            offset += length as u64;
        }
        if end >= content.size {
            return Ok(());
        }
    }
}

/// Where data starts at or behind `offset`, and where it ends.
fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |offset: i64, whence| lseek(file, offset, whence);
    let unsigned = |offset: i64| u64::try_from(offset).map_err(io::Error::other);
    let start = match seek(i64::try_from(offset).map_err(io::Error::other)?, Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok(None),
        start => start?,
    };
    Ok(Some((unsigned(start)?, unsigned(seek(start, Whence::SeekHole)?)?)))
}

/// Hashes `bytes` so that no two sequences of them give the same input.
fn update_sized(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update(length(bytes.len()));
    hasher.update(bytes);
}

/// A length as it is hashed. `usize` has at most 64 bits.
fn length(length: usize) -> [u8; 8] {
    u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests;
