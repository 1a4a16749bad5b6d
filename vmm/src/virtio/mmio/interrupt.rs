//! A device's interrupt: what its driver reads of it, and the line that it takes (VIRTIO 1.2, 4.2.2).
//!
//! An interrupt is an edge, raised for every one, whether or not the driver has acknowledged the last: a driver that knows our vendor,
//! as our kernel's does (`kernel/patches/virtio-interrupts.patch`), saves the two register accesses that it takes to read and to
//! acknowledge the status, unless it finds nothing in its queues.

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use vmm_sys_util::eventfd::EventFd;

/// Bits of the status.
pub(super) const USED_RING: u32 = 1;
pub(super) const CONFIG_CHANGE: u32 = 2;

/// What leads from a device to its guest's interrupt controller.
pub trait Line: Send + Sync {
    /// Interrupts the guest, once.
    ///
    /// # Errors
    /// Those of the host's kernel.
    fn raise(&self) -> io::Result<()>;
}

impl Line for EventFd {
    fn raise(&self) -> io::Result<()> {
        self.write(1)
    }
}

pub(super) struct Interrupt {
    status: AtomicU32,
    line: Box<dyn Line>,
}

impl Interrupt {
    pub(super) fn new(line: Box<dyn Line>) -> Self {
        Self { status: AtomicU32::new(0), line }
    }

    /// Adds a bit to the status, and interrupts the guest.
    pub(super) fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        if let Err(error) = self.line.raise() {
            tracing::error!(%error, "interrupt line cannot be raised");
        }
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The driver has seen these bits.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
    }
}
