//! The guest-physical address space.
//!
//! ```text
//! 0x0000_0500  GDT                       the kernel leaves the first MiB alone until it has read what it needs
//! 0x0000_7000  boot_params ("zero page")
//! 0x0000_8ff0  initial stack
//! 0x0000_9000  page tables: 1 GiB, identity, 2 MiB pages
//! 0x0002_0000  kernel command line
//! 0x0003_0000  initial ramdisk, if it fits below the MP table
//! 0x0009_fc00  MP table, where the kernel looks for it: the last KiB of base memory
//! 0x0010_0000  RAM: the kernel where its ELF headers say, the initial ramdisk at the end of low RAM if it is large
//! 0xd000_0000  virtio-mmio windows, 4 KiB each; nothing is RAM from here to 4 GiB
//! 0xfec0_0000  I/O APIC
//! 0xfee0_0000  local APICs, which are KVM's
//! 0x1_0000_0000  the RAM that does not fit below
//! ```

use vm_memory::GuestAddress;

pub(crate) const GDT: GuestAddress = GuestAddress(0x500);
pub(crate) const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
pub(crate) const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
pub(crate) const PML4: GuestAddress = GuestAddress(0x9000);
pub(crate) const PDPT: GuestAddress = GuestAddress(0xa000);
pub(crate) const PAGE_DIRECTORY: GuestAddress = GuestAddress(0xb000);
pub(crate) const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// For one of up to 447 KiB.
pub(crate) const INITRD: GuestAddress = GuestAddress(0x3_0000);
/// Including the final NUL; what the kernel takes (`COMMAND_LINE_SIZE`).
pub(crate) const COMMAND_LINE_MAX: usize = 2048;
pub(crate) const MP_TABLE: GuestAddress = GuestAddress(0x9_fc00);
/// The end of usable memory below 1 MiB.
pub(crate) const BASE_MEMORY_END: u64 = 0x9_fc00;
pub(crate) const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);
/// Where RAM below 4 GiB ends at the latest, and the virtio-mmio windows begin.
pub(crate) const MMIO_START: u64 = 0xd000_0000;
pub(crate) const MMIO_WINDOW: u64 = 0x1000;
pub(crate) const ABOVE_4G: u64 = 1 << 32;
/// Three pages that KVM on Intel needs for itself, in the hole.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;
/// The first interrupt line of the virtio devices; the ones below belong to the PC's own devices.
pub(crate) const FIRST_IRQ: u8 = 5;
/// The I/O ports that take notifications of the virtio devices' queues: one for each device, four bytes wide.
pub(crate) const NOTIFY_PORTS: u16 = 0x600;
pub(crate) const NOTIFY_PORT_BYTES: u16 = 4;
/// How many interrupt lines the I/O APIC has at most.
pub(crate) const MAX_IRQ_LINES: u8 = 24;
/// The I/O APIC's registers.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
pub(crate) const IO_APIC_WINDOW: u64 = 0x400;

/// How many interrupt lines the I/O APIC has in a machine with so many devices. None if that is too many.
pub(crate) fn irq_lines(devices: usize) -> Option<u8> {
    let lines = u8::try_from(devices).ok()?.checked_add(FIRST_IRQ)?;
    (lines <= MAX_IRQ_LINES).then_some(lines)
}

/// The RAM ranges of a guest with `memory` bytes: start and length in bytes.
pub(crate) fn ram_ranges(memory: u64) -> Vec<(u64, u64)> {
    if memory <= MMIO_START {
        vec![(0, memory)]
    } else {
        vec![(0, MMIO_START), (ABOVE_4G, memory - MMIO_START)]
    }
}
