//! Every register, in every state, with values that make no sense.

use crate::{
    block::Disk,
    machine::{Machine, Random, read8, read16, read32, read64, write8, write16, write64},
    transport::{Device, STATUS},
};

const VALUES: [u32; 9] = [0, 1, 2, 0xff, 0x8000, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX];

/// Brings a device into state `state` of 5.
fn reach(device: Device, state: u32) {
    device.reset();
    if state == 4 {
        device.negotiate();
    } else {
        [1, 3, 11].iter().take(state as usize).for_each(|status| device.write(STATUS, *status));
    }
}

pub fn every_register(machine: &Machine) {
    // QEMU's own transport is not what is tested here, and it aborts.
    if machine.is_qemu {
        return;
    }
    for window in machine.windows() {
        let device = Device(window);
        for state in 0..5 {
            reach(device, state);
            for offset in (0..0x140).step_by(4) {
                for value in VALUES {
                    device.write(offset, value);
                    device.read(offset);
                    // Whatever that did, the next register is met in the same state.
                    if device.read(STATUS) == 0 {
                        reach(device, state);
                    }
                }
            }
            other_widths(window);
        }
        // Registers in no order at all.
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ window);
        for _ in 0..4000 {
            device.write(random.below(0x50) * 4, VALUES[random.below(9) as usize]);
        }
        device.reset();
        assert_eq!(device.read(0), u32::from_le_bytes(*b"virt"), "the device is still there");
    }
    Disk::start(machine).assert_works();
}

/// Accesses that are wider, narrower, or beside the registers.
fn other_widths(window: u64) {
    for offset in 0..0x108 {
        read8(window + offset);
        write8(window + offset, 0xff);
        if offset % 2 == 0 {
            read16(window + offset);
            write16(window + offset, 0xffff);
        }
        if offset % 8 == 0 {
            read64(window + offset);
            write64(window + offset, u64::MAX);
        }
        read32(window + offset);
    }
}

/// A device that runs keeps its queues, whatever is written to its registers.
pub fn running(machine: &Machine) {
    let mut disk = Disk::start(machine);
    // QEMU's own transport is not what is tested here.
    if !machine.is_qemu {
        for offset in (0..0x100).step_by(4).filter(|offset| *offset != STATUS) {
            for value in VALUES {
                disk.device.write(offset, value);
            }
        }
        // Bits are only added, and none of these takes the device's queues away.
        disk.device.write(STATUS, 1);
        assert_eq!(disk.request(crate::block::IN, 0, crate::block::DATA, 512), crate::block::OK);
    }
    disk.assert_works();
}

/// Notifications without end, of queues that are and are not there, in every state.
pub fn notifications(machine: &Machine) {
    for window in machine.windows() {
        for state in 0..5 {
            reach(Device(window), state);
            for queue in [0, 1, 2, 3, 255, 0x1_0000, u32::MAX] {
                (0..300).for_each(|_| Device(window).notify(queue));
            }
        }
        Device(window).reset();
    }
    let mut disk = Disk::start(machine);
    (0..20_000).for_each(|_| disk.device.notify(0));
    disk.assert_works();
}
