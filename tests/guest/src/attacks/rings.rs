//! Rings in which nothing is as it should be.

use crate::{
    block::{DATA, Disk, HEADER, IN, STATUS},
    boot,
    machine::{FREE, Machine, RAM, Random, pause, write16, write64},
    queue::{INDIRECT, NEXT, Ring, WRITE, table_entry},
    transport::{Device, VSOCK},
    vsock::Socket,
};

const TABLE: u64 = FREE + 0x18_0000;
/// Where QEMU and Mote have no memory.
const HOLE: u64 = 0xd000_0000;

type Case = fn(&Ring);

/// Each of them ends with a chain that is offered.
const CASES: &[Case] = &[
    // Heads out of range.
    |ring| ring.offer(ring.size),
    |ring| ring.offer(u16::MAX),
    // The index further ahead than the queue is long, or behind.
    |ring| ring.set_index(ring.size + 1),
    |ring| ring.set_index(0x8000),
    |ring| ring.set_index(u16::MAX),
    // The next descriptor out of range; cycles.
    |ring| one(ring, HEADER, 16, NEXT, ring.size),
    |ring| one(ring, HEADER, 16, NEXT, u16::MAX),
    |ring| one(ring, HEADER, 16, NEXT, 0),
    |ring| {
        (0..ring.size).for_each(|at| ring.descriptor(at, DATA, 512, NEXT, (at + 1) % ring.size));
        ring.offer(0);
    },
    // Addresses and lengths at edges, in holes, around the end of numbers.
    |ring| one(ring, RAM - 8, 512, 0, 0),
    |ring| one(ring, RAM, 512, WRITE, 0),
    |ring| one(ring, HOLE, 512, WRITE, 0),
    |ring| one(ring, HOLE - 1, 2, WRITE, 0),
    |ring| one(ring, u64::MAX, 2, WRITE, 0),
    |ring| one(ring, u64::MAX - 0xfff, u32::MAX, WRITE, 0),
    |ring| one(ring, 0, u32::MAX, WRITE, 0),
    |ring| one(ring, 0, 0, 0, 0),
    |ring| one(ring, 0xfee0_0000, 4096, WRITE, 0),
    // A readable part behind a writable one.
    |ring| {
        ring.descriptor(0, DATA, 512, WRITE | NEXT, 1);
        one(ring, DATA, 512, WRITE | NEXT, 1);
        ring.descriptor(1, HEADER, 16, 0, 0);
    },
    // Indirect tables: none, part of one, in nowhere, within one another, longer than the queue, all that can be said.
    |ring| one(ring, TABLE, 0, INDIRECT, 0),
    |ring| one(ring, TABLE, 15, INDIRECT, 0),
    |ring| one(ring, HOLE, 16, INDIRECT, 0),
    |ring| one(ring, RAM - 8, 64, INDIRECT, 0),
    |ring| one(ring, TABLE, !15, INDIRECT, 0),
    |ring| {
        table_entry(TABLE, 0, TABLE, 16, INDIRECT, 0);
        one(ring, TABLE, 16, INDIRECT, 0);
    },
    |ring| {
        (0..1024).for_each(|at| table_entry(TABLE, at, DATA, 512, NEXT, at + 1));
        one(ring, TABLE, 1024 * 16, INDIRECT, 0);
    },
    |ring| one(ring, TABLE, 64, INDIRECT | NEXT | WRITE, 0),
    // All descriptors over one another, over the rings, and over the first page of memory.
    |ring| {
        (0..ring.size - 1).for_each(|at| ring.descriptor(at, 0, 2 << 20, WRITE | NEXT, at + 1));
        ring.descriptor(ring.size - 1, 0, 2 << 20, WRITE, 0);
        ring.offer(0);
    },
    |ring| {
        Disk::header(IN, 0);
        ring.descriptor(0, HEADER, 16, NEXT, 1);
        ring.descriptor(1, ring.available, 512, WRITE | NEXT, 2);
        ring.descriptor(2, ring.used, 512, WRITE | NEXT, 3);
        ring.descriptor(3, ring.descriptors, 512, WRITE | NEXT, 4);
        ring.descriptor(4, STATUS, 1, WRITE, 0);
        ring.offer(0);
    },
];

fn one(ring: &Ring, address: u64, len: u32, flags: u16, next: u16) {
    ring.descriptor(0, address, len, flags, next);
    ring.offer(0);
}

/// Everything of the above, and rings that are not where rings can be, on the disk.
pub fn broken(machine: &Machine) {
    let mut disk = Disk::start(machine);
    for case in CASES {
        disk.restart();
        case(&disk.ring);
        disk.device.notify(0);
        pause(20_000);
        // A broken device stays broken until it is reset.
        disk.device.notify(0);
    }
    // QEMU gives up a device whose rings are nowhere; we need not.
    if !machine.is_qemu {
        places(&mut disk);
    }
    disk.assert_works();
}

/// Rings in holes, at the end of memory, at the end of numbers.
fn places(disk: &mut Disk) {
    for address in [0, RAM - 16, RAM, HOLE - 16, HOLE, 0xffff_fff0, u64::MAX - 15, 1 << 63] {
        for part in 0..3 {
            disk.restart();
            disk.device.reset();
            let mut ring = Ring::new(0, 256);
            *[&mut ring.descriptors, &mut ring.available, &mut ring.used][part] = address;
            disk.device.start(&[&ring]);
            disk.device.notify(0);
            pause(20_000);
        }
    }
}

/// The same on both queues of the socket device.
pub fn sockets(machine: &Machine) {
    for case in CASES {
        let socket = Socket::start(machine);
        case(&socket.rx);
        socket.device.notify(0);
        Socket::write(&crate::vsock::Packet::new(crate::vsock::REQUEST));
        case(&socket.tx);
        socket.device.notify(1);
        pause(20_000);
        socket.device.reset();
    }
    Disk::start(machine).assert_works();
}

/// Both queues of the socket device in one place, and rings within rings.
pub fn overlapping(machine: &Machine) {
    let device = Device::find(machine, VSOCK);
    for shift in [0, 16, 0x1000, 0x2000] {
        let (first, events) = (Ring::new(0, 64), Ring::new(2, 8));
        let second = Ring {
            descriptors: first.descriptors + shift,
            available: first.available + shift,
            used: first.used + shift,
            size: 64,
        };
        let within = Ring { used: first.descriptors, available: first.used, ..second };
        for other in [second, within] {
            device.start(&[&first, &other, &events]);
            Socket::write(&crate::vsock::Packet::new(crate::vsock::REQUEST));
            for round in 0..64 {
                first.descriptor(round, crate::vsock::TX, 4096, if round % 2 == 0 { 0 } else { WRITE }, 0);
                first.offer(round);
                device.notify(u32::from(round % 2));
            }
            pause(20_000);
            device.reset();
        }
    }
    Disk::start(machine).assert_works();
}

/// What the second processor does while the first one has the device work: everything in the ring changes, all the time.
fn mutate() -> ! {
    let ring = Ring { descriptors: FREE, available: FREE + 0x4000, used: FREE + 0x6000, size: 256 };
    let mut random = Random(0x1234_5678_9abc_def1);
    loop {
        let at = random.below(8) as u16;
        match random.below(8) {
            0 => write16(ring.available + 2, ring.used_index().wrapping_add(random.below(3) as u16)),
            1 => write16(ring.available + 4 + 2 * random.below(256), at),
            2 => write64(ring.descriptors + 16 * u64::from(at), random.below(RAM + 4096)),
            3 => write64(ring.descriptors + 16 * u64::from(at) + 8, random.next()),
            4 => write16(ring.used + 2, random.next() as u16),
            _ => ring.descriptor(at, DATA, 512, if at == 0 { NEXT } else { NEXT | WRITE }, at + 1),
        }
        ring.descriptor(7, STATUS, 1, WRITE, 0);
    }
}

/// A ring that changes while it is read. Needs two processors.
pub fn moving(machine: &Machine) {
    let mut disk = Disk::start(machine);
    boot::start_second_processor(mutate);
    for _ in 0..300 {
        Disk::header(IN, 0);
        (0..20).for_each(|_| disk.device.notify(0));
        if disk.device.is_broken() || machine.is_qemu {
            disk.restart();
        }
    }
    disk.device.reset();
}

/// The same mistake over and over: it must not fill the log.
pub fn for_ever(machine: &Machine) {
    let mut disk = Disk::start(machine);
    for _ in 0..500 {
        disk.restart();
        disk.ring.offer(u16::MAX);
        disk.device.notify(0);
        pause(1000);
        if machine.is_qemu {
            continue;
        }
        // Features that nobody offered, and a queue that is nowhere.
        disk.device.reset();
        disk.device.write(0x70, 3);
        disk.device.write(0x20, u32::MAX);
        disk.device.write(0x70, 11);
        disk.device.start(&[&Ring { used: HOLE, ..disk.ring }]);
    }
    disk.assert_works();
}
