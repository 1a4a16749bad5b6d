//! The socket device (VIRTIO 1.2, 5.10): streams between processes of the guest and descriptors of the host.
//!
//! Only the guest connects, to ports of the host that wait for it ([`Ports`]). Bytes pass between guest memory and the
//! host's descriptors without a copy in between; only what a slow reader on the host has no room for is kept, and credit
//! bounds that. A device that the guest gives no buffers to stops taking the guest's packets, so a guest can have the host
//! hold [`table::MAX_RESETS`] packets and the buffers of its connections, and nothing else.
//!
//! ```text
//! tx.rs  packets of the guest's ──► connection.rs ──► descriptor.rs ──► host        credit.rs  who may send how much
//! rx.rs  packets to the guest  ◄──  (in table.rs) ◄──                               endpoint.rs  what a caller provides
//! ```
//!
//! **Callers:** the transports, as of any [`Device`]; `Ports` is for whoever starts the VM, from any thread.
//!
//! **What can go wrong:** a guest that breaks the rules of a stream loses that connection, one that breaks the rules of a
//! queue loses the device. A descriptor that fails ends its stream; the guest is told. When the device is gone or reset,
//! what the guest had sent before is still written, by a thread if need be.

mod buffer;
mod connection;
mod credit;
mod descriptor;
mod endpoint;
mod packet;
mod pump;
mod rx;
mod table;
mod tx;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
    },
};

pub use endpoint::{Endpoint, Ports};

use self::{packet::Key, table::Table};
use super::{
    Chain, Device, DeviceError, DeviceType, QueueError, VirtQueue, Wake, queue::transfer::Vector,
    read_config_bytes,
};

/// Stream sockets (5.10.3).
const F_STREAM: u64 = 1 << 0;

const RX: usize = 0;
const TX: usize = 1;

/// Receive, transmit, event (5.10.2). Our kernel puts 16 buffers of 16 KiB into the first (`kernel/patches/vsock.patch`), others fill it with
/// some of 4 KiB, and touch every one of them: four times as many would let 4 % more come in. The event queue is only for guests that move
/// from host to host.
const QUEUE_SIZES: [u16; 3] = [64, 256, 16];

/// The lowest context identifier that a guest can have (5.10.4).
const FIRST_GUEST_CID: u32 = 3;

/// How much is done before the guest gets an interrupt and the other devices get their turn.
const BUDGET_BYTES: usize = 512 << 10;
/// What a packet costs besides its payload, in bytes.
const PACKET_COST: usize = 1 << 10;

/// How many events are taken at a time.
const EVENTS: usize = 64;

/// The token of the event that has the device go on where it stopped. No connection has the name.
const RESUME: u64 = u64::MAX;

/// The socket device.
#[derive(Debug)]
pub struct Vsock {
    guest_cid: u32,
    ports: Ports,
    table: Table,
    epoll: Arc<Epoll>,
    resume: EventFd,
    /// Chains of the transmit and of the receive queue, kept for their memory.
    tx_chain: Chain,
    rx_chains: Vec<Chain>,
}

/// What is left to do in one call.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, payload: usize) {
        self.0 = self.0.saturating_sub(payload + PACKET_COST);
    }

    fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// Why work on a queue stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// There is nothing more to do.
    Done,
    /// There is, but the guest must provide buffers first.
    NoBuffers,
    /// There is, but others get their turn first.
    Spent,
}

impl Vsock {
    /// A device for the guest with context identifier `guest_cid`, and the ports that the guest can connect to.
    ///
    /// # Errors
    /// A context identifier below 3 or `u32::MAX`, which are reserved, or no descriptors left.
    pub fn new(guest_cid: u32) -> io::Result<(Self, Ports)> {
        if !(FIRST_GUEST_CID..u32::MAX).contains(&guest_cid) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "reserved vsock context identifier"));
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let resume = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Edge-triggered: one event for each write, with nothing to be read.
        epoll.add(&resume, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, RESUME))?;
        let ports = Ports::new();
        let device = Self {
            guest_cid,
            ports: ports.clone(),
            table: Table::default(),
            epoll: Arc::new(epoll),
            resume,
            tx_chain: Chain::default(),
            rx_chains: (0..rx::TURN_CHAINS).map(|_| Chain::default()).collect(),
        };
        Ok((device, ports))
    }

    fn work(&mut self, wake: Wake, queues: &mut [VirtQueue<'_>]) -> Result<(), DeviceError> {
        let [rx, tx, ..] = queues else { return Ok(()) };
        if wake == Wake::Events {
            self.take_events()?;
        }
        let mut budget = Budget(BUDGET_BYTES);
        let mut vector = Vector::new();
        loop {
            rx.disable_notification().map_err(broken(RX))?;
            tx.disable_notification().map_err(broken(TX))?;
            let to_guest = self.send_packets(rx, &mut vector, &mut budget)?;
            let from_guest = self.take_packets(tx, &mut vector, &mut budget)?;
            if to_guest == Stopped::Spent || from_guest == Stopped::Spent {
                return self.go_on_later();
            }
            if to_guest == Stopped::Done && self.table.has_work() {
                continue;
            }
            // Chains that came before the guest knew that it has to notify are taken now. While there is something to send,
            // and no buffer for it, `from_guest` may leave packets: the receive queue's notification resumes both.
            let mut more = false;
            if to_guest == Stopped::NoBuffers {
                more |= rx.enable_notification().map_err(broken(RX))?;
            }
            if from_guest == Stopped::Done {
                more |= tx.enable_notification().map_err(broken(TX))?;
            }
            if !more {
                return Ok(());
            }
            // A guest could have an index move back and forth, for ever.
            budget.spend(0);
        }
    }

    /// Has the transport call again.
    fn go_on_later(&self) -> Result<(), DeviceError> {
        self.resume.write(1).map(drop).map_err(host("wake the socket device"))
    }

    /// Learns which descriptors are ready. Whatever is not taken keeps [`Device::event_fd`] readable.
    fn take_events(&mut self) -> Result<(), DeviceError> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(host("wait for the socket device's descriptors")(error)),
        };
        for event in &events[..ready] {
            let key = Key::from_token(event.data());
            if let Some(connection) = self.table.get(key) {
                let verdict = connection.event(event.events());
                self.table.settle(key, verdict);
            }
        }
        Ok(())
    }

    /// Forgets the guest, and leaves nothing that could make [`Device::event_fd`] readable.
    fn forget(&mut self) {
        self.table.clear();
        // Only `resume` is left in there, with at most one event.
        let mut event = [EpollEvent::empty()];
        let _ = self.epoll.wait(&mut event, EpollTimeout::ZERO);
    }
}

impl Device for Vsock {
    fn name(&self) -> &'static str {
        "vsock"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&u64::from(self.guest_cid).to_le_bytes(), offset, data);
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.0.as_fd())
    }

    fn process(&mut self, wake: Wake, queues: &mut [VirtQueue<'_>]) -> Result<(), DeviceError> {
        let result = self.work(wake, queues);
        if result.is_err() {
            self.forget();
        }
        result
    }

    fn reset(&mut self) {
        self.forget();
    }

    fn prepare(&mut self) -> io::Result<()> {
        self.table.pump.start()
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.ports.close();
        self.table.clear();
    }
}

/// Makes what went wrong with the queue `index` the device's error.
fn broken(index: usize) -> impl Fn(QueueError) -> DeviceError {
    move |source| DeviceError::Queue { index, source }
}

fn host(what: &'static str) -> impl Fn(Errno) -> DeviceError {
    move |error| DeviceError::Host { what, source: error.into() }
}

#[cfg(test)]
mod tests;
