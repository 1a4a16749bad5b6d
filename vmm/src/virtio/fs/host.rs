//! The system calls that the file server makes, each on an open folder and one name in it, or on a descriptor alone.
//!
//! Nothing here takes a path of more than one component, and nothing follows a symbolic link of the shared folder's. What no
//! system call does with an `O_PATH` descriptor is done through its link in `/proc/self/fd`, which the serving thread has as its
//! working folder ([`enter`]): so it goes on working when the process has left its root behind.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag},
    libc,
    sys::stat::Mode,
};

pub(super) type Result<T> = std::result::Result<T, Errno>;

/// The longest that the contents of a symbolic link are (`PATH_MAX`).
const LINK_MAX: usize = 4096;

/// What `statx(2)` says about a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat(libc::statx);

impl Stat {
    pub(super) fn raw(&self) -> &libc::statx {
        &self.0
    }

    pub(super) fn mode(&self) -> u32 {
        self.0.stx_mode.into()
    }

    /// `S_IFMT` bits.
    pub(super) fn kind(&self) -> u32 {
        self.mode() & libc::S_IFMT
    }

    /// The folder that the shares are in.
    pub(super) fn of_shares_folder() -> Self {
        // SAFETY: all zeroes are a valid `statx`.
        let mut stat: libc::statx = unsafe { std::mem::zeroed() };
        (stat.stx_ino, stat.stx_nlink, stat.stx_blksize) = (1, 2, 4096);
        stat.stx_mode = 0o040_555;
        Self(stat)
    }

    /// With the user and the group `own` as root, and all others as nobody.
    pub(super) fn as_seen_by(&self, own: (u32, u32)) -> Self {
        const NOBODY: u32 = 65534;
        let mut stat = self.0;
        stat.stx_uid = if stat.stx_uid == own.0 { 0 } else { NOBODY };
        stat.stx_gid = if stat.stx_gid == own.1 { 0 } else { NOBODY };
        Self(stat)
    }

    /// With another inode number.
    pub(super) fn numbered(mut self, number: u64) -> Self {
        self.0.stx_ino = number;
        self
    }

    pub(super) fn device(&self) -> u64 {
        libc::makedev(self.0.stx_dev_major, self.0.stx_dev_minor)
    }
}

/// Makes the calling thread one that the other functions may be called on. It gets a working folder and a file mode mask of its
/// own; other threads keep theirs.
pub(super) fn enter(descriptors: BorrowedFd<'_>) -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
    nix::unistd::fchdir(descriptors)?;
    // A file that would grow beyond the process's limit is an error to the guest, and not the end of the process.
    nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGXFSZ).thread_block()?;
    nix::sys::stat::umask(Mode::empty());
    Ok(())
}

/// Opens the folder that [`enter`] takes. To be called in the process that serves, before its root changes.
pub(super) fn open_descriptors() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(c"/proc/self/fd", flags, Mode::empty())
}

/// The name of a descriptor's link in the working folder.
fn link_name(fd: BorrowedFd<'_>) -> Result<CString> {
    CString::new(fd.as_raw_fd().to_string()).map_err(|_| Errno::EINVAL)
}

/// A file in a folder, the file itself if it is a symbolic link.
pub(super) fn stat_at(folder: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;
    // SAFETY: `name` ends in NUL and `stat` has room for what the call writes.
    let result = unsafe { libc::statx(folder.as_raw_fd(), name.as_ptr(), flags, mask, stat.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: all zeroes are a valid `statx`, and the call has filled it.
    Ok(Stat(unsafe { stat.assume_init() }))
}

/// The file that is open.
pub(super) fn stat(fd: BorrowedFd<'_>) -> Result<Stat> {
    stat_at(fd, c"")
}

/// A descriptor that names a file and gives no access to it.
pub(super) fn open_path(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    nix::fcntl::openat(folder, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Opens once more what is open, with other flags. The caller knows that it is a regular file or a folder.
pub(super) fn reopen(fd: BorrowedFd<'_>, flags: OFlag) -> Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    nix::fcntl::openat(AT_FDCWD, link_name(fd)?.as_c_str(), flags, Mode::empty()).map(File::from)
}

/// The same for a descriptor that gives no access.
pub(super) fn reopen_path(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    reopen(fd, OFlag::O_PATH).map(OwnedFd::from)
}

/// Opens for reading only what is open. If `quietly`, not even the time of the access is recorded, where that is allowed.
pub(super) fn reopen_for_reading(fd: BorrowedFd<'_>, flags: OFlag, quietly: bool) -> Result<File> {
    if quietly {
        match reopen(fd, flags | OFlag::O_NOATIME) {
            Err(Errno::EPERM) => {}
            result => return result,
        }
    }
    reopen(fd, flags)
}

/// Makes a regular file and opens it. There must be none.
pub(super) fn create(folder: BorrowedFd<'_>, name: &CStr, flags: OFlag, mode: u32) -> Result<File> {
    let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(folder, name, flags, permissions(mode)).map(File::from)
}

/// Makes a regular file without a name on the file system of `folder`, and opens it.
pub(super) fn create_unnamed(folder: BorrowedFd<'_>, flags: OFlag, mode: u32) -> Result<File> {
    let flags = flags | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
    nix::fcntl::openat(folder, c".", flags, permissions(mode)).map(File::from)
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

pub(super) fn make_folder(folder: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    nix::sys::stat::mkdirat(folder, name, permissions(mode))
}

/// `mode` says which kind of node; `device` counts for device nodes only.
pub(super) fn make_node(folder: BorrowedFd<'_>, name: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: `name` ends in NUL.
    let result = unsafe { libc::mknodat(folder.as_raw_fd(), name.as_ptr(), mode, device) };
    Errno::result(result).map(drop)
}

pub(super) fn make_symlink(content: &CStr, folder: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    nix::unistd::symlinkat(content, folder, name)
}

/// Gives an open file one more name.
pub(super) fn link(file: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    nix::unistd::linkat(AT_FDCWD, link_name(file)?.as_c_str(), folder, name, AtFlags::AT_SYMLINK_FOLLOW)
}

pub(super) fn unlink(folder: BorrowedFd<'_>, name: &CStr, is_folder: bool) -> Result<()> {
    let flags = if is_folder {
        nix::unistd::UnlinkatFlags::RemoveDir
    } else {
        nix::unistd::UnlinkatFlags::NoRemoveDir
    };
    nix::unistd::unlinkat(folder, name, flags)
}

/// `flags` are `RENAME_*` bits.
pub(super) fn rename(
    from: BorrowedFd<'_>,
    old: &CStr,
    to: BorrowedFd<'_>,
    new: &CStr,
    flags: u32,
) -> Result<()> {
    // SAFETY: both names end in NUL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.as_raw_fd(),
            old.as_ptr(),
            to.as_raw_fd(),
            new.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// The contents of an open symbolic link.
pub(super) fn read_link(link: BorrowedFd<'_>, content: &mut Vec<u8>) -> Result<()> {
    content.resize(LINK_MAX, 0);
    // SAFETY: the call writes at most `content.len()` bytes to `content`.
    let result = unsafe {
        libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), content.as_mut_ptr().cast(), content.len())
    };
    truncate_to(content, result)
}

/// Changes permission bits; follows the descriptor, never a symbolic link's contents.
pub(super) fn change_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: the name ends in NUL.
    let result = unsafe { libc::fchmodat(libc::AT_FDCWD, link_name(fd)?.as_ptr(), mode & 0o7777, 0) };
    Errno::result(result).map(drop)
}

/// Changes owner and group of a file in a folder, or with an empty name of what is open; `u32::MAX` leaves them.
pub(super) fn change_owner(folder: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` ends in NUL.
    let result = unsafe { libc::fchownat(folder.as_raw_fd(), name.as_ptr(), uid, gid, flags) };
    Errno::result(result).map(drop)
}

/// Changes a regular file's length.
pub(super) fn truncate(fd: BorrowedFd<'_>, len: i64) -> Result<()> {
    nix::unistd::ftruncate(reopen(fd, OFlag::O_WRONLY)?, len)
}

/// Sets access and modification time.
pub(super) fn set_times(fd: BorrowedFd<'_>, times: &[libc::timespec; 2]) -> Result<()> {
    // SAFETY: the name ends in NUL, and `times` has the two entries that the call reads.
    let result = unsafe { libc::utimensat(libc::AT_FDCWD, link_name(fd)?.as_ptr(), times.as_ptr(), 0) };
    Errno::result(result).map(drop)
}

/// Reads entries of an open folder, from where it stands.
pub(super) fn read_folder(folder: BorrowedFd<'_>, entries: &mut Vec<u8>, room: usize) -> Result<()> {
    entries.resize(room, 0);
    // SAFETY: the call writes at most `entries.len()` bytes to `entries`.
    let result = unsafe {
        libc::syscall(libc::SYS_getdents64, folder.as_raw_fd(), entries.as_mut_ptr(), entries.len())
    };
    truncate_to(entries, isize::try_from(result).unwrap_or(-1))
}

/// Moves an open file's or folder's position.
pub(super) fn seek(fd: BorrowedFd<'_>, offset: i64, whence: i32) -> Result<i64> {
    // SAFETY: touches no memory.
    Errno::result(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) })
}

/// The value of an extended attribute, up to `room` bytes; with no room only its length.
pub(super) fn get_xattr(fd: BorrowedFd<'_>, name: &CStr, value: &mut Vec<u8>, room: usize) -> Result<usize> {
    value.resize(room, 0);
    // SAFETY: both names end in NUL, and the call writes at most `value.len()` bytes to `value`.
    let result = unsafe {
        libc::getxattr(link_name(fd)?.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    sized(value, result)
}

/// The names of a file's extended attributes, as [`get_xattr`].
pub(super) fn list_xattr(fd: BorrowedFd<'_>, names: &mut Vec<u8>, room: usize) -> Result<usize> {
    names.resize(room, 0);
    // SAFETY: the name ends in NUL, and the call writes at most `names.len()` bytes to `names`.
    let result = unsafe { libc::listxattr(link_name(fd)?.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    sized(names, result)
}

/// `flags` are `XATTR_*` bits.
pub(super) fn set_xattr(fd: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: i32) -> Result<()> {
    let link = link_name(fd)?;
    // SAFETY: both names end in NUL, and the call reads `value.len()` bytes of `value`.
    let result =
        unsafe { libc::setxattr(link.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    Errno::result(result).map(drop)
}

pub(super) fn remove_xattr(fd: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // SAFETY: both names end in NUL.
    let result = unsafe { libc::removexattr(link_name(fd)?.as_ptr(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// `mode` are `FALLOC_FL_*` bits.
pub(super) fn allocate(file: &File, mode: i32, offset: i64, len: i64) -> Result<()> {
    // SAFETY: touches no memory.
    Errno::result(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }).map(drop)
}

/// Copies between open files without looking at the bytes. Returns how many.
pub(super) fn copy(from: &File, from_offset: i64, to: &File, to_offset: i64, len: usize) -> Result<usize> {
    let (mut from_offset, mut to_offset) = (from_offset, to_offset);
    // SAFETY: the call reads and writes the two offsets, which live as long as it.
    let result = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &raw mut from_offset,
            to.as_raw_fd(),
            &raw mut to_offset,
            len,
            0,
        )
    };
    Errno::result(result).map(|copied| usize::try_from(copied).unwrap_or(0))
}

/// Has what was written reach the disk.
pub(super) fn sync(fd: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    if data_only { nix::unistd::fdatasync(fd) } else { nix::unistd::fsync(fd) }
}

/// The file system that something lies on.
pub(super) fn stat_file_system(fd: BorrowedFd<'_>) -> Result<libc::statvfs> {
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `stat` has room for what the call writes.
    Errno::result(unsafe { libc::fstatvfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: all zeroes are a valid `statvfs`, and the call has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// The user and the group that files get which this thread makes.
pub(super) fn own_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Sets the mask that files are made with.
pub(super) fn set_umask(mask: u32) {
    nix::sys::stat::umask(Mode::from_bits_truncate(mask & 0o777));
}

fn truncate_to(bytes: &mut Vec<u8>, result: isize) -> Result<()> {
    let used = Errno::result(result)?;
    bytes.truncate(usize::try_from(used).unwrap_or(0));
    Ok(())
}

/// With no room, the call only told how much is needed.
fn sized(bytes: &mut Vec<u8>, result: isize) -> Result<usize> {
    let len = usize::try_from(Errno::result(result)?).unwrap_or(0);
    bytes.truncate(len);
    Ok(len)
}

/// An error number for what `std` reports.
pub(super) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
