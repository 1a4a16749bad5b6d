//! The MP table (Intel MultiProcessor Specification 1.4): without ACPI, this is how the kernel learns of its processors and
//! of the I/O APIC.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout;
use crate::Memory;

const SPEC_1_4: u8 = 4;
const LOCAL_APIC: u32 = 0xfee0_0000;
/// Version of both APICs.
const APIC_VERSION: u8 = 0x14;
const FLOATING_POINTER_LEN: u64 = 16;
const HEADER_LEN: usize = 44;

/// Kinds of entries (4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC_ENTRY: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Kinds of interrupts (4.3.4).
const INT: u8 = 0;
const NMI: u8 = 1;

/// What the table tells of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    /// At most 32.
    pub(crate) vcpus: u8,
    /// Of the I/O APIC.
    pub(crate) irq_lines: u8,
}

/// Writes the floating pointer and the configuration table right behind it.
pub(super) fn write(memory: &Memory, processors: Processors) -> Result<(), GuestMemoryError> {
    let table_at = layout::MP_TABLE.0 + FLOATING_POINTER_LEN;
    // The last KiB below 640 KiB, so below 4 GiB.
    #[allow(clippy::cast_possible_truncation)]
    let pointer = floating_pointer(table_at as u32);
    memory.write_slice(&pointer, layout::MP_TABLE)?;
    memory.write_slice(&configuration_table(processors), GuestAddress(table_at))
}

fn floating_pointer(table_at: u32) -> [u8; 16] {
    let mut bytes = [0u8; 16];
    bytes[0..4].copy_from_slice(b"_MP_");
    bytes[4..8].copy_from_slice(&table_at.to_le_bytes());
    bytes[8] = 1; // length, in units of 16 bytes
    bytes[9] = SPEC_1_4;
    bytes[10] = checksum(&bytes);
    bytes
}

fn configuration_table(processors: Processors) -> Vec<u8> {
    let Processors { vcpus, irq_lines } = processors;
    let io_apic_id = vcpus;
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = 1 | if id == 0 { 2 } else { 0 }; // enabled, bootstrap processor
        let mut processor = [0u8; 20];
        processor[..4].copy_from_slice(&[PROCESSOR, id, APIC_VERSION, flags]);
        processor[4..8].copy_from_slice(&0x600u32.to_le_bytes()); // family 6, of no importance
        processor[8..12].copy_from_slice(&0x201u32.to_le_bytes()); // an FPU and an APIC
        add(&processor);
    }
    add(&[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut io_apic = [IO_APIC_ENTRY, io_apic_id, APIC_VERSION, 1, 0, 0, 0, 0];
    io_apic[4..].copy_from_slice(&layout::IO_APIC.to_le_bytes());
    add(&io_apic);
    for line in 0..irq_lines {
        add(&[IO_INTERRUPT, INT, 0, 0, 0, line, io_apic_id, line]);
    }
    add(&[LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, 0xff, 1]);

    let mut table = vec![0u8; HEADER_LEN];
    // 32 processors make 640 bytes of entries: far below 64 KiB.
    #[allow(clippy::cast_possible_truncation)]
    let len = (HEADER_LEN + entries.len()) as u16;
    table[0..4].copy_from_slice(b"PCMP");
    table[4..6].copy_from_slice(&len.to_le_bytes());
    table[6] = SPEC_1_4;
    table[8..16].copy_from_slice(b"MOTE    ");
    table[16..28].copy_from_slice(b"MICROVM     ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes all bytes add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_zero_and_everything_fits() {
        for vcpus in [1, 2, 32] {
            let table = configuration_table(Processors { vcpus, irq_lines: layout::MAX_IRQ_LINES });
            assert_eq!(checksum(&table), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            let room = 0xa_0000 - layout::MP_TABLE.0 - FLOATING_POINTER_LEN;
            assert!(table.len() as u64 <= room, "{} bytes", table.len());
        }
        assert_eq!(checksum(&floating_pointer(0x9_fc10)), 0);
    }

    #[test]
    fn lists_every_processor_once() {
        let table = configuration_table(Processors { vcpus: 3, irq_lines: 7 });
        let processors: Vec<_> =
            table[HEADER_LEN..HEADER_LEN + 60].chunks(20).map(|p| (p[0], p[1], p[3])).collect();
        assert_eq!(processors, [(PROCESSOR, 0, 3), (PROCESSOR, 1, 1), (PROCESSOR, 2, 1)]);
    }
}
