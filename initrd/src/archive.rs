//! The archive as a whole: its entries, their order and their alignment.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::header::Header;
use crate::path;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
/// Permissions, set-user-id, set-group-id and sticky bit.
const PERMISSIONS: u32 = 0o7777;

/// The kernel's `dev_t` has 12 bits for the major and 20 bits for the minor number.
const MAJOR_LARGEST: u32 = (1 << 12) - 1;
const MINOR_LARGEST: u32 = (1 << 20) - 1;

/// Header and name together, and then the body, each end on a multiple of this many bytes.
const ALIGNMENT: usize = 4;

/// The two kinds of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// A newc archive that is being written.
///
/// Paths are bytes, relative to the guest's root and without `.` or `..`. A folder is added before what lies in it,
/// as the kernel unpacks in order. A call that returns an [`Error`] leaves the archive as it was.
///
/// ```
/// # fn main() -> Result<(), mote_initrd::Error> {
/// let mut archive = mote_initrd::Archive::new();
/// archive.directory("etc", 0o755)?.file("etc/hostname", 0o644, b"guest\n")?.symlink("init", "/bin/sh")?;
/// let bytes = archive.finish();
/// assert!(bytes.starts_with(b"070701"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default, Clone)]
pub struct Archive {
    bytes: Vec<u8>,
    /// Every path so far, and whether it is a folder.
    paths: BTreeMap<Vec<u8>, bool>,
}

/// What one entry is, beyond its path.
#[derive(Default)]
struct Entry<'a> {
    mode: u32,
    links: u32,
    body: &'a [u8],
    major: u32,
    minor: u32,
}

impl Archive {
    /// An archive without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder with the permissions `mode`. Its link count is 2 whatever is put into it later, as the kernel's
    /// own `gen_init_cpio` writes it: the unpacked folder counts its links itself.
    ///
    /// # Errors
    ///
    /// [`Error::Path`], [`Error::Duplicate`], [`Error::NoParent`], [`Error::Mode`], [`Error::TooManyEntries`].
    pub fn directory(&mut self, path: impl AsRef<[u8]>, mode: u32) -> Result<&mut Self, Error> {
        let path = path.as_ref();
        let mode = S_IFDIR | permissions(path, mode)?;
        self.add(path, &Entry { mode, links: 2, ..Entry::default() })
    }

    /// Adds a regular file with the permissions `mode` and the content `bytes`.
    ///
    /// # Errors
    ///
    /// As [`directory`](Self::directory), and [`Error::FileTooLarge`].
    pub fn file(&mut self, path: impl AsRef<[u8]>, mode: u32, bytes: &[u8]) -> Result<&mut Self, Error> {
        let path = path.as_ref();
        let mode = S_IFREG | permissions(path, mode)?;
        self.add(path, &Entry { mode, links: 1, body: bytes, ..Entry::default() })
    }

    /// Adds a symbolic link that points to `target`, which may be absolute.
    ///
    /// # Errors
    ///
    /// As [`directory`](Self::directory), and [`Error::Target`].
    pub fn symlink(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Result<&mut Self, Error> {
        let (path, target) = (path.as_ref(), target.as_ref());
        path::check_target(path, target)?;
        self.add(path, &Entry { mode: S_IFLNK | 0o777, links: 1, body: target, ..Entry::default() })
    }

    /// Adds a device node with the permissions `mode` and the number `major`:`minor`.
    ///
    /// # Errors
    ///
    /// As [`directory`](Self::directory), and [`Error::DeviceNumber`].
    pub fn device(
        &mut self,
        path: impl AsRef<[u8]>,
        mode: u32,
        kind: DeviceKind,
        major: u32,
        minor: u32,
    ) -> Result<&mut Self, Error> {
        let path = path.as_ref();
        if major > MAJOR_LARGEST || minor > MINOR_LARGEST {
            return Err(Error::DeviceNumber { path: path::readable(path), major, minor });
        }
        let kind = match kind {
            DeviceKind::Char => S_IFCHR,
            DeviceKind::Block => S_IFBLK,
        };
        let mode = kind | permissions(path, mode)?;
        self.add(path, &Entry { mode, links: 1, major, minor, ..Entry::default() })
    }

    /// Ends the archive and returns it. Its length is a multiple of 4 bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.append(&Header { links: 1, ..Header::default() }, path::TRAILER, &[]);
        self.bytes
    }

    fn add(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<&mut Self, Error> {
        path::check(path)?;
        if self.paths.contains_key(path) {
            return Err(Error::Duplicate { path: path::readable(path) });
        }
        if path::parent(path).is_some_and(|parent| self.paths.get(parent) != Some(&true)) {
            return Err(Error::NoParent { path: path::readable(path) });
        }
        let body = body_length(path, entry.body.len())?;
        let inode = u32::try_from(self.paths.len())
            .ok()
            .and_then(|count| count.checked_add(1))
            .ok_or(Error::TooManyEntries)?;
        let Entry { mode, links, major, minor, .. } = *entry;
        self.append(&Header { inode, mode, links, body, major, minor, name: 0 }, path, entry.body);
        self.paths.insert(path.to_vec(), mode & S_IFMT == S_IFDIR);
        Ok(self)
    }

    fn append(&mut self, header: &Header, name: &[u8], body: &[u8]) {
        // Paths were checked to be short: the count saturates for none of them.
        let length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        Header { name: length, ..*header }.write(&mut self.bytes);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(body);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

fn permissions(path: &[u8], mode: u32) -> Result<u32, Error> {
    if mode & !PERMISSIONS == 0 { Ok(mode) } else { Err(Error::Mode { path: path::readable(path), mode }) }
}

/// The length of a body as the header says it.
pub(crate) fn body_length(path: &[u8], length: usize) -> Result<u32, Error> {
    u32::try_from(length).map_err(|_| Error::FileTooLarge { path: path::readable(path), length })
}
