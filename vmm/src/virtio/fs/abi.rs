//! The bytes of FUSE (`linux/fuse.h`, version 7.x), as virtio-fs carries them (VIRTIO 1.2, 5.11).
//!
//! A request is a header and a body of fixed-size fields and NUL-terminated names; the reply is a header and a body. Nothing is
//! laid over memory: requests are decoded field by field from a copy, so whatever the guest changes meanwhile is not seen.

use std::ffi::CStr;

use nix::{errno::Errno, libc};

use super::host::{Result, Stat};

/// The version of the protocol that is spoken; a guest with an older minor version of the same major is not served.
pub(super) const MAJOR: u32 = 7;
pub(super) const MINOR: u32 = 38;
/// The oldest minor version whose messages all look as they do here.
pub(super) const OLDEST_MINOR: u32 = 36;

/// The lengths of the two headers, in bytes.
pub(super) const IN_HEADER: usize = 40;
pub(super) const OUT_HEADER: usize = 16;
/// What comes before the data of a write.
pub(super) const WRITE_HEADER: usize = IN_HEADER + 40;

/// The node that a guest starts from.
pub(super) const ROOT: u64 = 1;

/// What a request asks for.
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
    pub(in super::super) const TMPFILE: u32 = 51;
}

/// Features that both sides agree on when the guest starts.
pub(super) mod init {
    pub(in super::super) const ASYNC_READ: u64 = 1 << 0;
    pub(in super::super) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(in super::super) const BIG_WRITES: u64 = 1 << 5;
    pub(in super::super) const DONT_MASK: u64 = 1 << 6;
    pub(in super::super) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(in super::super) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in super::super) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in super::super) const ASYNC_DIO: u64 = 1 << 15;
    pub(in super::super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in super::super) const POSIX_ACL: u64 = 1 << 20;
    pub(in super::super) const MAX_PAGES: u64 = 1 << 22;
    pub(in super::super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in super::super) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in super::super) const SETXATTR_EXT: u64 = 1 << 29;
    pub(in super::super) const INIT_EXT: u64 = 1 << 30;
    pub(in super::super) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// Which attributes a `SETATTR` changes.
pub(super) mod set {
    pub(in super::super) const MODE: u32 = 1 << 0;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
    pub(in super::super) const ATIME: u32 = 1 << 4;
    pub(in super::super) const MTIME: u32 = 1 << 5;
    pub(in super::super) const HANDLE: u32 = 1 << 6;
    pub(in super::super) const ATIME_NOW: u32 = 1 << 7;
    pub(in super::super) const MTIME_NOW: u32 = 1 << 8;
    pub(in super::super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// How the guest may treat an open file.
pub(super) mod open {
    pub(in super::super) const DIRECT_IO: u32 = 1 << 0;
    pub(in super::super) const KEEP_CACHE: u32 = 1 << 1;
    pub(in super::super) const CACHE_DIR: u32 = 1 << 3;
    pub(in super::super) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// A `GETATTR` names an open file.
pub(super) const GETATTR_HANDLE: u32 = 1;
/// A `WRITE` comes from the guest's cache: it goes where it says, whatever the file was opened with.
pub(super) const WRITE_CACHE: u32 = 1;
/// A `WRITE`, an `OPEN` or a `CREATE` takes set-user-id and set-group-id away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
pub(super) const OPEN_KILL_SUIDGID: u32 = 1;
/// A `SETXATTR` of an access list takes set-group-id away.
pub(super) const SETXATTR_KILL_SGID: u32 = 1;
/// An `FSYNC` is about data only.
pub(super) const FSYNC_DATA_ONLY: u32 = 1;

/// What every request begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) len: u32,
    pub(super) opcode: u32,
    /// The reply carries it, too.
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Header {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self> {
        let header = Self {
            len: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
        };
        // The process, and extensions that are not agreed on.
        fields.skip(8)?;
        Ok(header)
    }
}

/// The fields of a request that have not been taken yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'r>(pub(super) &'r [u8]);

impl<'r> Fields<'r> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<()> {
        self.0 = self.0.get(count..).ok_or(Errno::EINVAL)?;
        Ok(())
    }

    pub(super) fn text(&mut self) -> Result<&'r CStr> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::EINVAL)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// A name in a folder: one component, and not one that leads elsewhere.
    pub(super) fn name(&mut self) -> Result<&'r CStr> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::EINVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
            _ => Ok(name),
        }
    }
}

/// A reply's body under construction.
#[derive(Debug, Default)]
pub(super) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The node of the entry that the reply begins with.
    pub(super) fn node(&self) -> u64 {
        self.bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// For bytes that a system call brings; what is there is overwritten.
    pub(super) fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// `fuse_attr`.
    pub(super) fn attributes(&mut self, stat: &Stat) {
        let raw = stat.raw();
        self.u64(raw.stx_ino);
        self.u64(raw.stx_size);
        self.u64(raw.stx_blocks);
        for time in [raw.stx_atime, raw.stx_mtime, raw.stx_ctime] {
            // Times before 1970 keep their bits.
            self.bytes.extend_from_slice(&time.tv_sec.to_le_bytes());
        }
        for time in [raw.stx_atime, raw.stx_mtime, raw.stx_ctime] {
            self.u32(time.tv_nsec);
        }
        self.u32(stat.mode());
        self.u32(raw.stx_nlink);
        self.u32(raw.stx_uid);
        self.u32(raw.stx_gid);
        self.u32(device_number(raw.stx_rdev_major, raw.stx_rdev_minor));
        self.u32(raw.stx_blksize);
        self.u32(0);
    }

    /// `fuse_attr_out`.
    pub(super) fn attributes_for(&mut self, valid_seconds: u64, stat: &Stat) {
        self.u64(valid_seconds);
        self.u64(0);
        self.attributes(stat);
    }

    /// `fuse_entry_out`.
    pub(super) fn entry(&mut self, node: u64, valid_seconds: u64, stat: &Stat) {
        self.u64(node);
        // Nodes' numbers are never used twice.
        self.u64(0);
        self.u64(valid_seconds);
        self.u64(valid_seconds);
        self.u64(0);
        self.attributes(stat);
    }

    /// `fuse_open_out`.
    pub(super) fn opened(&mut self, handle: u64, flags: u32) {
        self.u64(handle);
        self.u32(flags);
        self.u32(0);
    }

    /// `fuse_dirent`, with its padding.
    pub(super) fn folder_entry(&mut self, number: u64, next: u64, kind: u8, name: &[u8]) {
        self.u64(number);
        self.u64(next);
        self.u32(u32::try_from(name.len()).unwrap_or(0));
        self.u32(kind.into());
        self.bytes.extend_from_slice(name);
        self.zeros(name.len().next_multiple_of(8) - name.len());
    }

    /// `fuse_kstatfs`.
    pub(super) fn file_system(&mut self, stat: &libc::statvfs) {
        for field in [stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree] {
            self.u64(field);
        }
        for field in [stat.f_bsize, stat.f_namemax, stat.f_frsize] {
            self.u32(u32::try_from(field).unwrap_or(u32::MAX));
        }
        self.zeros(4 + 6 * 4);
    }
}

/// The length of `fuse_entry_out`.
pub(super) const ENTRY: usize = 128;

/// The length of a folder's entry with a name of `name` bytes.
pub(super) fn folder_entry_len(name: usize) -> usize {
    24 + name.next_multiple_of(8)
}

/// A device number in 32 bits, as the kernel's `new_encode_dev` has it.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// A device number from 32 bits.
pub(super) fn device(number: u32) -> u64 {
    libc::makedev((number & 0x000f_ff00) >> 8, (number & 0xff) | ((number >> 12) & 0x000f_ff00))
}

/// The header of a reply whose body has `body` bytes.
pub(super) fn out_header(unique: u64, error: i32, body: usize) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&u32::try_from(OUT_HEADER + body).unwrap_or(u32::MAX).to_le_bytes());
    header[4..8].copy_from_slice(&error.to_le_bytes());
    header[8..].copy_from_slice(&unique.to_le_bytes());
    header
}
