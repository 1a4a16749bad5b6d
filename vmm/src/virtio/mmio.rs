//! The virtio-mmio transport (VIRTIO 1.2, 4.2): one window of registers a device.
//!
//! vCPU threads read and write registers, the device loop works on the queues; both hold the device's lock while they
//! do. Only the interrupt status is outside of it.
//!
//! What the driver may write depends on how far it came: queue registers only before `DRIVER_OK`, features only before
//! `FEATURES_OK`. Anything else is ignored, so no state of a running device ever changes under it.

mod interrupt;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

pub use self::interrupt::Line;
use self::interrupt::{CONFIG_CHANGE, Interrupt, USED_RING};
use super::{Device, VirtQueue, Wake, complaints::Complaints};
use crate::Memory;

/// Registers (4.2.2).
mod register {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE_ID: u64 = 0x08;
    pub(super) const VENDOR_ID: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub(super) const QUEUE_SELECT: u64 = 0x30;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x34;
    pub(super) const QUEUE_SIZE: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x84;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub(super) const SHARED_MEMORY_LEN_LOW: u64 = 0xb0;
    pub(super) const SHARED_MEMORY_BASE_HIGH: u64 = 0xbc;
    /// Of our own: where notifications go, too, if not zero. The range up to the next register is reserved.
    pub(super) const NOTIFY_PORT: u64 = 0xd0;
    pub(super) const CONFIG_GENERATION: u64 = 0xfc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// Where a driver writes to notify a queue, from the start of the window.
pub const QUEUE_NOTIFY_OFFSET: u64 = register::QUEUE_NOTIFY;

/// Device status bits (2.1).
mod status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
    pub(super) const NEEDS_RESET: u32 = 64;
    pub(super) const FAILED: u32 = 128;
}

/// Feature bits of the transport (6).
const RING_INDIRECT_DESC: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "MOTE".
const VENDOR: u32 = 0x4554_4f4d;

/// A device in its window.
pub struct MmioDevice {
    inner: Mutex<Inner>,
    interrupt: Interrupt,
    /// Who does the work that a register access gives rise to, if not the accessing thread itself.
    deferred: OnceLock<EventFd>,
}

struct Inner {
    device: Box<dyn Device>,
    memory: Memory,
    notify_port: u16,
    queues: Vec<Queue>,
    status: u32,
    queue_select: usize,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    complaints: Complaints,
}

impl MmioDevice {
    /// Puts `device` into a window; `line` is its interrupt line, `notify_port` an I/O port that takes its queues' notifications, or zero.
    ///
    /// # Errors
    /// A queue size that is no power of two, or above 32768.
    pub fn new(
        device: Box<dyn Device>,
        memory: Memory,
        line: Box<dyn Line>,
        notify_port: u16,
    ) -> Result<Arc<Self>, virtio_queue::Error> {
        let queues = device.queue_sizes().iter().map(|size| Queue::new(*size)).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            inner: Mutex::new(Inner {
                device,
                memory,
                notify_port,
                queues,
                status: 0,
                queue_select: 0,
                device_features_select: 0,
                driver_features_select: 0,
                driver_features: 0,
                complaints: Complaints::default(),
            }),
            interrupt: Interrupt::new(line),
            deferred: OnceLock::new(),
        }))
    }

    /// A read of the guest's at `offset` of the window. Registers are 32 bits wide; other widths read as zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= register::CONFIG {
            self.inner().device.read_config(offset - register::CONFIG, data);
            return;
        }
        data.fill(0);
        if data.len() == 4 {
            let value = match offset {
                register::INTERRUPT_STATUS => self.interrupt.status(),
                _ => self.inner().read_register(offset),
            };
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// A write of the guest's at `offset` of the window. Registers are 32 bits wide; other widths are ignored.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        match offset {
            register::INTERRUPT_ACK => {
                self.interrupt.acknowledge(value);
            }
            // Reaches us only where no ioeventfd is bound to it.
            register::QUEUE_NOTIFY => {
                if let Ok(queue) = usize::try_from(value) {
                    self.process_later(Wake::Queue(queue));
                }
            }
            register::STATUS => {
                let mut inner = self.inner();
                if inner.write_status(value) {
                    self.interrupt.reset();
                }
                // What the driver put into the queues before it said that it is ready has not been looked at. A device with a
                // thread of its own is told: its driver notifies it of everything (3.1.1).
                if inner.status & status::DRIVER_OK != 0 && !inner.device.needs_own_thread() {
                    drop(inner);
                    self.process_later(Wake::Events);
                }
            }
            _ => self.inner().write_register(offset, value),
        }
    }

    /// Leaves the work that register accesses give rise to for whoever waits for `event`, and then calls
    /// [`process`](Self::process) with [`Wake::Events`].
    pub fn defer_to(&self, event: EventFd) {
        // The first one keeps the work.
        let _ = self.deferred.set(event);
    }

    fn process_later(&self, wake: Wake) {
        match self.deferred.get() {
            // Fails only when the counter is full, and then the descriptor is readable.
            Some(event) => drop(event.write(1)),
            None => self.process(wake),
        }
    }

    /// Lets the device work, if its driver is ready. Called by the device loop.
    pub fn process(&self, wake: Wake) {
        self.inner().process(wake, &self.interrupt);
    }

    /// Runs `f` with the device.
    pub fn with_device<R>(&self, f: impl FnOnce(&dyn Device) -> R) -> R {
        f(self.inner().device.as_ref())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn features(&self) -> u64 {
        self.device.features() | VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device.device_type() as u32,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.features(), self.device_features_select),
            register::QUEUE_SIZE_MAX => self.selected().map_or(0, |queue| queue.max_size().into()),
            register::QUEUE_READY => self.selected().map_or(0, |queue| queue.ready().into()),
            register::STATUS => self.status,
            // Length and base of a region that is not there: our devices have none.
            register::SHARED_MEMORY_LEN_LOW..=register::SHARED_MEMORY_BASE_HIGH => u32::MAX,
            register::NOTIFY_PORT => self.notify_port.into(),
            // The configuration of our devices never changes.
            register::CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            register::QUEUE_SELECT => self.queue_select = usize::try_from(value).unwrap_or(usize::MAX),
            register::DRIVER_FEATURES if self.may_set_features() => {
                let (shift, keep) = match self.driver_features_select {
                    0 => (0, 0xffff_ffff_0000_0000),
                    1 => (32, 0x0000_0000_ffff_ffff),
                    _ => return,
                };
                self.driver_features = (self.driver_features & keep) | (u64::from(value) << shift);
            }
            _ if self.may_set_queues() => self.write_queue_register(offset, value),
            _ => {}
        }
    }

    fn write_queue_register(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queues.get_mut(self.queue_select) else { return };
        if offset == register::QUEUE_READY {
            queue.set_ready(value == 1);
            return;
        }
        if queue.ready() {
            return;
        }
        match offset {
            register::QUEUE_SIZE => queue.set_size(u16::try_from(value).unwrap_or(0)),
            register::QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            register::QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            register::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            register::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            register::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            register::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// Takes a new device status. `true` if it was a reset.
    fn write_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        // Bits are only ever added, and only in the order of 3.1.1.
        let added = value & !self.status;
        for (bit, needs) in [
            (status::ACKNOWLEDGE, 0),
            (status::DRIVER, status::ACKNOWLEDGE),
            (status::FEATURES_OK, status::DRIVER),
            (status::DRIVER_OK, status::FEATURES_OK),
            (status::FAILED, 0),
        ] {
            if added & bit == 0 || self.status & needs != needs {
                continue;
            }
            match bit {
                status::FEATURES_OK if !self.accept_features() => {}
                status::DRIVER_OK => self.activate(),
                _ => self.status |= bit,
            }
        }
        false
    }

    /// Whether the driver's choice of features is one that the device can work with.
    fn accept_features(&mut self) -> bool {
        let accepted = self.driver_features;
        if accepted & !self.features() != 0 || accepted & VERSION_1 == 0 {
            let name = self.device.name();
            self.complaints.log(name, format_args!("driver asked for features that are not offered"));
            return false;
        }
        self.device.set_features(accepted);
        true
    }

    fn activate(&mut self) {
        let event_idx = self.driver_features & RING_EVENT_IDX != 0;
        for (index, queue) in self.queues.iter_mut().enumerate() {
            queue.set_event_idx(event_idx);
            if queue.ready() && !queue.is_valid(&self.memory) {
                let what = format_args!("driver set up a queue that is not valid (queue {index})");
                self.complaints.log(self.device.name(), what);
                self.status |= status::NEEDS_RESET;
                return;
            }
        }
        self.status |= status::DRIVER_OK;
    }

    fn process(&mut self, wake: Wake, interrupt: &Interrupt) {
        if self.status & status::DRIVER_OK == 0 || self.status & status::NEEDS_RESET != 0 {
            return;
        }
        let mut queues: Vec<_> =
            self.queues.iter_mut().map(|queue| VirtQueue::new(queue, &self.memory)).collect();
        let result = self.device.process(wake, &mut queues);
        let mut raise = false;
        for queue in &mut queues {
            // A ring that cannot be read any more shows up as an error when the device uses it next.
            raise |= queue.needs_interrupt().unwrap_or(true);
        }
        if raise {
            interrupt.raise(USED_RING);
        }
        if let Err(error) = result {
            let what = format_args!("{}; the device stops until it is reset", error.whole());
            self.complaints.log(self.device.name(), what);
            self.status |= status::NEEDS_RESET;
            interrupt.raise(CONFIG_CHANGE);
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(QueueT::reset);
        self.status = 0;
        self.queue_select = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(self.queue_select)
    }

    fn may_set_features(&self) -> bool {
        self.status & (status::DRIVER | status::FEATURES_OK | status::NEEDS_RESET) == status::DRIVER
    }

    fn may_set_queues(&self) -> bool {
        let wanted = status::DRIVER | status::FEATURES_OK;
        self.status & (wanted | status::DRIVER_OK | status::NEEDS_RESET) == wanted
    }
}

/// The low or the high half of 64 bits; a selector beyond them selects zeros.
fn half(bits: u64, select: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation)]
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
