//! Requests about open files.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::SystemTime,
};

use nix::{errno::Errno, fcntl::OFlag, libc};

use super::{
    Cache,
    abi::{self, Fields, Header},
    handles::Handle,
    host::{self, Result},
    nodes::Version,
    server::{Call, Done, MAX_DATA, Server},
};
use crate::virtio::queue::transfer::{self, Vector};

/// What is taken over from the flags that the guest opens a file with. Appending is done write by write, because what the guest
/// writes back from its cache goes where it says; the other flags are for the guest's own kernel.
const FLAGS: OFlag = OFlag::O_ACCMODE.union(OFlag::O_TRUNC).union(OFlag::O_SYNC).union(OFlag::O_DSYNC);

/// The most that one request copies between files, in bytes: others wait meanwhile.
const MAX_COPY: u64 = 16 << 20;

impl Server {
    pub(super) fn open(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (flags, open_flags) = (fields.u32()?, fields.u32()?);
        self.open_node(header.node, flags, open_flags)
    }

    /// Opens a regular file, which alone has contents on the host: pipes, sockets and devices are the guest's own.
    fn open_node(&mut self, node: u64, flags: u32, open_flags: u32) -> Result<Done> {
        self.handles.check_room()?;
        if self.nodes.kind(node)? != libc::S_IFREG {
            return Err(Errno::EACCES);
        }
        let flags = host_flags(flags);
        let share = self.share_of(node)?;
        let (read_only, cache) = (share.read_only, share.cache);
        let writes = flags.intersects(OFlag::O_ACCMODE | OFlag::O_TRUNC);
        if read_only && writes {
            return Err(Errno::EROFS);
        }
        let path = self.nodes.path(node)?;
        let file = if writes {
            host::reopen(path.as_fd(), flags)?
        } else {
            host::reopen_for_reading(path.as_fd(), flags, read_only)?
        };
        if open_flags & abi::OPEN_KILL_SUIDGID != 0 {
            drop_set_ids(file.as_fd())?;
        }
        self.reply_opened(node, file, cache);
        Ok(Done::Reply)
    }

    fn reply_opened(&mut self, node: u64, file: File, cache: Cache) {
        let file = Arc::new(file);
        self.nodes.opened(node, Some(&file));
        // The guest compares size and times, too, but only of files that it reads by calls.
        let is_as_before = cache == Cache::Auto && {
            let version =
                host::stat(file.as_fd()).ok().and_then(|stat| Version::at(SystemTime::now(), &stat));
            self.nodes.is_as_before(node, version)
        };
        let handle = self.handles.add(Handle::File { node, file });
        let flags = match cache {
            Cache::None => abi::open::DIRECT_IO | abi::open::PARALLEL_DIRECT_WRITES,
            Cache::Auto if !is_as_before => 0,
            Cache::Auto | Cache::Always => abi::open::KEEP_CACHE,
        };
        self.reply.opened(handle, flags);
    }

    pub(super) fn create(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let Creation { flags, mode, umask, open_flags } = Creation::decode(fields)?;
        let name = fields.name()?;
        self.handles.check_room()?;
        let cache = self.share_of(header.node)?.cache;
        let folder = self.folder(header.node)?;
        self.set_umask(umask);
        let exclusive = flags & OFlag::O_EXCL.bits().unsigned_abs() != 0;
        match host::create(folder.as_fd(), name, host_flags(flags), mode) {
            Ok(file) => {
                self.give_away(folder.as_fd(), name, header)?;
                self.look_up(header.node, name)?;
                let node = self.reply.node();
                self.reply_opened(node, file, cache);
                Ok(Done::Reply)
            }
            // Somebody else made it.
            Err(Errno::EEXIST) if !exclusive => {
                self.look_up(header.node, name)?;
                let node = self.reply.node();
                self.open_node(node, flags, open_flags).inspect_err(|_| self.nodes.forget(node, 1))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a file without a name (`O_TMPFILE`).
    pub(super) fn create_unnamed(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let Creation { flags, mode, umask, .. } = Creation::decode(fields)?;
        self.handles.check_room()?;
        let share = self.nodes.share(header.node)?;
        let (cache, valid) = (self.share(share)?.cache, self.share(share)?.valid());
        let folder = self.folder(header.node)?;
        self.set_umask(umask);
        // One that may never get a name is asked for with `O_EXCL`.
        let exclusive = OFlag::from_bits_truncate(flags.cast_signed()) & OFlag::O_EXCL;
        let file = host::create_unnamed(folder.as_fd(), host_flags(flags) | exclusive, mode)?;
        if (header.uid, header.gid) != self.ids() && self.gives_files_away() {
            let (uid, gid) = self.new_owner(folder.as_fd(), header)?;
            let made = host::stat(file.as_fd())?;
            host::change_owner(file.as_fd(), c"", uid, gid)?;
            if made.mode() & (libc::S_ISUID | libc::S_ISGID) != 0 {
                host::change_mode(file.as_fd(), made.mode())?;
            }
        }
        let (node, stat) = self.nodes.add_unnamed(share, &file)?;
        self.reply_entry(node, valid, &stat);
        self.reply_opened(node, file, cache);
        Ok(Done::Reply)
    }

    pub(super) fn release(&mut self, fields: &mut Fields<'_>) -> Result<Done> {
        if let Some(Handle::File { node, .. } | Handle::Folder { node, .. }) =
            self.handles.remove(fields.u64()?)
        {
            self.nodes.closed(node);
        }
        Ok(Done::Reply)
    }

    pub(super) fn read<'m>(
        &mut self,
        call: &Call<'_, 'm>,
        fields: &mut Fields<'_>,
        vector: &mut Vector<'m>,
    ) -> Result<Done> {
        let (handle, offset, size) = (fields.u64()?, position(fields)?, fields.u32()?);
        let file = self.handles.file(handle, call.header.node)?.as_fd();
        let room = call.chain.writable.len().checked_sub(abi::OUT_HEADER).ok_or(Errno::EIO)?;
        let len = usize::try_from(size.min(MAX_DATA)).unwrap_or(usize::MAX).min(room);
        vector.clear();
        call.chain.writable.gather(call.memory, abi::OUT_HEADER, len, vector);
        repeat(vector, offset, |vector, offset| transfer::read_at(file, vector, offset)).map(Done::Data)
    }

    pub(super) fn write<'m>(
        &mut self,
        call: &Call<'_, 'm>,
        fields: &mut Fields<'_>,
        vector: &mut Vector<'m>,
    ) -> Result<Done> {
        let (handle, offset, size, write_flags) =
            (fields.u64()?, position(fields)?, fields.u32()?, fields.u32()?);
        fields.skip(8)?;
        let flags = OFlag::from_bits_truncate(fields.u32()?.cast_signed());
        let file = self.handles.file(handle, call.header.node)?.as_fd();
        let len = call.chain.readable.len().checked_sub(abi::WRITE_HEADER).ok_or(Errno::EIO)?;
        if size > MAX_DATA || usize::try_from(size) != Ok(len) {
            return Err(Errno::EIO);
        }
        if write_flags & abi::WRITE_KILL_SUIDGID != 0 {
            drop_set_ids(file)?;
        }
        vector.clear();
        call.chain.readable.gather(call.memory, abi::WRITE_HEADER, len, vector);
        let appends = flags.contains(OFlag::O_APPEND) && write_flags & abi::WRITE_CACHE == 0;
        let done = repeat(vector, offset, |vector, offset| match appends {
            true => transfer::append(file, vector),
            false => transfer::write_at(file, vector, offset),
        })?;
        self.reply.u32(u32::try_from(done).unwrap_or(u32::MAX));
        self.reply.u32(0);
        Ok(Done::Reply)
    }

    pub(super) fn sync(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (handle, flags) = (fields.u64()?, fields.u32()?);
        let file = self.handles.file(handle, header.node)?;
        host::sync(file.as_fd(), flags & abi::FSYNC_DATA_ONLY != 0)?;
        Ok(Done::Reply)
    }

    pub(super) fn allocate(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (handle, offset, len, mode) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
        let file = self.handles.file(handle, header.node)?;
        host::allocate(file, mode.cast_signed(), signed(offset)?, signed(len)?)?;
        Ok(Done::Reply)
    }

    /// Finds data and holes; other seeking is the guest's own affair.
    pub(super) fn seek(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (handle, offset, whence) = (fields.u64()?, fields.u64()?, fields.u32()?.cast_signed());
        if whence != libc::SEEK_DATA && whence != libc::SEEK_HOLE {
            return Err(Errno::EINVAL);
        }
        let file = self.handles.file(handle, header.node)?;
        let found = host::seek(file.as_fd(), signed(offset)?, whence)?;
        self.reply.u64(found.cast_unsigned());
        Ok(Done::Reply)
    }

    pub(super) fn copy(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (from, from_offset, to_node, to) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let (to_offset, len) = (fields.u64()?, fields.u64()?);
        // A file of a read-only share is not open for writing.
        let (from, to) = (self.handles.file(from, header.node)?, self.handles.file(to, to_node)?);
        let len = usize::try_from(len.min(MAX_COPY)).map_err(|_| Errno::EINVAL)?;
        let copied = host::copy(from, signed(from_offset)?, to, signed(to_offset)?, len)?;
        self.reply.u32(u32::try_from(copied).unwrap_or(u32::MAX));
        self.reply.u32(0);
        Ok(Done::Reply)
    }
}

/// How a file is to be made.
struct Creation {
    flags: u32,
    mode: u32,
    umask: u32,
    open_flags: u32,
}

impl Creation {
    fn decode(fields: &mut Fields<'_>) -> Result<Self> {
        Ok(Self {
            flags: fields.u32()?,
            mode: fields.u32()?,
            umask: fields.u32()?,
            open_flags: fields.u32()?,
        })
    }
}

fn host_flags(flags: u32) -> OFlag {
    OFlag::from_bits_truncate(flags.cast_signed()) & FLAGS
}

/// A position in a file: none is so large that a transfer that begins there could not be counted.
fn position(fields: &mut Fields<'_>) -> Result<u64> {
    signed(fields.u64()?).map(i64::cast_unsigned)
}

fn signed(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// Takes set-user-id and, if it means that, set-group-id away from a file that somebody else than root changes.
pub(super) fn drop_set_ids(fd: BorrowedFd<'_>) -> Result<()> {
    let mode = host::stat(fd)?.mode();
    let mut bits = mode & libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        bits |= mode & libc::S_ISGID;
    }
    if bits != 0 { host::change_mode(fd, mode & !bits) } else { Ok(()) }
}

/// Goes on with partial transfers to the end of the vector, or of the file. Returns how many bytes were moved.
fn repeat(
    vector: &mut Vector<'_>,
    mut offset: u64,
    mut transfer: impl FnMut(&Vector<'_>, u64) -> io::Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while !vector.is_empty() {
        match transfer(vector, offset) {
            Ok(0) => break,
            Ok(count) => {
                vector.advance(count);
                offset += count as u64;
                done += count;
            }
            // The guest learns of it when it goes on.
            Err(_) if done > 0 => break,
            Err(error) => return Err(host::errno(&error)),
        }
    }
    Ok(done)
}
