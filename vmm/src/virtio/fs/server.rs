//! Serves requests: takes one apart, has it done, and writes the reply.
//!
//! What the requests do is in [`names`](super::names), [`files`](super::files) and [`attributes`](super::attributes), by what
//! they are about, and [`hello`](super::hello), what comes first. What all have in common is here: nothing changes in a read-only
//! share, and whatever is wrong with a request, it is answered with an error number.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nix::errno::Errno;

use super::{
    Error, Share,
    abi::{self, Fields, Header, Reply, opcode},
    handles::Handles,
    host::{self, Result, Stat},
    nodes::Nodes,
    shared::Shared,
};
use crate::{
    Memory,
    virtio::{Chain, queue::transfer::Vector},
};

/// The longest request, apart from the data of a write: the longest extended attribute with its name, and room to spare.
const MAX_REQUEST: usize = 72 << 10;
/// The most data that a request reads or writes, in pages and in bytes.
pub(super) const MAX_PAGES: u16 = 256;
pub(super) const MAX_DATA: u32 = 4096 * MAX_PAGES as u32;
/// How many bits of inode numbers file systems use, and how many file systems the other bits tell apart.
const NUMBER_BITS: u32 = 48;
const MAX_DEVICES: usize = 1 << 12;

/// The file server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) shares: Vec<Shared>,
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
    pub(super) reply: Reply,
    request: Vec<u8>,
    /// `/proc/self/fd`.
    descriptors: OwnedFd,
    /// The user and the group of files that this process makes.
    ids: (u32, u32),
    /// Whether it may give files away. If not, all that it makes is its own.
    gives_files_away: bool,
    umask: u32,
    /// The file systems that the guest has seen, for [`shown_number`](Self::shown_number).
    devices: Vec<u64>,
    /// What the guest and we agreed on.
    pub(super) features: u64,
}

/// A request whose header and fields are decoded, and the chain that it came in.
pub(super) struct Call<'c, 'm> {
    pub(super) header: Header,
    pub(super) chain: &'c Chain,
    pub(super) memory: &'m Memory,
}

/// How a request ends well.
pub(super) enum Done {
    /// The reply's body is written.
    Reply,
    /// So many bytes of it are in the chain already.
    Data(usize),
    /// Nobody waits for a reply.
    Silence,
}

impl Server {
    /// Opens what is shared.
    pub(super) fn new(shares: &[Share], nodes: Nodes, handles: Handles) -> std::result::Result<Self, Error> {
        let host = |what: &'static str| move |error: Errno| Error::Host { what, source: error.into() };
        let ids = host::own_ids();
        Ok(Self {
            shares: shares.iter().map(Shared::open).collect::<std::result::Result<_, _>>()?,
            nodes,
            handles,
            reply: Reply::default(),
            request: Vec::new(),
            descriptors: host::open_descriptors().map_err(host("open /proc/self/fd"))?,
            ids,
            gives_files_away: ids.0 == 0,
            umask: 0,
            devices: Vec::new(),
            features: 0,
        })
    }

    /// Sets up the calling thread. No other thread may call [`serve`](Self::serve).
    pub(super) fn enter(&self) -> Result<()> {
        host::enter(self.descriptors.as_fd())
    }

    /// Forgets everything about the guest.
    pub(super) fn clear(&mut self) {
        self.handles.clear();
        self.nodes.clear();
    }

    /// Serves the request in `chain`. Returns how many bytes of the reply were written.
    pub(super) fn serve<'m>(&mut self, chain: &Chain, memory: &'m Memory, vector: &mut Vector<'m>) -> usize {
        let mut request = std::mem::take(&mut self.request);
        request.resize(abi::IN_HEADER, 0);
        if chain.readable.read(memory, 0, &mut request) < abi::IN_HEADER {
            self.request = request;
            return 0;
        }
        let Ok(header) = Header::decode(&mut Fields(&request)) else { return 0 };
        let len = match header.opcode {
            opcode::WRITE => abi::WRITE_HEADER,
            _ => chain.readable.len(),
        };
        self.reply.clear();
        let result = if usize::try_from(header.len) != Ok(chain.readable.len()) || len > MAX_REQUEST {
            Err(Errno::EIO)
        } else {
            request.resize(len, 0);
            // What is missing stays zero, and makes no sense as a request.
            chain.readable.read(memory, 0, &mut request);
            let fields = Fields(request.get(abi::IN_HEADER..).unwrap_or_default());
            self.dispatch(&Call { header, chain, memory }, fields, vector)
        };
        self.request = request;
        self.answer(&header, result, chain, memory)
    }

    fn answer(&self, header: &Header, result: Result<Done>, chain: &Chain, memory: &Memory) -> usize {
        let room = chain.writable.len();
        let (error, body, data) = match result {
            Ok(Done::Silence) => return 0,
            Ok(Done::Data(len)) => (0, len, &[][..]),
            Ok(Done::Reply) if self.reply.len() + abi::OUT_HEADER <= room => {
                (0, self.reply.len(), self.reply.bytes())
            }
            // The guest did not leave enough room.
            Ok(Done::Reply) => (Errno::EIO as i32, 0, &[][..]),
            Err(error) => (error as i32, 0, &[][..]),
        };
        // One that has no room for an error either is not waiting.
        if room < abi::OUT_HEADER {
            return 0;
        }
        chain.writable.write(memory, 0, &abi::out_header(header.unique, -error, body));
        chain.writable.write(memory, abi::OUT_HEADER, data);
        abi::OUT_HEADER + body
    }

    fn dispatch<'m>(
        &mut self,
        call: &Call<'_, 'm>,
        mut fields: Fields<'_>,
        vector: &mut Vector<'m>,
    ) -> Result<Done> {
        let header = &call.header;
        let fields = &mut fields;
        match header.opcode {
            opcode::INIT => return self.init(fields),
            opcode::DESTROY => {
                self.clear();
                return Ok(Done::Reply);
            }
            // Nothing takes so long that it could be interrupted.
            opcode::INTERRUPT => return Ok(Done::Silence),
            opcode::FORGET => {
                self.nodes.forget(header.node, fields.u64()?);
                return Ok(Done::Silence);
            }
            opcode::BATCH_FORGET => return self.forget_many(fields),
            _ if header.node == abi::ROOT => return self.in_shares_folder(header, fields),
            _ => {}
        }
        let share = self.nodes.share(header.node)?;
        if changes(header.opcode) && self.share(share)?.read_only {
            return Err(Errno::EROFS);
        }
        match header.opcode {
            opcode::LOOKUP => self.look_up(header.node, fields.name()?),
            opcode::READLINK => self.read_link(header),
            opcode::SYMLINK => self.make_symlink(header, fields),
            opcode::MKNOD => self.make_node(header, fields),
            opcode::MKDIR => self.make_folder(header, fields),
            opcode::UNLINK => self.remove(header, fields.name()?, false),
            opcode::RMDIR => self.remove(header, fields.name()?, true),
            opcode::RENAME => self.rename(header, fields, false),
            opcode::RENAME2 => self.rename(header, fields, true),
            opcode::LINK => self.link(header, fields),
            opcode::OPENDIR => self.open_folder(header),
            opcode::READDIR => self.read_folder(header, fields, false),
            opcode::READDIRPLUS => self.read_folder(header, fields, true),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(fields),
            opcode::FSYNCDIR => self.sync_folder(header, fields),
            opcode::OPEN => self.open(header, fields),
            opcode::CREATE => self.create(header, fields),
            opcode::TMPFILE => self.create_unnamed(header, fields),
            opcode::READ => self.read(call, fields, vector),
            opcode::WRITE => self.write(call, fields, vector),
            opcode::FSYNC => self.sync(header, fields),
            opcode::FALLOCATE => self.allocate(header, fields),
            opcode::LSEEK => self.seek(header, fields),
            opcode::COPY_FILE_RANGE => self.copy(header, fields),
            opcode::GETATTR => self.get_attributes(header, fields),
            opcode::SETATTR => self.set_attributes(header, fields),
            opcode::STATFS => self.stat_file_system(header),
            opcode::GETXATTR => self.get_xattr(header, fields),
            opcode::LISTXATTR => self.list_xattr(header, fields),
            opcode::SETXATTR => self.set_xattr(header, fields),
            opcode::REMOVEXATTR => self.remove_xattr(header, fields),
            // Locks are the guest's own affair, and so are ACCESS and FLUSH: it does not ask again.
            _ => Err(Errno::ENOSYS),
        }
    }

    fn forget_many(&mut self, fields: &mut Fields<'_>) -> Result<Done> {
        let count = fields.u32()?;
        fields.skip(4)?;
        for _ in 0..count {
            let (node, lookups) = (fields.u64()?, fields.u64()?);
            self.nodes.forget(node, lookups);
        }
        Ok(Done::Silence)
    }

    pub(super) fn share(&self, index: usize) -> Result<&Shared> {
        self.shares.get(index).ok_or(Errno::ESTALE)
    }

    /// The share that a node belongs to.
    pub(super) fn share_of(&self, node: u64) -> Result<&Shared> {
        self.share(self.nodes.share(node)?)
    }

    /// Tells the guest of a file.
    pub(super) fn reply_entry(&mut self, node: u64, valid: u64, stat: &Stat) {
        let stat = self.shown(stat);
        self.reply.entry(node, valid, &stat);
    }

    /// Looks who this process is by now. In a user namespace of its own, an ordinary user is called root, and may still not give files to
    /// others.
    pub(super) fn look_at_ids(&mut self) {
        self.ids = host::own_ids();
    }

    /// Whether this process may give files away. If not, all that it makes is its own.
    pub(super) fn gives_files_away(&self) -> bool {
        self.gives_files_away
    }

    /// How a file looks to the guest: to a server that is not root, its own files are root's, and those of others nobody's.
    pub(super) fn shown(&mut self, stat: &Stat) -> Stat {
        let stat = stat.numbered(self.shown_number(stat.device(), stat.raw().stx_ino));
        if self.gives_files_away() { stat } else { stat.as_seen_by(self.ids) }
    }

    /// The inode number that the guest sees. To it, everything that is shared lies on one file system: what lies on several is told
    /// apart by the upper bits, which real numbers leave alone.
    pub(super) fn shown_number(&mut self, device: u64, number: u64) -> u64 {
        let known = self.devices.iter().position(|known| *known == device);
        let index = known.unwrap_or_else(|| {
            // Beyond that, two files may look the same.
            if self.devices.len() < MAX_DEVICES {
                self.devices.push(device);
            }
            self.devices.len() - 1
        });
        number ^ (index as u64) << NUMBER_BITS
    }

    /// The user and the group that own what this process makes.
    pub(super) fn ids(&self) -> (u32, u32) {
        self.ids
    }

    /// Has files be made with this mask from now on.
    pub(super) fn set_umask(&mut self, mask: u32) {
        let mask = mask & 0o777;
        if mask != self.umask {
            host::set_umask(mask);
            self.umask = mask;
        }
    }

    /// A folder's descriptor.
    pub(super) fn folder(&mut self, node: u64) -> Result<Arc<OwnedFd>> {
        self.nodes.folder(node)
    }

    /// Finds a name, and tells the guest of it.
    pub(super) fn look_up(&mut self, folder: u64, name: &CStr) -> Result<Done> {
        let valid = self.share_of(folder)?.valid();
        let fd = self.folder(folder)?;
        match host::stat_at(fd.as_fd(), name) {
            Ok(stat) => {
                let node = self.nodes.look_up(folder, name, &stat)?;
                self.reply_entry(node, valid, &stat);
                Ok(Done::Reply)
            }
            // That there is nothing may be remembered, too.
            Err(Errno::ENOENT) if valid > 0 => {
                self.reply.u64(0);
                self.reply.u64(0);
                self.reply.u64(valid);
                self.reply.zeros(abi::ENTRY - 24);
                Ok(Done::Reply)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a request changes the node that it is about, or what is in it. Opening is looked at apart.
pub(super) fn changes(opcode: u32) -> bool {
    matches!(
        opcode,
        opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::WRITE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::FALLOCATE
    )
}
