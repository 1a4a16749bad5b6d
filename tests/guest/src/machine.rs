//! The machine: its command line, its memory, its ports, and the serial port that everything is said to.

use core::fmt::{self, Write};

/// Memory that nothing of ours is in: from here on, attacks put there what they like.
pub const FREE: u64 = 0x80_0000;
/// The least memory that the machine has, in bytes; the last pages hold the initial ramdisk.
pub const RAM: u64 = 34 << 20;

const MAX_DEVICES: usize = 8;
const SERIAL: u16 = 0x3f8;

/// What the loader said about the machine.
pub struct Machine {
    cmdline: [u8; 2048],
    len: usize,
    /// Loaded by QEMU, whose transport is not ours.
    pub is_qemu: bool,
}

impl Machine {
    /// # Safety
    /// `info` is what the loader left in memory: PVH's start information or Linux's `boot_params`.
    pub unsafe fn find(info: u64, pvh: bool) -> Self {
        let at = if pvh { read64(info + 24) } else { read32(info + 0x228).into() };
        let mut cmdline = [0; 2048];
        let mut len = 0;
        while len < cmdline.len() && read8(at + len as u64) != 0 {
            cmdline[len] = read8(at + len as u64);
            len += 1;
        }
        Self { cmdline, len, is_qemu: pvh }
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        core::str::from_utf8(&self.cmdline[..self.len]).unwrap_or("").split(' ')
    }

    /// What follows `name` on the command line.
    pub fn option(&self, name: &str) -> &str {
        self.words().find_map(|word| word.strip_prefix(name)).unwrap_or("")
    }

    /// Where the windows of the virtio devices are.
    pub fn windows(&self) -> impl Iterator<Item = u64> {
        self.words()
            .filter_map(|word| {
                let place = word.strip_prefix("virtio_mmio.device=")?.split('@').nth(1)?;
                u64::from_str_radix(place.split(':').next()?.strip_prefix("0x")?, 16).ok()
            })
            .take(MAX_DEVICES)
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        #[allow(dead_code)]
        pub fn $read(address: u64) -> $type {
            // SAFETY: all addresses below 4 GiB are mapped; what is read may be anything.
            unsafe { (address as *const $type).read_volatile() }
        }
        #[allow(dead_code)]
        pub fn $write(address: u64, value: $type) {
            // SAFETY: as above. Callers write to devices, and to memory from `FREE` on or that the machine can do without.
            unsafe { (address as *mut $type).write_volatile(value) }
        }
    };
}

access!(read8, write8, u8);
access!(read16, write16, u16);
access!(read32, write32, u32);
access!(read64, write64, u64);

/// Fills memory.
pub fn fill(address: u64, len: u64, value: u8) {
    for at in address..address + len {
        write8(at, value);
    }
}

pub fn out8(port: u16, value: u8) {
    // SAFETY: a port write changes no memory of ours.
    unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

pub fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { core::arch::asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) }
}

pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: a port read changes no memory of ours.
    unsafe { core::arch::asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { core::arch::asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) }
    value
}

/// Lets time pass.
pub fn pause(rounds: u32) {
    for _ in 0..rounds {
        core::hint::spin_loop();
    }
}

/// Waits until `condition` holds, for a while. Whether it does.
pub fn wait(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..4000 {
        if condition() {
            return true;
        }
        pause(2000);
    }
    false
}

/// Never does anything again.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off, the processor stops here.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Ends the machine: an exception without a table to find its handler in.
pub fn triple_fault() -> ! {
    let none = [0_u8; 10];
    // SAFETY: nothing is executed after this.
    unsafe { core::arch::asm!("lidt [{}]", "int3", "ud2", in(reg) none.as_ptr(), options(noreturn)) }
}

/// Sends a byte through the serial port.
pub fn send(byte: u8) {
    while in8(SERIAL + 5) & 0x20 == 0 {}
    out8(SERIAL, byte);
}

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(send);
        Ok(())
    }
}

pub fn say_line(arguments: fmt::Arguments<'_>) {
    // The serial port takes everything.
    let _ = Serial.write_fmt(arguments);
    send(b'\n');
}

/// Says a line.
macro_rules! say {
    ($($arguments:tt)*) => { $crate::machine::say_line(format_args!($($arguments)*)) };
}
pub(crate) use say;

/// Numbers that look random, the same every time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
