//! Reads what a driver offers: entries of the available ring, and the descriptors that follow each other (VIRTIO 1.2, 2.7.5, 2.7.6).
//!
//! `virtio-queue` can do that, too, but looks up guest memory for each field that it reads, and its iterator stops in silence at whatever
//! is wrong. Here a ring or a table is looked up once, as a whole, and every way to end has a name.

use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT, desc::split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, VolatileMemory, VolatileSlice};

use super::Error;
use crate::Memory;

/// The flags and the index at the start of a ring, the index in them, and an entry of the available ring, in bytes (2.7.6).
const RING_HEADER: usize = 4;
const RING_INDEX: usize = 2;
const RING_ENTRY: usize = 2;
/// A descriptor, in bytes (2.7.5).
const DESCRIPTOR: usize = size_of::<Descriptor>();

/// A piece of guest memory that lies in one region.
pub(super) fn slice(memory: &Memory, address: GuestAddress, len: usize) -> Option<VolatileSlice<'_>> {
    <GuestMemoryMmap<()> as GuestMemory>::get_slice(memory, address, len).ok()
}

/// Takes the head of the next available chain, if there is one.
pub(super) fn next_head(queue: &mut Queue, memory: &Memory) -> Result<Option<u16>, Error> {
    if !queue.ready() {
        return Err(Error::Ring(virtio_queue::Error::QueueNotReady));
    }
    let (size, next) = (queue.size(), queue.next_avail());
    let len = RING_HEADER + RING_ENTRY * usize::from(size);
    let ring = slice(memory, GuestAddress(queue.avail_ring()), len).ok_or(Error::NoRing)?;
    let load = |offset| ring.load(offset, Ordering::Acquire).map(u16::from_le).map_err(|_| Error::NoRing);
    let ahead = load(RING_INDEX)?.wrapping_sub(next);
    if ahead == 0 {
        return Ok(None);
    }
    if ahead > size {
        return Err(Error::Ring(virtio_queue::Error::InvalidAvailRingIndex));
    }
    // The size is a power of two, and not zero: `virtio-queue` takes no other.
    let head = load(RING_HEADER + RING_ENTRY * usize::from(next & (size - 1)))?;
    queue.set_next_avail(next.wrapping_add(1));
    Ok(Some(head))
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
