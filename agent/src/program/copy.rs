//! Copying a folder: what a tmpfs that covers one begins with.

use core::mem::MaybeUninit;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Uid},
    io::{Errno, Result},
};

use core::ffi::CStr;

/// How deep folders may lie in each other.
const MAX_DEPTH: usize = 32;

/// Copies what is in `from` to `to`, and its owner and mode. Attributes beyond these are not copied.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // A mount's own descriptor only names it.
    let to = open_folder(to, c".")?;
    copy_folder(from, to.as_fd(), 0)
}

fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth == MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    let mut room = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(from, &mut room);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, mode(&stat))
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let (from, to) = (open_folder(from, name)?, open_folder(to, name)?);
            // Its owner and mode come last.
            return copy_folder(from.as_fd(), to.as_fd(), depth + 1);
        }
        FileType::Symlink => {
            let mut target = [MaybeUninit::uninit(); 4096];
            let (target, _) = rustix::fs::readlinkat_raw(from, name, &mut target[..4095])?;
            let mut text = [0; 4096];
            let text = text.get_mut(..=target.len()).ok_or(Errno::NAMETOOLONG)?;
            text[..target.len()].copy_from_slice(target);
            let target = CStr::from_bytes_until_nul(text).map_err(|_| Errno::INVAL)?;
            rustix::fs::symlinkat(target, to, name)?;
        }
        FileType::RegularFile => copy_file(from, to, name)?,
        kind => rustix::fs::mknodat(to, name, kind, mode(&stat), stat.st_rdev)?,
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Ok(()),
        // A change of owner may have taken bits away.
        _ => rustix::fs::chmodat(to, name, mode(&stat), AtFlags::empty()),
    }
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let source = rustix::fs::openat(from, name, OFlags::RDONLY | flags, Mode::empty())?;
    let created = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
    let sink = rustix::fs::openat(to, name, created, Mode::RUSR | Mode::WUSR)?;
    while rustix::fs::sendfile(&sink, &source, None, 1 << 30)? > 0 {}
    Ok(())
}

fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}
