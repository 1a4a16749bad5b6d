//! Virtio devices (VIRTIO 1.2) and the two transports that carry them.
//!
//! A [`Device`] is state plus [`process`](Device::process), which works on its queues until nothing is left to do. It does
//! not know who carries it: [`mmio`] in process, for KVM, or [`vhost_user`], for QEMU. A device that has work of its own (a
//! socket became readable) shows it through one descriptor, usually its own epoll instance, that the transport watches.

pub mod block;
mod complaints;
pub mod fs;
pub mod mmio;
mod queue;
pub mod vhost_user;
pub mod vsock;

#[cfg(test)]
mod testing;

use std::os::fd::BorrowedFd;

pub use queue::{Chain, Error as QueueError, Segment, Segments, VirtQueue};

/// Device types (VIRTIO 1.2, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceType {
    /// Block device (5.2).
    Block = 2,
    /// Socket device (5.10).
    Vsock = 19,
    /// File system device (5.11).
    Fs = 26,
}

/// Why [`Device::process`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The driver notified the queue with this index.
    Queue(usize),
    /// The device's own descriptor is ready.
    Events,
}

/// A device that cannot go on because of what its driver did, or because the host fails it. The device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver broke the rules of a queue.
    #[error("queue {index} is broken")]
    Queue {
        /// Which queue.
        index: usize,
        /// What is wrong with it.
        source: QueueError,
    },
    /// The host refused a system call that the device cannot do without.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl DeviceError {
    /// The error and what it comes from, in one line.
    fn whole(&self) -> String {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}

/// A virtio device, whatever carries it.
pub trait Device: Send {
    /// A short name for logs.
    fn name(&self) -> &'static str;

    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// The device-specific feature bits it offers (bits 0 to 23). Transports add their own.
    fn features(&self) -> u64;

    /// Tells which of all feature bits the driver accepted.
    fn set_features(&mut self, _accepted: u64) {}

    /// The largest size of each of its queues.
    fn queue_sizes(&self) -> &'static [u16];

    /// Reads the configuration space (4.1.4.3 of each transport) at `offset`. What lies beyond it reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// A descriptor that is readable when the device has something to do that no driver asked for.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether its work may wait for the host, so that it must not be done where other devices wait, nor by a vCPU.
    fn needs_own_thread(&self) -> bool {
        false
    }

    /// Does all there is to do now. `queues` has an entry for each of [`queue_sizes`](Self::queue_sizes), all of them enabled.
    ///
    /// # Errors
    /// The device is broken until it is reset; the caller logs it once.
    fn process(&mut self, wake: Wake, queues: &mut [VirtQueue<'_>]) -> Result<(), DeviceError>;

    /// Forgets everything about the driver: the state after power-on.
    fn reset(&mut self);

    /// Starts the device's own threads, if it has any, and restricts them to the system calls that they need: after this, no thread can
    /// be started. Called before the guest runs, and after the process has become whom it will stay.
    ///
    /// # Errors
    /// A thread cannot be started, or not be restricted.
    fn prepare(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Sets up the calling thread, the only one that will call [`process`](Self::process). It is not restricted yet. Called where the device
    /// [needs a thread of its own](Self::needs_own_thread), after [`prepare`](Self::prepare) and before the guest runs.
    ///
    /// # Errors
    /// The host refused it.
    fn enter_thread(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Copies the part of a configuration space that a read at `offset` sees; what lies beyond it is zero.
pub(crate) fn read_config_bytes(space: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(space.len());
    let visible = &space[from..];
    let len = visible.len().min(data.len());
    data[..len].copy_from_slice(&visible[..len]);
    data[len..].fill(0);
}
