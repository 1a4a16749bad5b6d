//! A device and its queues, as the frontend has set them up so far.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
};

use virtio_queue::{Queue, QueueT};

use super::backend_queues;
use crate::{
    Memory,
    virtio::{Device, VirtQueue, Wake, complaints::Complaints, queue::transfer},
};

/// Virtio feature bits that this transport adds (VIRTIO 1.2, 6).
const RING_INDIRECT_DESC: u64 = 1 << 28;
pub(super) const RING_EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
/// Not a virtio feature: the frontend may negotiate features of the vhost-user protocol.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The largest size of every queue: QEMU tells the guest its own limit (`VIRTQUEUE_MAX_SIZE`), not the device's.
const FRONTEND_QUEUE_MAX: u16 = 1024;

/// A queue that the frontend hands over. It works once it is started (ready: the frontend gave the descriptor that
/// notifications arrive at) and enabled.
pub(super) struct Ring {
    pub(super) queue: Queue,
    /// Notifications of the driver's arrive here.
    pub(super) kick: Option<File>,
    /// Interrupts for the driver go there.
    pub(super) call: Option<File>,
    pub(super) enabled: bool,
}

/// A range of the frontend's own addresses, in which it tells where rings are.
pub(super) struct Mapping {
    pub(super) frontend_address: u64,
    pub(super) guest_address: u64,
    pub(super) len: u64,
}

pub(super) struct Backend {
    pub(super) device: Box<dyn Device>,
    pub(super) memory: Memory,
    pub(super) mappings: Vec<Mapping>,
    pub(super) rings: Vec<Ring>,
    /// The device's queues that stay in the frontend: never ready.
    withheld: Vec<Queue>,
    /// Whether all rings work and the device may be called.
    running: bool,
    /// The device failed and is not called again before a reset.
    broken: bool,
    complaints: Complaints,
}

impl Backend {
    pub(super) fn new(device: Box<dyn Device>) -> Result<Self, virtio_queue::Error> {
        let mut queues = device
            .queue_sizes()
            .iter()
            .map(|_| Queue::new(FRONTEND_QUEUE_MAX))
            .collect::<Result<Vec<_>, _>>()?;
        let withheld = queues.split_off(backend_queues(device.as_ref()));
        let rings =
            queues.into_iter().map(|queue| Ring { queue, kick: None, call: None, enabled: false }).collect();
        let (memory, mappings) = (Memory::new(), Vec::new());
        Ok(Self {
            device,
            memory,
            mappings,
            rings,
            withheld,
            running: false,
            broken: false,
            complaints: Complaints::default(),
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.device.name()
    }

    pub(super) fn features(&self) -> u64 {
        self.device.features() | VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC | PROTOCOL_FEATURES
    }

    /// The guest-physical address of one of the frontend's.
    pub(super) fn guest_address(&self, frontend_address: u64) -> Option<u64> {
        self.mappings.iter().find_map(|mapping| {
            let offset = frontend_address.checked_sub(mapping.frontend_address)?;
            if offset < mapping.len { mapping.guest_address.checked_add(offset) } else { None }
        })
    }

    /// What the device waits for.
    pub(super) fn wakers(&self) -> impl Iterator<Item = (Wake, BorrowedFd<'_>)> {
        let kicks =
            self.rings.iter().enumerate().filter_map(|(index, ring)| {
                ring.kick.as_ref().map(|kick| (Wake::Queue(index), kick.as_fd()))
            });
        let events = self.device.event_fd().map(|event| (Wake::Events, event));
        kicks.chain(events).filter(|_| self.running && !self.broken)
    }

    /// One of the [`wakers`](Self::wakers) is ready.
    pub(super) fn wake(&mut self, wake: Wake) {
        if let Wake::Queue(index) = wake
            && let Some(kick) = self.rings.get(index).and_then(|ring| ring.kick.as_ref())
            && let Err(error) = transfer::take_event(kick.as_fd())
        {
            tracing::error!(device = self.name(), queue = index, %error, "notifications cannot be read: the device stops");
            self.broken = true;
        }
        self.process(wake);
    }

    /// A ring was started, stopped, enabled or disabled.
    pub(super) fn rings_changed(&mut self) {
        let running = self.rings.iter().all(|ring| ring.queue.ready() && ring.enabled);
        if running && !self.running {
            self.running = true;
            if let Some(queue) = self.rings.iter().position(|ring| !ring.queue.is_valid(&self.memory)) {
                let what = format_args!("driver set up a queue that is not valid (queue {queue})");
                self.complaints.log(self.device.name(), what);
                self.broken = true;
            }
            // What the driver put into the queues before has not been looked at.
            for queue in 0..self.rings.len() {
                self.process(Wake::Queue(queue));
            }
        }
        self.running = running;
    }

    /// A ring was stopped. QEMU stops them all when the driver resets the device, and (since it is never paused or migrated
    /// while it has our devices) only then.
    pub(super) fn ring_stopped(&mut self) {
        self.rings_changed();
        if self.rings.iter().all(|ring| !ring.queue.ready()) {
            self.reset();
        }
    }

    pub(super) fn reset(&mut self) {
        self.device.reset();
        self.broken = false;
    }

    fn process(&mut self, wake: Wake) {
        if !self.running || self.broken {
            return;
        }
        let memory = &self.memory;
        let queues = self.rings.iter_mut().map(|ring| &mut ring.queue).chain(&mut self.withheld);
        let mut queues: Vec<_> = queues.map(|queue| VirtQueue::new(queue, memory)).collect();
        let result = self.device.process(wake, &mut queues);
        // A ring that cannot be read any more shows up as an error when the device uses it next.
        let interrupts: Vec<_> =
            queues.iter_mut().map(|queue| queue.needs_interrupt().unwrap_or(true)).collect();
        for (ring, _) in self.rings.iter().zip(interrupts).filter(|(_, interrupt)| *interrupt) {
            if let Some(call) = &ring.call
                && let Err(error) = signal(call)
            {
                tracing::error!(device = self.device.name(), %error, "interrupt cannot be raised");
            }
        }
        if let Err(error) = result {
            let what = format_args!("{}; the device stops until it is reset", error.whole());
            self.complaints.log(self.device.name(), what);
            self.broken = true;
        }
    }
}

/// Adds to an event descriptor.
fn signal(mut event: &File) -> io::Result<()> {
    match event.write_all(&1u64.to_ne_bytes()) {
        // Its counter is full: whoever reads it will see it.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}
