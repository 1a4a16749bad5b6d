//! The I/O APIC (Intel 82093AA): from a device's interrupt line to a message for a local APIC.
//!
//! KVM has one, too. This one is here for two reasons. An interrupt of KVM's takes the way over a kernel thread, because its line may
//! be shared with others; a message goes straight to the vCPU, from the thread that the device works in. And it has as many lines as
//! there are devices, each of which the guest reads and writes while it boots.
//!
//! **Owns** the redirection table. **Callers:** vCPU threads, for the guest's accesses; device threads, through a [`Pin`].
//!
//! **What can go wrong:** the guest writes any entry it likes, and gets the interrupt that it asked for, or none. Lines are edges: what
//! arrives at a masked one is lost, as it is on the chip, and whoever unmasks it looks at the device.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;

use crate::virtio::mmio::Line;

/// Where a register's number goes, and where the register itself is then (82093AA, 3.1).
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

/// Registers (3.2). Each entry of the table is two of them, the lower half first.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const TABLE: u8 = 0x10;

/// The version of the 82093AA, which has no register to end a level interrupt.
const VERSION_82093AA: u32 = 0x11;

/// Fields of an entry (3.2.4).
const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 0x700;
const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;

/// A message's address, and its fields (Intel SDM, volume 3, 11.11).
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
const MESSAGE_DESTINATION_SHIFT: u32 = 12;
const MESSAGE_LOGICAL: u32 = 1 << 2;

#[derive(Debug)]
pub(super) struct IoApic {
    table: Mutex<Table>,
    /// Who takes messages, once there is a VM.
    vm: OnceLock<Arc<VmFd>>,
}

#[derive(Debug)]
struct Table {
    selected: u8,
    id: u32,
    entries: Vec<u64>,
}

impl IoApic {
    /// One with so many lines, all of them masked.
    pub(super) fn new(lines: u8) -> Self {
        let table = Table { selected: 0, id: 0, entries: vec![MASKED; lines.into()] };
        Self { table: Mutex::new(table), vm: OnceLock::new() }
    }

    /// Says which VM gets the messages. Interrupts before that are lost.
    pub(super) fn connect(&self, vm: Arc<VmFd>) {
        // The first one stays.
        let _ = self.vm.set(vm);
    }

    /// A read of the guest's at `offset` of the window. Registers are 32 bits wide; other widths read as zero.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            let table = self.table();
            let value = match offset {
                SELECT => table.selected.into(),
                WINDOW => table.read(),
                _ => 0,
            };
            *data = value.to_le_bytes();
        }
    }

    /// A write of the guest's at `offset` of the window. Registers are 32 bits wide; other widths are ignored.
    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        match offset {
            SELECT => self.table().selected = bytes[0],
            WINDOW => self.table().write(u32::from_le_bytes(bytes)),
            _ => {}
        }
    }

    /// What an edge at `line` sends, if it is not masked.
    fn message(&self, line: u8) -> Option<kvm_msi> {
        let entry = *self.table().entries.get(usize::from(line))?;
        if entry & MASKED != 0 {
            return None;
        }
        // Fields of 8 and 11 bits.
        #[allow(clippy::cast_possible_truncation)]
        let (destination, data) =
            ((entry >> DESTINATION_SHIFT) as u32, (entry & (VECTOR | DELIVERY_MODE)) as u32);
        let mode = if entry & LOGICAL != 0 { MESSAGE_LOGICAL } else { 0 };
        let address_lo = MESSAGE_ADDRESS | destination << MESSAGE_DESTINATION_SHIFT | mode;
        Some(kvm_msi { address_lo, data, ..kvm_msi::default() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The entry that is selected, and by how many bits its selected half is shifted.
    fn entry(&mut self) -> Option<(&mut u64, u32)> {
        let index = self.selected.checked_sub(TABLE)?;
        let shift = if index % 2 == 0 { 0 } else { 32 };
        Some((self.entries.get_mut(usize::from(index / 2))?, shift))
    }

    fn read(&self) -> u32 {
        match self.selected {
            ID | ARBITRATION => self.id,
            // The number of the last line; there is one at least.
            VERSION => {
                let last = u32::try_from(self.entries.len()).unwrap_or(1).saturating_sub(1);
                VERSION_82093AA | last << 16
            }
            selected => {
                let half = |index: u8| {
                    let entry = self.entries.get(usize::from(index / 2))?;
                    u32::try_from(entry >> (32 * u32::from(index % 2)) & u64::from(u32::MAX)).ok()
                };
                selected.checked_sub(TABLE).and_then(half).unwrap_or(0)
            }
        }
    }

    fn write(&mut self, value: u32) {
        if self.selected == ID {
            self.id = value & 0x0f00_0000;
        } else if let Some((entry, shift)) = self.entry() {
            let kept = *entry & !(u64::from(u32::MAX) << shift);
            // Read only, and never set: a message has been delivered when it has been sent, and edges have no end.
            *entry = (kept | u64::from(value) << shift) & !(DELIVERY_STATUS | REMOTE_IRR);
        }
    }
}

/// An interrupt line of a device's.
pub(super) struct Pin {
    pub(super) io_apic: Arc<IoApic>,
    pub(super) line: u8,
}

impl Line for Pin {
    fn raise(&self) -> io::Result<()> {
        if let (Some(message), Some(vm)) = (self.io_apic.message(self.line), self.io_apic.vm.get()) {
            // That nobody took it, because no APIC is addressed or it is off, is the guest's business.
            vm.signal_msi(message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(io_apic: &IoApic, register: u8, value: u32) {
        io_apic.write(SELECT, &u32::from(register).to_le_bytes());
        io_apic.write(WINDOW, &value.to_le_bytes());
    }

    fn read(io_apic: &IoApic, register: u8) -> u32 {
        io_apic.write(SELECT, &u32::from(register).to_le_bytes());
        let mut data = [0xff; 4];
        io_apic.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn after_reset_all_lines_are_masked() {
        let io_apic = IoApic::new(7);
        assert_eq!(read(&io_apic, VERSION), 0x0006_0011);
        for line in 0..7 {
            assert_eq!(
                (read(&io_apic, TABLE + 2 * line), read(&io_apic, TABLE + 2 * line + 1)),
                (1 << 16, 0)
            );
            assert!(io_apic.message(line).is_none());
        }
        assert_eq!(read(&io_apic, TABLE + 14), 0, "no eighth line");
        assert!(io_apic.message(7).is_none());
    }

    #[test]
    fn an_edge_becomes_the_message_that_its_entry_asks_for() {
        let io_apic = IoApic::new(6);
        let sent = |low: u32, high: u32| {
            write(&io_apic, TABLE + 11, high);
            write(&io_apic, TABLE + 10, low);
            io_apic.message(5).map(|message| (message.address_lo, message.address_hi, message.data))
        };
        // Fixed, physical, to APIC 3, as Linux does it; then lowest priority to the logical destination 0xff.
        assert_eq!(sent(0x0000_0031, 0x0300_0000), Some((0xfee0_3000, 0, 0x31)));
        assert_eq!(sent(0x0000_0941, 0xff00_0000), Some((0xfeef_f004, 0, 0x141)));
        assert_eq!(sent(0x0001_0031, 0x0300_0000), None, "masked");
        assert_eq!(
            sent(0x0000_a031, 0x0300_0000),
            Some((0xfee0_3000, 0, 0x31)),
            "level and low: still an edge"
        );
    }

    #[test]
    fn what_is_read_only_stays() {
        let io_apic = IoApic::new(2);
        write(&io_apic, TABLE, u32::MAX);
        assert_eq!(read(&io_apic, TABLE), !(1 << 12 | 1 << 14));
        write(&io_apic, VERSION, u32::MAX);
        assert_eq!(read(&io_apic, VERSION), 0x0001_0011);
        write(&io_apic, ID, u32::MAX);
        assert_eq!((read(&io_apic, ID), read(&io_apic, ARBITRATION)), (0x0f00_0000, 0x0f00_0000));
    }

    #[test]
    fn other_widths_are_ignored() {
        let io_apic = IoApic::new(2);
        write(&io_apic, TABLE, 0x31);
        io_apic.write(WINDOW, &[0xff]);
        io_apic.write(WINDOW, &[0xff; 8]);
        assert_eq!(read(&io_apic, TABLE), 0x31);
        for width in [0, 1, 2, 8] {
            let mut data = vec![0xff; width];
            io_apic.read(WINDOW, &mut data);
            assert!(data.iter().all(|byte| *byte == 0));
        }
    }

    proptest! {
        /// Whatever is written anywhere: messages go to local APICs, and nowhere else.
        #[test]
        fn no_entry_leads_anywhere_else(accesses in prop::collection::vec((0_u64..0x50, any::<u32>()), 0..200)) {
            let io_apic = IoApic::new(24);
            for (offset, value) in accesses {
                io_apic.write(offset, &value.to_le_bytes());
                io_apic.read(offset, &mut [0; 4]);
            }
            for message in (0..=u8::MAX).filter_map(|line| io_apic.message(line)) {
                prop_assert_eq!(message.address_lo & 0xfff0_0000, 0xfee0_0000);
                prop_assert_eq!((message.address_hi, message.data & !0x7ff), (0, 0));
            }
        }
    }
}
