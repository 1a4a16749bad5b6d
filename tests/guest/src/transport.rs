//! virtio-mmio from the driver's side (VIRTIO 1.2, 4.2).

use crate::{
    machine::{Machine, read32, write32},
    queue::Ring,
};

pub const BLOCK: u32 = 2;
pub const VSOCK: u32 = 19;
pub const FS: u32 = 26;

pub const DEVICE_ID: u64 = 0x08;
pub const QUEUE_NOTIFY: u64 = 0x50;
pub const STATUS: u64 = 0x70;
pub const NEEDS_RESET: u32 = 64;

/// A device's window.
#[derive(Clone, Copy)]
pub struct Device(pub u64);

impl Device {
    /// The machine's device of a type.
    pub fn find(machine: &Machine, kind: u32) -> Self {
        let window = machine.windows().find(|window| read32(window + DEVICE_ID) == kind);
        Self(window.expect("a device of this type"))
    }

    pub fn read(self, register: u64) -> u32 {
        read32(self.0 + register)
    }

    pub fn write(self, register: u64, value: u32) {
        write32(self.0 + register, value);
    }

    pub fn notify(self, queue: u32) {
        self.write(QUEUE_NOTIFY, queue);
    }

    pub fn reset(self) {
        self.write(STATUS, 0);
    }

    pub fn is_broken(self) -> bool {
        self.read(STATUS) & NEEDS_RESET != 0
    }

    /// From a reset to agreed features: no event index, so that nothing is held back.
    pub fn negotiate(self) {
        self.reset();
        self.write(STATUS, 1);
        self.write(STATUS, 3);
        for (half, value) in [(0, 0), (1, 1)] {
            self.write(0x24, half);
            self.write(0x20, value);
        }
        self.write(STATUS, 11);
    }

    /// Gives the device a queue.
    pub fn place(self, queue: u32, ring: &Ring) {
        self.write(0x30, queue);
        self.write(0x38, ring.size.into());
        for (register, address) in [(0x80, ring.descriptors), (0x90, ring.available), (0xa0, ring.used)] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
    }

    pub fn run(self) {
        self.write(STATUS, 15);
    }

    /// From anything to a device that runs on these queues.
    pub fn start(self, rings: &[&Ring]) {
        self.negotiate();
        for (queue, ring) in (0..).zip(rings) {
            self.place(queue, ring);
        }
        self.run();
    }
}
