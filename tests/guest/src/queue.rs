//! A split queue from the driver's side (VIRTIO 1.2, 2.7), without any of its rules.

use core::sync::atomic::{Ordering, fence};

use crate::machine::{FREE, fill, read16, wait, write16, write32, write64};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A queue's three parts.
#[derive(Clone, Copy)]
pub struct Ring {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub size: u16,
}

impl Ring {
    /// The empty queue in place `index` of free memory; places are 64 KiB apart.
    pub fn new(index: u64, size: u16) -> Self {
        let base = FREE + index * 0x1_0000;
        fill(base, 0x8000, 0);
        Self { descriptors: base, available: base + 0x4000, used: base + 0x6000, size }
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        table_entry(self.descriptors, index, address, len, flags, next);
    }

    /// The index of the available ring.
    pub fn index(&self) -> u16 {
        read16(self.available + 2)
    }

    pub fn set_index(&self, index: u16) {
        fence(Ordering::SeqCst);
        write16(self.available + 2, index);
        fence(Ordering::SeqCst);
    }

    /// Makes the chain at `head` available.
    pub fn offer(&self, head: u16) {
        let index = self.index();
        write16(self.available + 4 + 2 * u64::from(index % self.size), head);
        self.set_index(index.wrapping_add(1));
    }

    /// How much was given back, ever.
    pub fn used_index(&self) -> u16 {
        read16(self.used + 2)
    }

    /// Waits until everything that was offered was given back, for a while.
    pub fn wait_all(&self) -> bool {
        wait(|| self.used_index() == self.index())
    }
}

pub fn table_entry(table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
    let at = table + 16 * u64::from(index);
    write64(at, address);
    write32(at + 8, len);
    write16(at + 12, flags);
    write16(at + 14, next);
}
