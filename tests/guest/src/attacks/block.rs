//! Requests that ask for more than there is.

use crate::{
    block::{DATA, Disk, HEADER, IN, IOERR, NONE, OK, OUT, STATUS},
    machine::{Machine, pause, read8, write8},
    queue::{NEXT, WRITE},
};

/// The disk's size in sectors.
fn capacity(disk: &Disk) -> u64 {
    u64::from(disk.device.read(0x100)) | u64::from(disk.device.read(0x104)) << 32
}

pub fn beyond_the_end(machine: &Machine) {
    let mut disk = Disk::start(machine);
    let end = capacity(&disk);
    assert_eq!(disk.request(IN, end - 1, DATA, 512), OK, "the last sector");
    for (sector, len) in [
        (end, 512),
        (end - 1, 1024),
        (end - 1, 1 << 20),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (1 << 55, 512),
        (1 << 63, 512),
        (0, 511),
        (0, 513),
    ] {
        write8(DATA, 0x77);
        assert_eq!(disk.request(IN, sector, DATA, len), IOERR, "sector {sector:#x}, {len} bytes");
        assert_eq!(read8(DATA), 0x77, "nothing was read");
    }
    disk.assert_works();
}

/// The disk is the root file system, and read-only.
pub fn writes(machine: &Machine) {
    let mut disk = Disk::start(machine);
    assert_eq!(disk.request(IN, 2, DATA, 512), OK);
    let before = read8(DATA);
    write8(DATA, !before);
    for sector in [0, 2, capacity(&disk) - 1, u64::MAX] {
        assert_eq!(disk.request(OUT, sector, DATA, 512), IOERR, "a write to a read-only disk");
    }
    // Discard, write zeroes, secure erase, and kinds that do not exist.
    for kind in [11, 13, 14, 2, 3, 5, 99, u32::MAX] {
        let status = disk.request(kind, 0, DATA, 512);
        assert!(status != OK && status != NONE, "request {kind}: status {status}");
    }
    assert_eq!(disk.request(IN, 2, DATA, 512), OK);
    assert_eq!(read8(DATA), before, "the disk has changed");
    disk.assert_works();
}

/// Status bytes that cannot be written.
pub fn nowhere(machine: &Machine) {
    let mut disk = Disk::start(machine);
    for (address, len, flags) in [
        (STATUS, 1, 0),
        (STATUS, 0, WRITE),
        (0xd000_0000, 1, WRITE),
        (u64::MAX, 1, WRITE),
        (crate::machine::RAM, 1, WRITE),
    ] {
        disk.restart();
        Disk::header(IN, 0);
        disk.ring.descriptor(0, HEADER, 16, NEXT, 1);
        disk.ring.descriptor(1, address, len, flags, 0);
        disk.ring.offer(0);
        disk.device.notify(0);
        pause(20_000);
    }
    // No writable part at all, and a header that is not one.
    for len in [0, 1, 15, 16] {
        disk.restart();
        disk.ring.descriptor(0, HEADER, len, 0, 0);
        disk.ring.offer(0);
        disk.device.notify(0);
        pause(20_000);
    }
    disk.assert_works();
}

/// Full queues, over and over, also while they are reset.
pub fn too_many(machine: &Machine) {
    let mut disk = Disk::start(machine);
    Disk::header(IN, 0);
    for round in 0..12 {
        for slot in 0..64 {
            disk.ring.descriptor(slot * 3, HEADER, 16, NEXT, slot * 3 + 1);
            disk.ring.descriptor(slot * 3 + 1, DATA, 0x1_0000, NEXT | WRITE, slot * 3 + 2);
            disk.ring.descriptor(slot * 3 + 2, STATUS, 1, WRITE, 0);
        }
        // The same chains, four times each: as many as the queue has places.
        (0..256).for_each(|request| disk.ring.offer(request % 64 * 3));
        disk.device.notify(0);
        if round % 3 == 0 {
            disk.restart();
        } else {
            assert!(disk.ring.wait_all(), "all are answered");
        }
    }
    disk.assert_works();
}
