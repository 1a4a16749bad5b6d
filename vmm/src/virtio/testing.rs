//! The driver's half of a queue, for tests: rings and descriptors into which any nonsense can be written.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::Memory;

/// Descriptor flags (VIRTIO 1.2, 2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Where guest memory has a hole, where it goes on, and where it ends.
pub(crate) const HOLE: u64 = 0x10_0000;
pub(crate) const AFTER_HOLE: u64 = 0x20_0000;
pub(crate) const END: u64 = 0x40_0000;

/// From the base of a [`Ring`]: the available and the used ring, and its end.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
pub(crate) const RING_LEN: u64 = 0x4000;

/// Guest memory in two pieces.
pub(crate) fn memory() -> Memory {
    let len = |from: u64, to: u64| usize::try_from(to - from).unwrap();
    Memory::from_ranges(&[(GuestAddress(0), len(0, HOLE)), (GuestAddress(AFTER_HOLE), len(AFTER_HOLE, END))])
        .unwrap()
}

/// A queue of up to 256 entries, as its driver sees it.
#[derive(Debug)]
pub(crate) struct Ring<'m> {
    memory: &'m Memory,
    base: u64,
    size: u16,
    /// The index of the available ring.
    available: u16,
    /// Where the next chain's descriptors go, and how far the used ring was read.
    next: u16,
    seen: u16,
}

impl<'m> Ring<'m> {
    /// A queue at `base`, empty.
    pub(crate) fn new(memory: &'m Memory, base: u64, size: u16) -> Self {
        Self { memory, base, size, available: 0, next: 0, seen: 0 }
    }

    /// The device's half, ready.
    pub(crate) fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.base)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.base + AVAILABLE)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.base + USED)).unwrap();
        queue.set_ready(true);
        queue
    }

    /// Writes a descriptor into the table at `table`.
    pub(crate) fn entry(&self, table: u64, index: u16, (address, len, flags): (u64, u32, u16), next: u16) {
        let at = table + 16 * u64::from(index);
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Writes a descriptor into the queue's own table.
    pub(crate) fn descriptor(&self, index: u16, descriptor: (u64, u32, u16), next: u16) {
        self.entry(self.base, index, descriptor, next);
    }

    /// Makes the chain that starts at `head` available.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = self.base + AVAILABLE + 4 + 2 * u64::from(self.available % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.set_available(self.available.wrapping_add(1));
    }

    /// Sets the available ring's index.
    pub(crate) fn set_available(&mut self, index: u16) {
        self.available = index;
        self.memory.write_obj(index, GuestAddress(self.base + AVAILABLE + 2)).unwrap();
    }

    /// Where the next chain's first descriptor goes.
    pub(crate) fn next_slot(&self) -> u16 {
        self.next % self.size
    }

    /// Makes a proper chain available; returns its head.
    pub(crate) fn chain(&mut self, parts: &[(u64, u32, u16)]) -> u16 {
        let head = self.next_slot();
        for (index, (address, len, flags)) in parts.iter().enumerate() {
            let at = self.next_slot();
            self.next = self.next.wrapping_add(1);
            let more = if index + 1 < parts.len() { NEXT } else { 0 };
            self.descriptor(at, (*address, *len, flags | more), self.next % self.size);
        }
        self.offer(head);
        head
    }

    /// What was given back since the last call: heads, and how many bytes were written.
    pub(crate) fn used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.base + USED + 2)).unwrap();
        let mut used = Vec::new();
        while self.seen != index {
            let at = self.base + USED + 4 + 8 * u64::from(self.seen % self.size);
            let word = |at| self.memory.read_obj(GuestAddress(at)).unwrap();
            used.push((word(at), word(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }
}
