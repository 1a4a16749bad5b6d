//! Requests about the names in a folder.

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{errno::Errno, fcntl::OFlag, libc};

use super::{
    abi::{self, Fields, Header},
    handles::{Entry, Folder, Handle},
    host::{self, Result},
    server::{Done, Server},
    shared::Shared,
};

/// The most that one reading of a folder brings, in bytes.
const MAX_ENTRIES: usize = 32 << 10;

impl Server {
    pub(super) fn read_link(&mut self, header: &Header) -> Result<Done> {
        if self.nodes.kind(header.node)? != libc::S_IFLNK {
            return Err(Errno::EINVAL);
        }
        let link = self.nodes.path(header.node)?;
        host::read_link(link.as_fd(), self.reply.raw())?;
        Ok(Done::Reply)
    }

    pub(super) fn make_symlink(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (name, content) = (fields.name()?, fields.text()?);
        let folder = self.folder(header.node)?;
        host::make_symlink(content, folder.as_fd(), name)?;
        self.give_away(folder.as_fd(), name, header)?;
        self.look_up(header.node, name)
    }

    pub(super) fn make_node(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (mode, device, umask) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.skip(4)?;
        let name = fields.name()?;
        match mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK | libc::S_IFCHR | libc::S_IFBLK => {}
            _ => return Err(Errno::EINVAL),
        }
        let folder = self.folder(header.node)?;
        self.set_umask(umask);
        host::make_node(folder.as_fd(), name, mode & (libc::S_IFMT | 0o7777), abi::device(device))?;
        self.give_away(folder.as_fd(), name, header)?;
        self.look_up(header.node, name)
    }

    pub(super) fn make_folder(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (mode, umask) = (fields.u32()?, fields.u32()?);
        let name = fields.name()?;
        let folder = self.folder(header.node)?;
        self.set_umask(umask);
        host::make_folder(folder.as_fd(), name, mode)?;
        self.give_away(folder.as_fd(), name, header)?;
        self.look_up(header.node, name)
    }

    /// Gives what was just made to the user who asked for it. If that fails, it is taken away again.
    pub(super) fn give_away(&mut self, folder: BorrowedFd<'_>, name: &CStr, header: &Header) -> Result<()> {
        if (header.uid, header.gid) == self.ids() || !self.gives_files_away() {
            return Ok(());
        }
        let given = self.new_owner(folder, header).and_then(|(uid, gid)| {
            let made = host::stat_at(folder, name)?;
            host::change_owner(folder, name, uid, gid)?;
            if made.kind() == libc::S_IFREG && made.mode() & (libc::S_ISUID | libc::S_ISGID) != 0 {
                // Giving away takes these bits.
                host::change_mode(host::open_path(folder, name)?.as_fd(), made.mode())?;
            }
            Ok(())
        });
        given.inspect_err(|_| {
            // The error that counts is the first one.
            let _ = host::unlink(folder, name, false).or_else(|_| host::unlink(folder, name, true));
        })
    }

    /// Who owns what a user makes in a folder: the group may be the folder's own.
    pub(super) fn new_owner(&self, folder: BorrowedFd<'_>, header: &Header) -> Result<(u32, u32)> {
        let inherits = host::stat(folder)?.mode() & libc::S_ISGID != 0;
        Ok((header.uid, if inherits { u32::MAX } else { header.gid }))
    }

    pub(super) fn remove(&mut self, header: &Header, name: &CStr, is_folder: bool) -> Result<Done> {
        self.nodes.remove(header.node, name, |folder| host::unlink(folder, name, is_folder))?;
        Ok(Done::Reply)
    }

    pub(super) fn rename(
        &mut self,
        header: &Header,
        fields: &mut Fields<'_>,
        with_flags: bool,
    ) -> Result<Done> {
        let to = fields.u64()?;
        let mut flags = 0;
        if with_flags {
            flags = fields.u32()?;
            fields.skip(4)?;
        }
        let (old, new) = (fields.name()?, fields.name()?);
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(Errno::EINVAL);
        }
        // Which also means that the other folder is not read-only.
        if self.nodes.share(to)? != self.nodes.share(header.node)? {
            return Err(Errno::EXDEV);
        }
        let from = self.folder(header.node)?;
        if flags & libc::RENAME_EXCHANGE != 0 {
            let target = self.folder(to)?;
            host::rename(from.as_fd(), old, target.as_fd(), new, flags)?;
            self.nodes.renamed(header.node, old);
        } else {
            self.nodes.remove(to, new, |target| host::rename(from.as_fd(), old, target, new, flags))?;
        }
        self.nodes.renamed(to, new);
        Ok(Done::Reply)
    }

    pub(super) fn link(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let node = fields.u64()?;
        let name = fields.name()?;
        if self.nodes.share(node)? != self.nodes.share(header.node)? {
            return Err(Errno::EXDEV);
        }
        let file = self.nodes.path(node)?;
        let folder = self.folder(header.node)?;
        host::link(file.as_fd(), folder.as_fd(), name)?;
        self.look_up(header.node, name)
    }

    pub(super) fn open_folder(&mut self, header: &Header) -> Result<Done> {
        self.handles.check_room_for_folder()?;
        let share = self.share_of(header.node)?;
        let flags = if share.valid() > 0 { abi::open::KEEP_CACHE | abi::open::CACHE_DIR } else { 0 };
        let read_only = share.read_only;
        let path = self.folder(header.node)?;
        let file = host::reopen_for_reading(path.as_fd(), OFlag::O_DIRECTORY, read_only)?;
        self.nodes.opened(header.node, None);
        let handle = self.handles.add(Handle::Folder { node: header.node, folder: Folder::new(file) });
        self.reply.opened(handle, flags);
        Ok(Done::Reply)
    }

    pub(super) fn sync_folder(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        let (handle, flags) = (fields.u64()?, fields.u32()?);
        if let Some(folder) = self.handles.folder(handle, header.node)? {
            host::sync(folder.file().as_fd(), flags & abi::FSYNC_DATA_ONLY != 0)?;
        }
        Ok(Done::Reply)
    }

    /// Lists a folder from a position on; with `plus`, each entry comes with what a look-up would bring.
    pub(super) fn read_folder(
        &mut self,
        header: &Header,
        fields: &mut Fields<'_>,
        plus: bool,
    ) -> Result<Done> {
        let (handle, position, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let room = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_ENTRIES);
        let file = match self.handles.folder(handle, header.node)? {
            Some(folder) => {
                folder.go_to(position)?;
                folder.file().clone()
            }
            None => return Ok(Done::Reply),
        };
        let device = self.nodes.device(header.node)?;
        while let Some(entry) =
            self.handles.folder(handle, header.node)?.map(Folder::peek).transpose()?.flatten()
        {
            let name = entry.name.strip_suffix(b"\0").unwrap_or(&entry.name);
            let len = abi::folder_entry_len(name.len()) + if plus { abi::ENTRY } else { 0 };
            if self.reply.len() + len > room {
                break;
            }
            if plus {
                self.describe(header.node, file.as_fd(), &entry);
            }
            let number = self.shown_number(device, entry.number);
            self.reply.folder_entry(number, entry.next, entry.kind, name);
            if let Some(folder) = self.handles.folder(handle, header.node)? {
                folder.advance();
            }
        }
        Ok(Done::Reply)
    }

    /// What a look-up of an entry would bring; nothing if it cannot be looked up now: the guest will ask.
    fn describe(&mut self, folder: u64, fd: BorrowedFd<'_>, entry: &Entry) {
        let looked_up = match entry.name.as_slice() {
            // These the guest knows, and a look-up would count.
            b".\0" | b"..\0" => Err(Errno::EINVAL),
            name => CStr::from_bytes_with_nul(name).map_err(|_| Errno::EINVAL).and_then(|name| {
                let stat = host::stat_at(fd, name)?;
                Ok((self.nodes.look_up(folder, name, &stat)?, stat))
            }),
        };
        match looked_up {
            Ok((node, stat)) => {
                let valid = self.share_of(folder).map_or(0, Shared::valid);
                self.reply_entry(node, valid, &stat);
            }
            Err(_) => self.reply.zeros(abi::ENTRY),
        }
    }
}
