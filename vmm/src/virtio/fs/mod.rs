//! The file system device (VIRTIO 1.2, 5.11): folders and files of the host's, for the guest to mount.
//!
//! **Owns** what the guest may reach of them, and how. One device carries all shares of a VM: its root is a folder with one entry
//! a share, named by the share's index from 0 on. So further shares cost no device, no interrupt line and no time.
//!
//! **Callers:** the transports, as of any [`Device`]. Requests may wait for the host's disks, so the transports give it a thread of
//! its own: [`Device::needs_own_thread`].
//!
//! # Confinement
//!
//! Every request names a *node* that the guest was told of, and at most names in it. A name is one component, never `.` or `..`,
//! never with a `/`; it is looked up in an open folder; and what is found is never followed if it is a symbolic link: links are for
//! the guest to read. So no sequence of requests reaches anything that is not below what is shared. Names that the guest has are
//! checked against the file that they stood for, each time (`nodes.rs`).
//!
//! A read-only share is read-only here: each request that would change something is refused, whatever the guest mounted it as.
//! Only regular files and folders are ever opened on the host; pipes, sockets and device nodes are the guest kernel's own affair.
//!
//! # Limits
//!
//! Nodes: one for each KiB of the guest's memory, for which a guest that does remember them needs as much itself. Open files and
//! folders, and so descriptors: half of the process's limit, at most [`MAX_HANDLES`]; at most [`MAX_FOLDERS`] of them folders, each of which may hold
//! 2 KiB of its entries. Other descriptors: a quarter of the limit, at most 1536. So some are always left for the rest of the process.
//!
//! # Locks
//!
//! POSIX locks and `flock` work between the guest's processes; the host and other guests do not see them.
//!
//! # System calls
//!
//! The list is in `seccomp/kinds.rs`. What the serving thread needs once, a working folder and a mask of its own, it has before it is
//! restricted ([`Device::enter_thread`]). `/proc/self/fd` and the sources are opened when the device is made, and no absolute path
//! after that.

mod abi;
mod attributes;
mod files;
mod handles;
mod hello;
mod host;
mod names;
mod nodes;
mod server;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sys::{
        eventfd::{EfdFlags, EventFd},
        resource::{Resource, getrlimit},
    },
};

use self::{handles::Handles, nodes::Nodes, server::Server};
use super::{
    Chain, Device, DeviceError, DeviceType, QueueError, VirtQueue, Wake,
    queue::transfer::{self, Vector},
    read_config_bytes,
};

/// The queue for requests that are not answered, and the one for all others (5.11.2). The second has room for the largest
/// request, with a descriptor for each page.
const QUEUE_SIZES: [u16; 2] = [128, 512];
/// How much is done before the guest hears of it, and before the end of the VM is noticed, in bytes.
const BUDGET: usize = 1 << 20;
/// What a request costs besides its data, in bytes; also what looking at the queue once more costs.
const REQUEST_COST: usize = BUDGET / 16;
/// The longest tag (5.11.4).
pub const TAG_LEN: usize = 36;
/// The most that the guest may have open.
pub const MAX_HANDLES: usize = 1 << 16;
/// How many of them may be folders, which cost more memory than files.
pub const MAX_FOLDERS: usize = 1 << 11;
/// A guest with little memory gets at least so many nodes.
const MIN_NODES: usize = 1 << 14;

/// What the guest may remember of a share without asking.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Nothing: each read is a request. For files that change in place while they are read.
    None,
    /// Contents, for as long as size and times of the file stay as they are: the guest asks for those each time. Whatever the host
    /// changes is seen by the next access; what it changes through a mapping of its own, as soon as its kernel has changed the times.
    #[default]
    Auto,
    /// Everything. For folders that nobody but this guest changes: what others do may not be seen for a day.
    Always,
}

/// A folder or a regular file that the guest gets to see.
#[derive(Debug, Clone)]
pub struct Share {
    /// The folder or the file. Symbolic links in this path are followed.
    pub source: PathBuf,
    /// Nothing in it can be changed by the guest.
    pub read_only: bool,
    /// What the guest may remember.
    pub cache: Cache,
}

/// Why shares cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source cannot be opened.
    #[error("{path}")]
    Source {
        /// The source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a folder nor a regular file.
    #[error("{0} is neither a folder nor a regular file")]
    Kind(PathBuf),
    /// The tag is empty, too long, or has other characters than letters, digits, `-` and `_`.
    #[error("'{0}' is no tag for shares")]
    Tag(String),
    /// The host refused something that the device needs.
    #[error("cannot {what}")]
    Host {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The file system device.
#[derive(Debug)]
pub struct Fs {
    tag: [u8; TAG_LEN],
    server: Server,
    /// Readable while requests wait for the next turn.
    resume: EventFd,
    chain: Chain,
    /// The driver has reset the device; what it had open is closed before anything else.
    was_reset: bool,
}

impl Fs {
    /// A device with these shares that the guest mounts by `tag`. `memory` is how much the guest has, in bytes.
    ///
    /// Call it in the process that will serve, before that gives up its root or its view of `/proc`.
    ///
    /// # Errors
    /// A source that cannot be shared, a tag that is none.
    pub fn new(tag: &str, shares: &[Share], memory: u64) -> Result<Self, Error> {
        let fits = (1..=TAG_LEN).contains(&tag.len());
        if !fits || !tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(Error::Tag(tag.into()));
        }
        let mut padded = [0; TAG_LEN];
        padded[..tag.len()].copy_from_slice(tag.as_bytes());
        let host = |what: &'static str| move |error: Errno| Error::Host { what, source: error.into() };
        let (descriptors, _) =
            getrlimit(Resource::RLIMIT_NOFILE).map_err(host("ask for the limit of descriptors"))?;
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let handles = (descriptors / 2).min(MAX_HANDLES);
        let nodes = usize::try_from(memory >> 10).unwrap_or(usize::MAX).max(MIN_NODES);
        let resume = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        Ok(Self {
            tag: padded,
            server: Server::new(
                shares,
                Nodes::new(nodes, descriptors / 8),
                Handles::new(handles, MAX_FOLDERS),
            )?,
            resume: resume.map_err(host("create an event descriptor"))?,
            chain: Chain::default(),
            was_reset: false,
        })
    }

    /// Serves requests of one queue. `true` if there may be more.
    fn work(&mut self, queue: &mut VirtQueue<'_>) -> Result<bool, QueueError> {
        let mut vector = Vector::new();
        queue.disable_notification()?;
        let mut budget = BUDGET;
        while budget > 0 {
            if queue.pop(&mut self.chain)? {
                let written = self.server.serve(&self.chain, queue.memory(), &mut vector);
                queue.push_used(&self.chain, written)?;
                budget = budget.saturating_sub(self.chain.readable.len() + written);
            } else if queue.enable_notification()? {
                queue.disable_notification()?;
            } else {
                return Ok(false);
            }
            budget = budget.saturating_sub(REQUEST_COST);
        }
        Ok(true)
    }
}

impl Device for Fs {
    fn name(&self) -> &'static str {
        "fs"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Fs
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // tag, num_request_queues (5.11.4).
        let mut space = [0; TAG_LEN + 4];
        space[..TAG_LEN].copy_from_slice(&self.tag);
        space[TAG_LEN..].copy_from_slice(&1_u32.to_le_bytes());
        read_config_bytes(&space, offset, data);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.resume.as_fd())
    }

    fn needs_own_thread(&self) -> bool {
        true
    }

    fn prepare(&mut self) -> io::Result<()> {
        self.server.look_at_ids();
        Ok(())
    }

    fn enter_thread(&self) -> io::Result<()> {
        Ok(self.server.enter()?)
    }

    fn process(&mut self, wake: Wake, queues: &mut [VirtQueue<'_>]) -> Result<(), DeviceError> {
        let host = |what| move |error: Errno| DeviceError::Host { what, source: error.into() };
        if wake == Wake::Events {
            transfer::take_event(self.resume.as_fd())
                .map_err(|source| DeviceError::Host { what: "go on with requests", source })?;
        }
        if std::mem::take(&mut self.was_reset) {
            self.server.clear();
        }
        let mut more = false;
        for (index, queue) in queues.iter_mut().enumerate() {
            more |= self.work(queue).map_err(|source| DeviceError::Queue { index, source })?;
        }
        if more {
            self.resume.write(1).map_err(host("wake the file server"))?;
        }
        Ok(())
    }

    /// Done by whichever thread the driver's reset arrives at; what it means is done by the one that serves.
    fn reset(&mut self) {
        self.was_reset = true;
        if let Err(error) = transfer::take_event(self.resume.as_fd()) {
            tracing::warn!(%error, "the file server cannot be reset");
        }
    }
}
