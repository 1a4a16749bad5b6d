//! Much of what is cheap for a guest and not for its host.

use crate::machine::{
    Machine, in8, in32, out8, out32, read8, read16, read32, read64, send, write8, write16, write32, write64,
};

/// The first serial port's registers.
const SERIAL: u16 = 0x3f8;

/// All ports, and the serial port's own loop.
pub fn ports(machine: &Machine) {
    for port in (0..=u16::MAX).step_by(if machine.is_qemu { 97 } else { 7 }) {
        in8(port);
        in32(port);
    }
    // QEMU's own devices are not what is tested here: some of them end the machine.
    if !machine.is_qemu {
        for port in (0..=u16::MAX).step_by(7).filter(|port| !(SERIAL..SERIAL + 8).contains(port)) {
            out8(port, 0xff);
            out32(port, u32::MAX);
        }
        for register in 1..8 {
            for value in 0..=255 {
                out8(SERIAL + register, value);
                in8(SERIAL + register);
            }
        }
    }
    // Divisor latch off, loop on: what is sent comes back, and nobody reads it.
    out8(SERIAL + 3, 3);
    out8(SERIAL + 4, 0x10);
    (0..20_000).for_each(|_| out8(SERIAL, b'x'));
    out8(SERIAL + 4, 0);
    out8(SERIAL + 1, 0);
}

/// Memory that is neither RAM nor a device.
pub fn nowhere(_: &Machine) {
    // Behind the devices' windows, up to what processors have there themselves.
    for address in (0xd100_0000..0xfe00_0000_u64).step_by(0x3_1000) {
        read8(address);
        read16(address + 1);
        read32(address + 2);
        read64(address + 0xffc);
        write8(address, 1);
        write16(address + 3, 2);
        write32(address + 5, 3);
        write64(address + 0xff9, 4);
    }
}

/// A line that never ends, then lines that are empty.
pub fn console(_: &Machine) {
    (0..60_000).for_each(|_| send(b'x'));
    (0..2_000).for_each(|_| send(b'\n'));
    (0..20_000_u32).for_each(|count| send(count as u8));
    send(b'\n');
}
