//! The shares, and the folder that they are in, which exists for the guest only.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nix::{errno::Errno, libc};

use super::{
    Cache, Error, Share,
    abi::{Fields, Header, opcode},
    handles::Handle,
    host::{self, Result, Stat},
    server::{Done, Server, changes},
};

/// How long the guest keeps what nobody else changes, in seconds.
const FOR_LONG: u64 = 24 * 3600;

/// A share in service.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) read_only: bool,
    pub(super) cache: Cache,
    /// What is shared, a folder or a file.
    pub(super) source: Arc<OwnedFd>,
    /// Its node, once the guest has begun.
    pub(super) root: u64,
}

impl Shared {
    /// How long the guest may take what it knows for true without asking, in seconds.
    pub(super) fn valid(&self) -> u64 {
        if self.cache == Cache::Always { FOR_LONG } else { 0 }
    }

    pub(super) fn open(share: &Share) -> std::result::Result<Self, Error> {
        let failed = |error: Errno| Error::Source { path: share.source.clone(), source: error.into() };
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let source = nix::fcntl::open(&share.source, flags, nix::sys::stat::Mode::empty()).map_err(failed)?;
        match host::stat(source.as_fd()).map_err(failed)?.kind() {
            libc::S_IFDIR | libc::S_IFREG => {}
            _ => return Err(Error::Kind(share.source.clone())),
        }
        Ok(Self { read_only: share.read_only, cache: share.cache, source: Arc::new(source), root: 0 })
    }
}

impl Server {
    /// Requests about the folder that the shares are in: each is named by its number.
    pub(super) fn in_shares_folder(&mut self, header: &Header, fields: &mut Fields<'_>) -> Result<Done> {
        match header.opcode {
            opcode::LOOKUP => {
                let name = fields.name()?;
                let share = name.to_str().ok().and_then(|name| name.parse::<usize>().ok());
                let share = share.filter(|index| index.to_string().as_bytes() == name.to_bytes());
                let (root, valid) = match share.and_then(|index| self.shares.get(index)) {
                    Some(share) => (share.root, share.valid()),
                    None => return Err(Errno::ENOENT),
                };
                let stat = self.nodes.stat(root)?;
                self.reply_entry(root, valid, &stat);
            }
            opcode::GETATTR => self.reply.attributes_for(FOR_LONG, &Stat::of_shares_folder()),
            opcode::OPENDIR => {
                self.handles.check_room()?;
                let handle = self.handles.add(Handle::Shares);
                self.reply.opened(handle, 0);
            }
            opcode::READDIR | opcode::READDIRPLUS | opcode::FSYNCDIR => {}
            opcode::RELEASEDIR => return self.release(fields),
            opcode::STATFS => self.reply.zeros(80),
            opcode::GETXATTR | opcode::LISTXATTR => return Err(Errno::EOPNOTSUPP),
            opcode if changes(opcode) => return Err(Errno::EROFS),
            _ => return Err(Errno::ENOSYS),
        }
        Ok(Done::Reply)
    }
}
