//! The block device (VIRTIO 1.2, 5.2): a raw disk image, or a block device of the host's, as the guest's disk.
//!
//! Requests are served one after the other, straight between the file and guest memory, so at most a queue of them is ever
//! in flight and none outlives a reset. The image is raw bytes, whatever they look like: a format is never guessed.
//!
//! A read-only disk is opened for reading only, and a write to it fails before anything is looked at.
//!
//! **Callers:** the transports, as of any [`Device`]. **What can go wrong:** a request that makes no sense fails with
//! `IOERR`; one that has no room for its own status breaks the queue.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{
    Chain, Device, DeviceError, DeviceType, QueueError, VirtQueue, Wake,
    queue::transfer::{self, Vector},
    read_config_bytes,
};
use crate::Memory;

/// The unit of capacities, offsets and lengths, in bytes (5.2.4).
pub const SECTOR: u64 = 512;

const QUEUE_SIZES: [u16; 1] = [256];
const QUEUE: usize = 0;
/// A chain of all descriptors of the queue, less header and status.
const SEG_MAX: u32 = 254;
/// How much is done before other devices get their turn, and before the end of the VM is noticed, in bytes.
const BUDGET: usize = 4 << 20;
/// What a request costs besides its data, in bytes; also what looking at the queue once more costs.
const REQUEST_COST: usize = BUDGET / 256;
/// The longest request, in bytes: more than any driver asks for at once, and little enough to be served in one go.
const MAX_REQUEST: usize = 64 << 20;

/// Feature bits (5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
}

/// Request types (5.2.6).
mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
}

/// Status bytes (5.2.6).
mod status {
    pub(super) const OK: u8 = 0;
    pub(super) const IOERR: u8 = 1;
    pub(super) const UNSUPP: u8 = 2;
}

/// Type, reserved, first sector.
const HEADER_LEN: usize = 16;
/// The length of a disk's name (5.2.6).
const ID_LEN: usize = 20;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or asked for its size.
    #[error("disk {path} cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("disk {0} is neither a file nor a block device")]
    Kind(PathBuf),
    /// Less than a sector.
    #[error("disk {0} is empty")]
    Empty(PathBuf),
    /// A disk that the guest may write to is not open for writing.
    #[error("disk {0} is not open for writing")]
    NotWritable(PathBuf),
    /// The host has no descriptors left.
    #[error("disk {path} cannot be served")]
    Host {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The block device.
#[derive(Debug)]
pub struct Block {
    file: File,
    /// In sectors.
    capacity: u64,
    read_only: bool,
    id: [u8; ID_LEN],
    /// The driver cannot ask for a flush, so each write is one (5.2.6.2).
    write_through: bool,
    /// Readable while requests wait for the next turn.
    resume: EventFd,
    chain: Chain,
}

/// A request that did not succeed.
struct Failure {
    status: u8,
    /// How many bytes of its data the guest got nevertheless.
    written: usize,
}

impl Failure {
    const IOERR: Self = Self { status: status::IOERR, written: 0 };
    const UNSUPP: Self = Self { status: status::UNSUPP, written: 0 };
}

impl Block {
    /// A disk with the contents of the file at `path`. Bytes after the last whole sector of 512 are not visible.
    ///
    /// # Errors
    /// The file cannot be opened, is of no use as a disk, or has not one sector.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, Error> {
        // Not to wait for anybody, if it is a pipe: that is refused below.
        let file =
            OpenOptions::new().read(true).write(!read_only).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = file.map_err(|source| Error::Open { path: path.into(), source })?;
        Self::from_file(file, path, read_only)
    }

    /// The same for a file that is open already; `path` is only for messages.
    ///
    /// # Errors
    /// As [`open`](Self::open); also a disk that is not read-only, and a file that is not open for writing.
    pub fn from_file(mut file: File, path: &Path, read_only: bool) -> Result<Self, Error> {
        let open = |source| Error::Open { path: path.into(), source };
        let kind = file.metadata().map_err(open)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::Kind(path.into()));
        }
        let access =
            fcntl(&file, FcntlArg::F_GETFL).map_err(|error| open(error.into()))? & OFlag::O_ACCMODE.bits();
        if !read_only && access != OFlag::O_RDWR.bits() {
            return Err(Error::NotWritable(path.into()));
        }
        // Where a block device ends only seeking tells.
        let capacity = file.seek(SeekFrom::End(0)).map_err(open)? / SECTOR;
        if capacity == 0 {
            return Err(Error::Empty(path.into()));
        }
        let resume = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let resume = resume.map_err(|error| Error::Host { path: path.into(), source: error.into() })?;
        let id = [0; ID_LEN];
        Ok(Self { file, capacity, read_only, id, write_through: false, resume, chain: Chain::default() })
    }

    /// Gives the disk a name that the guest can ask for: the first 20 bytes of `id`.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = [0; ID_LEN];
        self.id.iter_mut().zip(id.bytes()).for_each(|(slot, byte)| *slot = byte);
        self
    }

    /// The size in sectors of 512 bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    fn work(&mut self, wake: Wake, queue: &mut VirtQueue<'_>) -> Result<(), DeviceError> {
        if wake == Wake::Events {
            transfer::take_event(self.resume.as_fd())
                .map_err(|source| DeviceError::Host { what: "go on with the block device", source })?;
        }
        let mut chain = std::mem::take(&mut self.chain);
        let mut vector = Vector::new();
        queue.disable_notification().map_err(broken)?;
        let mut budget = BUDGET;
        while budget > 0 {
            if queue.pop(&mut chain).map_err(broken)? {
                let written = self.serve(&chain, queue.memory(), &mut vector).map_err(broken)?;
                queue.push_used(&chain, written).map_err(broken)?;
                budget = budget.saturating_sub(chain.readable.len() + chain.writable.len());
            } else if queue.enable_notification().map_err(broken)? {
                queue.disable_notification().map_err(broken)?;
            } else {
                self.chain = chain;
                return Ok(());
            }
            budget = budget.saturating_sub(REQUEST_COST);
        }
        self.chain = chain;
        let woken = self.resume.write(1).map(drop);
        woken.map_err(|error| DeviceError::Host { what: "wake the block device", source: error.into() })
    }

    /// Makes sure that a device that nobody drives wakes nobody.
    fn forget(&self) {
        if let Err(error) = transfer::take_event(self.resume.as_fd()) {
            tracing::warn!(%error, "block device cannot be reset");
        }
    }

    /// Serves one request, and writes its status. Returns how many bytes of the chain's writable part were written.
    fn serve<'m>(
        &self,
        chain: &Chain,
        memory: &'m Memory,
        vector: &mut Vector<'m>,
    ) -> Result<usize, QueueError> {
        // The driver may cut a request into descriptors as it likes (2.7.4); the status is the last writable byte.
        let data = chain.writable.len().checked_sub(1).ok_or(QueueError::Shape(chain.head()))?;
        let (status, written) = match self.execute(chain, data, memory, vector) {
            Ok(written) => (status::OK, written),
            Err(failure) => (failure.status, failure.written),
        };
        chain.writable.write(memory, data, &[status]);
        // What is written counts up to the first byte that is not (2.7.8.2).
        Ok(if written == data { data + 1 } else { written })
    }

    /// Returns how many bytes of data the guest got.
    fn execute<'m>(
        &self,
        chain: &Chain,
        data: usize,
        memory: &'m Memory,
        vector: &mut Vector<'m>,
    ) -> Result<usize, Failure> {
        let mut kind = [0; 4];
        let mut sector = [0; 8];
        if chain.readable.read(memory, 0, &mut kind) + chain.readable.read(memory, 8, &mut sector) != 12 {
            return Err(Failure::IOERR);
        }
        let sector = u64::from_le_bytes(sector);
        vector.clear();
        match u32::from_le_bytes(kind) {
            request::IN => {
                let offset = self.offset(sector, data)?;
                chain.writable.gather(memory, 0, data, vector);
                let file = self.file.as_fd();
                repeat(vector, offset, |vector, offset| transfer::read_at(file, vector, offset))
            }
            request::OUT => {
                if self.read_only {
                    return Err(Failure::IOERR);
                }
                let len = chain.readable.len() - HEADER_LEN;
                let offset = self.offset(sector, len)?;
                chain.readable.gather(memory, HEADER_LEN, len, vector);
                let file = self.file.as_fd();
                repeat(vector, offset, |vector, offset| transfer::write_at(file, vector, offset))?;
                if self.write_through { self.flush() } else { Ok(0) }
            }
            request::FLUSH => self.flush(),
            request::GET_ID => {
                if data < ID_LEN {
                    return Err(Failure::IOERR);
                }
                Ok(chain.writable.write(memory, 0, &self.id))
            }
            _ => Err(Failure::UNSUPP),
        }
    }

    /// Where in the file `len` bytes from `sector` on are, if that is whole sectors of the disk, and not too many at once.
    fn offset(&self, sector: u64, len: usize) -> Result<u64, Failure> {
        if len > MAX_REQUEST {
            return Err(Failure::IOERR);
        }
        let len = u64::try_from(len).map_err(|_| Failure::IOERR)?;
        let end = sector.checked_add(len / SECTOR).ok_or(Failure::IOERR)?;
        if !len.is_multiple_of(SECTOR) || end > self.capacity {
            return Err(Failure::IOERR);
        }
        // No overflow: at most the size of the file.
        Ok(sector * SECTOR)
    }

    fn flush(&self) -> Result<usize, Failure> {
        if !self.read_only {
            self.file.sync_data().map_err(|error| {
                tracing::warn!(%error, "disk cannot be flushed");
                Failure::IOERR
            })?;
        }
        Ok(0)
    }
}

/// Goes on with partial transfers until all of `vector` is done. Returns how many bytes that were.
fn repeat(
    vector: &mut Vector<'_>,
    mut offset: u64,
    mut transfer: impl FnMut(&Vector<'_>, u64) -> io::Result<usize>,
) -> Result<usize, Failure> {
    let mut done = 0;
    while !vector.is_empty() {
        match transfer(vector, offset) {
            // A file that has become shorter.
            Ok(0) => return Err(Failure { status: status::IOERR, written: done }),
            Ok(count) => {
                vector.advance(count);
                offset += count as u64;
                done += count;
            }
            Err(error) => {
                tracing::warn!(%error, offset, "disk failed");
                return Err(Failure { status: status::IOERR, written: done });
            }
        }
    }
    Ok(done)
}

fn broken(source: QueueError) -> DeviceError {
    DeviceError::Queue { index: QUEUE, source }
}

impl Device for Block {
    fn name(&self) -> &'static str {
        "block"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        let read_only = if self.read_only { feature::RO } else { 0 };
        feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | read_only
    }

    fn set_features(&mut self, accepted: u64) {
        self.write_through = accepted & feature::FLUSH == 0;
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // capacity, size_max, seg_max, geometry, blk_size (5.2.4).
        let mut space = [0; 24];
        space[0..8].copy_from_slice(&self.capacity.to_le_bytes());
        space[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        space[20..24].copy_from_slice(&512_u32.to_le_bytes());
        read_config_bytes(&space, offset, data);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.resume.as_fd())
    }

    fn process(&mut self, wake: Wake, queues: &mut [VirtQueue<'_>]) -> Result<(), DeviceError> {
        let result = queues.first_mut().map_or(Ok(()), |queue| self.work(wake, queue));
        if result.is_err() {
            self.forget();
        }
        result
    }

    fn reset(&mut self) {
        self.write_through = false;
        self.forget();
    }
}

#[cfg(test)]
mod tests;
