//! The rings of a split queue in guest memory (VIRTIO 1.2, 2.7.5 to 2.7.10): what the driver offers, what it gets back, and who is to tell
//! the other of it.
//!
//! `virtio-queue` can do that, too, but looks up guest memory for each field that it reads or writes, and its iterator stops in silence
//! at whatever is wrong. Here a ring or a table is looked up once, as a whole, and every way to end has a name. The crate still keeps
//! what the driver has set up, and where both sides are.

use std::{
    num::Wrapping,
    sync::atomic::{Ordering, fence},
};

use virtio_queue::{Queue, QueueT, desc::split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use super::Error;
use crate::Memory;

/// Where the flags and the index of a ring are, and its entries start, in bytes (2.7.6, 2.7.8). After the entries comes the index that
/// the other side wants to be told of (2.7.7, 2.7.10).
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// The length of that index.
const EVENT: usize = 2;
/// An entry of the available, and of the used ring, in bytes.
const AVAILABLE: usize = 2;
const USED: usize = 8;
/// The flag of either ring: the other side need not tell of anything (2.7.6, 2.7.8).
const DO_NOT_TELL: u16 = 1;
/// A descriptor, in bytes (2.7.5).
const DESCRIPTOR: usize = size_of::<Descriptor>();

/// A piece of guest memory that lies in one region.
pub(super) fn slice(memory: &Memory, address: GuestAddress, len: usize) -> Option<VolatileSlice<'_>> {
    <GuestMemoryMmap<()> as GuestMemory>::get_slice(memory, address, len).ok()
}

/// A ring, looked up as a whole.
struct Ring<'m> {
    memory: VolatileSlice<'m>,
    /// A power of two, and not zero: `virtio-queue` takes no other.
    size: u16,
    entry: usize,
}

impl<'m> Ring<'m> {
    fn available(queue: &Queue, memory: &'m Memory) -> Result<Self, Error> {
        Self::new(queue, memory, queue.avail_ring(), AVAILABLE)
    }

    fn used(queue: &Queue, memory: &'m Memory) -> Result<Self, Error> {
        Self::new(queue, memory, queue.used_ring(), USED)
    }

    fn new(queue: &Queue, memory: &'m Memory, address: u64, entry: usize) -> Result<Self, Error> {
        if !queue.ready() {
            return Err(Error::Ring(virtio_queue::Error::QueueNotReady));
        }
        let size = queue.size();
        let len = ENTRIES + entry * usize::from(size) + if queue.event_idx_enabled() { EVENT } else { 0 };
        let memory = slice(memory, GuestAddress(address), len).ok_or(Error::NoRing)?;
        Ok(Self { memory, size, entry })
    }

    /// Where the entry with this index is, which counts on when the ring has gone round.
    fn entry(&self, index: u16) -> usize {
        ENTRIES + self.entry * usize::from(index & (self.size - 1))
    }

    /// Where the index is that the other side wants to be told of.
    fn event(&self) -> usize {
        ENTRIES + self.entry * usize::from(self.size)
    }

    fn load(&self, offset: usize) -> Result<u16, Error> {
        self.memory.load(offset, Ordering::Acquire).map(u16::from_le).map_err(|_| Error::NoRing)
    }

    fn store(&self, value: u16, offset: usize) -> Result<(), Error> {
        self.memory.store(value.to_le(), offset, Ordering::Release).map_err(|_| Error::NoRing)
    }
}

/// Takes the head of the next available chain, if there is one.
pub(super) fn next_head(queue: &mut Queue, memory: &Memory) -> Result<Option<u16>, Error> {
    let ring = Ring::available(queue, memory)?;
    let next = queue.next_avail();
    let ahead = ring.load(INDEX)?.wrapping_sub(next);
    if ahead == 0 {
        return Ok(None);
    }
    if ahead > ring.size {
        return Err(Error::Ring(virtio_queue::Error::InvalidAvailRingIndex));
    }
    let head = ring.load(ring.entry(next))?;
    queue.set_next_avail(next.wrapping_add(1));
    Ok(Some(head))
}

/// Gives the chain that starts with `head` back.
pub(super) fn give_back(queue: &mut Queue, memory: &Memory, head: u16, written: u32) -> Result<(), Error> {
    if head >= queue.size() {
        return Err(Error::Ring(virtio_queue::Error::InvalidDescriptorIndex));
    }
    let ring = Ring::used(queue, memory)?;
    let next = queue.next_used();
    let entry = u64::from(head) | u64::from(written) << 32;
    ring.memory.write_slice(&entry.to_le_bytes(), ring.entry(next)).map_err(|_| Error::NoRing)?;
    let next = next.wrapping_add(1);
    queue.set_next_used(next);
    // After the entry that it tells of.
    ring.store(next, INDEX)
}

/// Asks the driver to tell of what it offers from now on. `true` if it has offered something already.
pub(super) fn ask_to_be_told(queue: &Queue, memory: &Memory) -> Result<bool, Error> {
    let used = Ring::used(queue, memory)?;
    if queue.event_idx_enabled() {
        used.store(queue.next_avail(), used.event())?;
    } else {
        used.store(0, FLAGS)?;
    }
    // Either we see what the driver offers, or it sees that we asked.
    fence(Ordering::SeqCst);
    Ok(Ring::available(queue, memory)?.load(INDEX)? != queue.next_avail())
}

/// Tells the driver that it need not tell of anything. Where it tells of an index, it has told of the last one that we asked for.
pub(super) fn ask_not_to_be_told(queue: &Queue, memory: &Memory) -> Result<(), Error> {
    if queue.event_idx_enabled() {
        return Ok(());
    }
    Ring::used(queue, memory)?.store(DO_NOT_TELL, FLAGS)
}

/// Whether the driver wants to be told of the `count` chains that it was given back last.
pub(super) fn is_to_be_told(queue: &Queue, memory: &Memory, count: Wrapping<u16>) -> Result<bool, Error> {
    let available = Ring::available(queue, memory)?;
    // Either the driver sees what it was given back, or we see that it asked.
    fence(Ordering::SeqCst);
    if !queue.event_idx_enabled() {
        return Ok(available.load(FLAGS)? & DO_NOT_TELL == 0);
    }
    // Whether the index that it waits for is among them, however the counters wrap.
    let wanted = Wrapping(available.load(available.event())?);
    Ok(Wrapping(queue.next_used()) - wanted - Wrapping(1) < count)
}

/// Calls `visit` with each descriptor of the chain that starts with `head`.
///
/// No chain is longer than the queue (2.7.5.2, 2.7.5.3.1), though an indirect table could hold 65535 descriptors.
pub(super) fn chain(
    queue: &Queue,
    memory: &Memory,
    head: u16,
    mut visit: impl FnMut(Descriptor) -> Result<(), Error>,
) -> Result<(), Error> {
    let unterminated = || Error::Unterminated(head);
    let size = usize::from(queue.size());
    let table = slice(memory, GuestAddress(queue.desc_table()), size * DESCRIPTOR);
    let (mut table, mut next, mut indirect) = (table.ok_or_else(unterminated)?, head, false);
    let (mut seen, mut bytes) = (0, 0_u32);
    while seen < size {
        // Of an index out of range there is nothing to read.
        let descriptor =
            table.get_ref::<Descriptor>(usize::from(next) * DESCRIPTOR).map_err(|_| unterminated())?.load();
        if descriptor.refers_to_indirect_table() {
            let len = usize::try_from(descriptor.len()).map_err(|_| unterminated())?;
            // No table inside of a table (2.7.5.3.1), and only whole entries that an index can name.
            if indirect || len % DESCRIPTOR != 0 || len / DESCRIPTOR > usize::from(u16::MAX) {
                return Err(unterminated());
            }
            table = slice(memory, descriptor.addr(), len).ok_or_else(unterminated)?;
            (next, indirect) = (0, true);
            continue;
        }
        // 4 GiB or more is no chain (2.7.5.2).
        bytes = bytes.checked_add(descriptor.len()).ok_or_else(unterminated)?;
        visit(descriptor)?;
        if !descriptor.has_next() {
            return Ok(());
        }
        next = descriptor.next();
        seen += 1;
    }
    Err(unterminated())
}
