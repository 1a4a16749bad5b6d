//! The transport against drivers that follow the rules, and against those that do not.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::*;
use crate::virtio::{DeviceError, DeviceType};

/// Counts what it is asked to do.
#[derive(Default)]
struct Probe {
    calls: Arc<AtomicU32>,
    resets: Arc<AtomicU32>,
    broken: bool,
}

impl Device for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn features(&self) -> u64 {
        0b101
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[8, 16]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::read_config_bytes(&[1, 2, 3, 4, 5], offset, data);
    }
    fn process(&mut self, _: Wake, queues: &mut [VirtQueue<'_>]) -> Result<(), DeviceError> {
        assert_eq!(queues.len(), 2);
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.broken {
            return Err(DeviceError::Queue { index: 0, source: crate::virtio::QueueError::Unterminated(3) });
        }
        Ok(())
    }
    fn reset(&mut self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
}

fn window(probe: Probe) -> Arc<MmioDevice> {
    MmioDevice::new(Box::new(probe), memory(), Box::new(EventFd::new(libc_nonblock()).unwrap()), 0).unwrap()
}

fn libc_nonblock() -> i32 {
    nix::sys::eventfd::EfdFlags::EFD_NONBLOCK.bits()
}

fn read(device: &MmioDevice, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(device: &MmioDevice, offset: u64, value: u32) {
    device.write(offset, &value.to_le_bytes());
}

/// Brings a device up to just before `DRIVER_OK`, as 3.1.1 says.
fn negotiate(device: &MmioDevice) {
    for bits in [1, 3] {
        write(device, register::STATUS, bits);
    }
    write(device, register::DRIVER_FEATURES_SELECT, 1);
    write(device, register::DRIVER_FEATURES, 1);
    write(device, register::STATUS, 11);
    for (queue, at) in [(0, 0x1000), (1, 0x4000)] {
        write(device, register::QUEUE_SELECT, queue);
        write(device, register::QUEUE_SIZE, 8);
        write(device, register::QUEUE_DESC_LOW, at);
        write(device, register::QUEUE_DRIVER_LOW, at + 0x1000);
        write(device, register::QUEUE_DEVICE_LOW, at + 0x2000);
        write(device, register::QUEUE_READY, 1);
    }
}

#[test]
fn shared_memory_is_not_there() {
    let device = window(Probe::default());
    for register in (register::SHARED_MEMORY_LEN_LOW..=register::SHARED_MEMORY_BASE_HIGH).step_by(4) {
        assert_eq!(read(&device, register), u32::MAX);
    }
}

#[test]
fn identifies_itself() {
    let device = window(Probe::default());
    assert_eq!(read(&device, register::MAGIC), u32::from_le_bytes(*b"virt"));
    assert_eq!(read(&device, register::VERSION), 2);
    assert_eq!(read(&device, register::DEVICE_ID), 2);
    write(&device, register::QUEUE_SELECT, 1);
    assert_eq!(read(&device, register::QUEUE_SIZE_MAX), 16);
    write(&device, register::QUEUE_SELECT, 2);
    assert_eq!(read(&device, register::QUEUE_SIZE_MAX), 0);
    assert_eq!(read(&device, register::CONFIG), 0x0403_0201);
    assert_eq!(read(&device, register::CONFIG + 4), 5);
    assert_eq!(read(&device, register::CONFIG + 0x200), 0);
}

#[test]
fn processes_only_when_the_driver_is_ready() {
    let probe = Probe::default();
    let calls = Arc::clone(&probe.calls);
    let device = window(probe);
    device.process(Wake::Queue(0));
    negotiate(&device);
    device.process(Wake::Queue(0));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    write(&device, register::STATUS, 15);
    assert_eq!(read(&device, register::STATUS), 15);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "what was queued before DRIVER_OK is looked at");
    write(&device, register::QUEUE_NOTIFY, 0);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn a_running_devices_queues_cannot_be_moved() {
    let device = window(Probe::default());
    negotiate(&device);
    write(&device, register::STATUS, 15);
    let before: Vec<_> = device.inner().queues.iter().map(Queue::state).collect();
    for offset in (0..0x100).step_by(4).filter(|offset| *offset != register::STATUS) {
        for value in [0, 1, 0xffff_ffff, 0x1234] {
            write(&device, offset, value);
        }
    }
    let after: Vec<_> = device.inner().queues.iter().map(Queue::state).collect();
    assert_eq!(before, after);
    assert_eq!(read(&device, register::STATUS), 15);
}

#[test]
fn sizes_and_addresses_that_cannot_be_are_not_taken() {
    let device = window(Probe::default());
    negotiate(&device);
    write(&device, register::QUEUE_READY, 0);
    let before = device.inner().queues[1].state();
    for size in [0, 3, 7, 17, 32, 0x7fff, 0x1_0000, 0x1_0008, u32::MAX] {
        write(&device, register::QUEUE_SIZE, size);
    }
    write(&device, register::QUEUE_DESC_LOW, 0x1001);
    write(&device, register::QUEUE_DRIVER_LOW, 0x1001);
    write(&device, register::QUEUE_DEVICE_LOW, 0x1002);
    assert_eq!(device.inner().queues[1].state(), before);
    for queue in [2, 3, 0x1_0000, u32::MAX] {
        write(&device, register::QUEUE_SELECT, queue);
        write(&device, register::QUEUE_READY, 1);
        assert_eq!(read(&device, register::QUEUE_READY), 0);
    }
}

#[test]
fn a_ready_queues_registers_do_not_change() {
    let device = window(Probe::default());
    negotiate(&device);
    let before = device.inner().queues[1].state();
    for offset in [
        register::QUEUE_SIZE,
        register::QUEUE_DESC_LOW,
        register::QUEUE_DESC_HIGH,
        register::QUEUE_DRIVER_LOW,
        register::QUEUE_DRIVER_HIGH,
        register::QUEUE_DEVICE_LOW,
        register::QUEUE_DEVICE_HIGH,
    ] {
        write(&device, offset, 4);
    }
    assert_eq!(device.inner().queues[1].state(), before);
}

#[test]
fn states_come_in_order() {
    let device = window(Probe::default());
    for early in [status::DRIVER, status::FEATURES_OK, status::DRIVER_OK, status::NEEDS_RESET, 16, 32] {
        write(&device, register::STATUS, early);
        assert_eq!(read(&device, register::STATUS), 0, "{early}");
    }
    write(&device, register::STATUS, u32::MAX);
    let reached = status::ACKNOWLEDGE | status::DRIVER | status::FAILED;
    assert_eq!(read(&device, register::STATUS), reached, "no features were accepted");
    write(&device, register::STATUS, 1);
    assert_eq!(read(&device, register::STATUS), reached, "bits are never taken back");
    // No register but the status has an effect before the features are agreed on.
    write(&device, register::QUEUE_READY, 1);
    assert_eq!(read(&device, register::QUEUE_READY), 0);
}

#[test]
fn accesses_of_other_widths_do_nothing() {
    let device = window(Probe::default());
    for len in [0, 1, 2, 3, 5, 8] {
        device.write(register::STATUS, &[1; 8][..len]);
        let mut data = [0xff; 8];
        device.read(register::MAGIC, &mut data[..len]);
        assert!(data[..len].iter().all(|byte| *byte == 0), "{len}");
    }
    assert_eq!(read(&device, register::STATUS), 0);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let device = window(Probe::default());
    write(&device, register::STATUS, 1);
    write(&device, register::STATUS, 3);
    write(&device, register::DRIVER_FEATURES, 0b10);
    write(&device, register::DRIVER_FEATURES_SELECT, 1);
    write(&device, register::DRIVER_FEATURES, 1);
    write(&device, register::STATUS, 11);
    assert_eq!(read(&device, register::STATUS), 3, "FEATURES_OK stays clear");
}

#[test]
fn a_queue_outside_of_memory_needs_a_reset() {
    let probe = Probe::default();
    let (calls, resets) = (Arc::clone(&probe.calls), Arc::clone(&probe.resets));
    let device = window(probe);
    negotiate(&device);
    write(&device, register::QUEUE_READY, 0);
    write(&device, register::QUEUE_DESC_HIGH, 0xffff_ffff);
    write(&device, register::QUEUE_READY, 1);
    write(&device, register::STATUS, 15);
    assert_eq!(read(&device, register::STATUS), 11 | status::NEEDS_RESET);
    device.process(Wake::Queue(0));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    write(&device, register::STATUS, 0);
    assert_eq!((read(&device, register::STATUS), resets.load(Ordering::SeqCst)), (0, 1));
}

#[test]
fn a_broken_device_stops_and_says_so() {
    let probe = Probe { broken: true, ..Default::default() };
    let calls = Arc::clone(&probe.calls);
    let device = window(probe);
    negotiate(&device);
    write(&device, register::STATUS, 15);
    write(&device, register::QUEUE_NOTIFY, 0);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "not called again after the first failure");
    assert_eq!(read(&device, register::STATUS), 15 | status::NEEDS_RESET);
    assert_eq!(read(&device, register::INTERRUPT_STATUS), CONFIG_CHANGE);
    write(&device, register::INTERRUPT_ACK, CONFIG_CHANGE);
    assert_eq!(read(&device, register::INTERRUPT_STATUS), 0);
}

proptest! {
    #[test]
    fn survives_any_sequence_of_accesses(
        accesses in prop::collection::vec((any::<bool>(), 0u64..0x200, any::<u32>(), 0usize..9), 0..200)
    ) {
        let device = window(Probe::default());
        for (is_write, offset, value, len) in accesses {
            let bytes = u64::from(value).to_le_bytes();
            if is_write {
                device.write(offset, &bytes[..len.min(8)]);
            } else {
                let mut data = [0; 8];
                device.read(offset, &mut data[..len.min(8)]);
            }
        }
    }
}
