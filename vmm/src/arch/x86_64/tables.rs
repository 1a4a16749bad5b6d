//! The tables that the 64-bit boot protocol wants in memory: boot parameters, page tables, GDT.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryRegion};

use super::layout;
use crate::Memory;

const E820_RAM: u32 = 1;
/// "HdrS": the boot parameters follow the protocol.
const HEADER_MAGIC: u32 = 0x5372_6448;
/// A boot loader that has no number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

pub(super) fn write_boot_params(
    memory: &Memory,
    initrd_at: u64,
    initrd_len: u64,
    cmdline_len: usize,
) -> Result<(), GuestMemoryError> {
    let mut params = boot_params::default();
    // All of these lie below 4 GiB: the layout puts the command line there, and the ramdisk in the first RAM range.
    #[allow(clippy::cast_possible_truncation)]
    {
        params.hdr.cmd_line_ptr = layout::COMMAND_LINE.0 as u32;
        params.hdr.cmdline_size = cmdline_len as u32;
        params.hdr.ramdisk_image = initrd_at as u32;
        params.hdr.ramdisk_size = initrd_len as u32;
    }
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.kernel_alignment = 0x0100_0000;

    let mut ranges = vec![(0, layout::BASE_MEMORY_END)];
    for region in memory.iter() {
        let start = region.start_addr().0.max(layout::HIGH_MEMORY.0);
        ranges.push((start, region.start_addr().0 + region.len() - start));
    }
    for (slot, &(addr, size)) in params.e820_table.iter_mut().zip(&ranges) {
        *slot = boot_e820_entry { addr, size, type_: E820_RAM };
        params.e820_entries += 1;
    }
    memory.write_obj(params, layout::ZERO_PAGE)
}

/// Maps the first GiB to itself, in pages of 2 MiB: enough until the kernel has tables of its own.
pub(super) fn write_page_tables(memory: &Memory) -> Result<(), GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    memory.write_obj(layout::PDPT.0 | PRESENT_WRITABLE, layout::PML4)?;
    memory.write_obj(layout::PAGE_DIRECTORY.0 | PRESENT_WRITABLE, layout::PDPT)?;
    let mut entries = [0u8; 4096];
    for (page, entry) in (0u64..).zip(entries.as_chunks_mut::<8>().0) {
        *entry = ((page << 21) | PRESENT_WRITABLE | LARGE).to_le_bytes();
    }
    memory.write_slice(&entries, layout::PAGE_DIRECTORY)
}

/// The descriptors that the boot protocol names: code at 0x10, data at 0x18.
pub(super) const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

pub(super) fn write_gdt(memory: &Memory) -> Result<(), GuestMemoryError> {
    let mut at = layout::GDT.0;
    for entry in GDT_ENTRIES {
        memory.write_obj(entry, GuestAddress(at))?;
        at += 8;
    }
    Ok(())
}
