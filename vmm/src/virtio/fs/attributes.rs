//! Requests about a file's attributes, extended attributes, and file system.

use std::{ffi::CStr, os::fd::AsFd};

use nix::{errno::Errno, libc};

use super::{
    abi::{self, Fields, Header, init, set},
    files::drop_set_ids,
    host::{self, Result},
    server::{Done, Server},
};

/// The longest value, and list of names, of extended attributes (`XATTR_SIZE_MAX`).
const MAX_XATTR: usize = 64 << 10;

/// The extended attributes that a guest may change. Others, as those of security modules, are about the host.
const CHANGEABLE: [&[u8]; 5] =
    [b"user.", b"trusted.", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];

const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// What a `SETATTR` says.
struct Changes {
    valid: u32,
    handle: u64,
    size: u64,
    times: [libc::timespec; 2],
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Changes {
    fn decode(fields: &mut Fields<'_>) -> Result<Self> {
        let valid = fields.u32()?;
        fields.skip(4)?;
        let (handle, size) = (fields.u64()?, fields.u64()?);
        fields.skip(8)?;
        let seconds = [fields.u64()?.cast_signed(), fields.u64()?.cast_signed()];
        fields.skip(8)?;
        let nanoseconds = [i64::from(fields.u32()?), i64::from(fields.u32()?)];
        fields.skip(4)?;
        let mode = fields.u32()?;
        fields.skip(4)?;
        let (uid, gid) = (fields.u32()?, fields.u32()?);
        let time = |index: usize, change: u32, now: u32| libc::timespec {
            tv_sec: seconds[index],
            tv_nsec: match valid {
                _ if valid & now != 0 => libc::UTIME_NOW,
                _ if valid & change != 0 => nanoseconds[index],
                _ => libc::UTIME_OMIT,
            },
        };
        let times = [time(0, set::ATIME, set::ATIME_NOW), time(1, set::MTIME, set::MTIME_NOW)];
        Ok(Self { valid, handle, size, times, mode, uid, gid })
    }

    fn any(&self, bits: u32) -> bool {
        self.valid & bits != 0
    }
}

impl Server {
    pub(super) fn get_attributes(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let flags = fields.u32()?;
        fields.skip(4)?;
        let handle = (flags & abi::GETATTR_HANDLE != 0).then_some(fields.u64()?);
        self.reply_attributes(header.node, handle)
    }

    fn reply_attributes(&mut self, node: u64, handle: Option<u64>) -> Result<Done> {
        let stat = match handle {
            Some(handle) => host::stat(self.handles.file(handle, node)?.as_fd())?,
            None => self.nodes.stat(node)?,
        };
        let valid = self.share_of(node)?.valid();
        let stat = self.shown(&stat);
        self.reply.attributes_for(valid, &stat);
        Ok(Done::Reply)
    }

    pub(super) fn set_attributes(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let changes = Changes::decode(fields)?;
        let handle = changes.any(set::HANDLE).then_some(changes.handle);
        let path = self.nodes.path(header.node)?;
        let fd = path.as_fd();
        if changes.any(set::MODE) {
            host::change_mode(fd, changes.mode)?;
        }
        if changes.any(set::UID | set::GID) {
            let uid = if changes.any(set::UID) { changes.uid } else { u32::MAX };
            let gid = if changes.any(set::GID) { changes.gid } else { u32::MAX };
            self.change_owner(header.node, fd, uid, gid)?;
        }
        if changes.any(set::SIZE) {
            let size = i64::try_from(changes.size).map_err(|_| Errno::EFBIG)?;
            // An open file may be changed even if its permissions no longer allow it.
            match handle.map(|handle| self.handles.file(handle, header.node)).transpose()? {
                Some(file) => nix::unistd::ftruncate(file, size)?,
                None if self.nodes.kind(header.node)? != libc::S_IFREG => return Err(Errno::EINVAL),
                None => host::truncate(fd, size)?,
            }
            if changes.any(set::KILL_SUIDGID) {
                drop_set_ids(fd)?;
            }
        }
        if changes.any(set::ATIME | set::MTIME) {
            host::set_times(fd, &changes.times)?;
        }
        self.reply_attributes(header.node, handle)
    }

    /// Gives a file to others. A server that cannot do that has its own files shown as root's, and root's they may stay.
    fn change_owner(&mut self, node: u64, fd: std::os::fd::BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
        if self.gives_files_away() {
            return host::change_owner(fd, c"", uid, gid);
        }
        let stat = self.nodes.stat(node)?;
        let shown = self.shown(&stat);
        let stays = |wanted: u32, is: u32| wanted == u32::MAX || wanted == is;
        if stays(uid, shown.raw().stx_uid) && stays(gid, shown.raw().stx_gid) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    pub(super) fn stat_file_system(&mut self, header: &Header) -> Result<Done> {
        let path = self.nodes.path(header.node)?;
        let stat = host::stat_file_system(path.as_fd())?;
        self.reply.file_system(&stat);
        Ok(Done::Reply)
    }

    pub(super) fn get_xattr(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let room = xattr_room(fields)?;
        let name = fields.text()?;
        let path = self.nodes.path(header.node)?;
        let len = host::get_xattr(path.as_fd(), name, self.reply.raw(), room)?;
        self.reply_xattr_len(room, len)
    }

    pub(super) fn list_xattr(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let room = xattr_room(fields)?;
        let path = self.nodes.path(header.node)?;
        let len = host::list_xattr(path.as_fd(), self.reply.raw(), room)?;
        self.reply_xattr_len(room, len)
    }

    fn reply_xattr_len(&mut self, room: usize, len: usize) -> Result<Done> {
        if room == 0 {
            self.reply.clear();
            self.reply.u32(u32::try_from(len).map_err(|_| Errno::E2BIG)?);
            self.reply.u32(0);
        }
        Ok(Done::Reply)
    }

    pub(super) fn set_xattr(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (size, flags) = (fields.u32()?, fields.u32()?);
        let mut more = 0;
        if self.features & init::SETXATTR_EXT != 0 {
            more = fields.u32()?;
            fields.skip(4)?;
        }
        let name = changeable(fields.text()?)?;
        let value = fields.0;
        if usize::try_from(size) != Ok(value.len()) {
            return Err(Errno::EINVAL);
        }
        let path = self.nodes.path(header.node)?;
        host::set_xattr(path.as_fd(), name, value, flags.cast_signed())?;
        if more & abi::SETXATTR_KILL_SGID != 0 && name == ACCESS_LIST {
            let mode = host::stat(path.as_fd())?.mode();
            host::change_mode(path.as_fd(), mode & !libc::S_ISGID)?;
        }
        Ok(Done::Reply)
    }

    pub(super) fn remove_xattr(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let name = changeable(fields.text()?)?;
        let path = self.nodes.path(header.node)?;
        host::remove_xattr(path.as_fd(), name)?;
        Ok(Done::Reply)
    }
}

fn xattr_room(fields: &mut Fields<'_>) -> Result<usize> {
    let room = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
    fields.skip(4)?;
    Ok(room.min(MAX_XATTR))
}

fn changeable(name: &CStr) -> Result<&CStr> {
    let allowed = CHANGEABLE.iter().any(|allowed| match allowed {
        [.., b'.'] => name.to_bytes().starts_with(allowed),
        exact => name.to_bytes() == *exact,
    });
    if allowed { Ok(name) } else { Err(Errno::EPERM) }
}
