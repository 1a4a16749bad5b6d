//! A disk that is asked for things.

use crate::{
    machine::{FREE, Machine, read8, write8, write32, write64},
    queue::{NEXT, Ring, WRITE},
    transport::{BLOCK, Device},
};

pub const HEADER: u64 = FREE + 0x10_0000;
pub const STATUS: u64 = FREE + 0x10_1000;
pub const DATA: u64 = FREE + 0x11_0000;

pub const IN: u32 = 0;
pub const OUT: u32 = 1;

/// A status byte that no device writes.
pub const NONE: u8 = 0xee;
pub const OK: u8 = 0;
pub const IOERR: u8 = 1;

pub struct Disk {
    pub device: Device,
    pub ring: Ring,
}

impl Disk {
    /// The machine's disk, started.
    pub fn start(machine: &Machine) -> Self {
        let disk = Self { device: Device::find(machine, BLOCK), ring: Ring::new(0, 256) };
        disk.device.start(&[&disk.ring]);
        disk
    }

    /// Starts again, with nothing in the queue.
    pub fn restart(&mut self) {
        self.device.reset();
        self.ring = Ring::new(0, 256);
        self.device.start(&[&self.ring]);
    }

    pub fn header(kind: u32, sector: u64) {
        write32(HEADER, kind);
        write64(HEADER + 8, sector);
    }

    /// Asks for something; returns the status byte, [`NONE`] if there was no answer.
    pub fn request(&self, kind: u32, sector: u64, address: u64, len: u32) -> u8 {
        Self::header(kind, sector);
        write8(STATUS, NONE);
        let direction = if kind == OUT { 0 } else { WRITE };
        self.ring.descriptor(0, HEADER, 16, NEXT, 1);
        self.ring.descriptor(1, address, len, NEXT | direction, 2);
        self.ring.descriptor(2, STATUS, 1, WRITE, 0);
        self.ring.offer(0);
        self.device.notify(0);
        self.ring.wait_all();
        read8(STATUS)
    }

    /// Panics unless the disk works as it should.
    pub fn assert_works(&mut self) {
        self.restart();
        assert_eq!(self.request(IN, 0, DATA, 512), OK, "an ordinary read after the attack");
    }
}
