//! A folder that is to be packed: its tree, and a fingerprint that tells whether it is still the same.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getres, clock_gettime};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::Error;
use crate::xattr;

/// Hashed first. Changes whenever an image of the same tree would be another one, as the index would otherwise lead
/// from the new fingerprint to the old image.
const VERSION: &[u8] = b"mote folder fingerprint 1\0";

/// The longest file name that `mkfs.erofs` packs, in bytes: one less than the kernel's `NAME_MAX`, as its buffer of
/// that length has room for a closing NUL. Names that are longer are cut off there.
const NAME_LONGEST: usize = 254;

/// A folder that is to be packed. Mount points in it are followed, as a container would see what is mounted there.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
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

    /// Looks for what `mkfs.erofs` cannot pack, to name it: a regular file that cannot be read (`mkfs.erofs` fails
    /// without a name), and a file name that is too long (it would look for the file under a shortened name).
    pub(crate) fn check_packable(&self) -> Result<(), Error> {
        self.walk(|path, metadata| {
            if path.file_name().is_some_and(|name| name.len() > NAME_LONGEST) {
                return Err(Error::NameTooLong { path: path.to_path_buf() });
            }
            if !metadata.is_file() {
                return Ok(());
            }
            match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
                Ok(_) => Ok(()),
                Err(source) => Err(self.unreadable_or_gone(path, source)),
            }
        })
    }

    /// Visits the folder itself and everything below it, each folder before what lies in it, siblings in the order
    /// of their names' bytes.
    fn walk(&self, mut visit: impl FnMut(&Path, &Metadata) -> Result<(), Error>) -> Result<(), Error> {
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
