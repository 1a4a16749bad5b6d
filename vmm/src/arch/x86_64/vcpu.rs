//! The state in which vCPUs start.

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use vm_memory::GuestAddress;

use super::{layout, tables::GDT_ENTRIES};

/// Puts the bootstrap vCPU at the kernel's 64-bit entry: long mode, flat segments, `rsi` at the boot parameters.
pub(crate) fn enter_kernel(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    set_long_mode(&mut sregs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rflags: 1 << 1, // reserved, always one
        rip: entry.0,
        rsp: layout::BOOT_STACK.0,
        rbp: layout::BOOT_STACK.0,
        rsi: layout::ZERO_PAGE.0,
        ..Default::default()
    })
}

/// Turns on the extended state that every Linux turns on first: x87, SSE and AVX, as far as KVM supports them (`XCR0`, Intel SDM
/// volume 1, 13.3).
///
/// KVM keeps CPUID leaf 0xd in step with the guest's own `XSETBV`, if it hears of it. QEMU's emulation of AMD-V does not tell the
/// hypervisor in it, and a kernel that finds the two at odds writes a page of complaints.
pub(crate) fn enable_extended_state(vcpu: &VcpuFd, supported: &CpuId) -> Result<(), kvm_ioctls::Error> {
    const X87_SSE_AVX: u64 = 0b111;
    let Some(leaf) = supported.as_slice().iter().find(|leaf| (leaf.function, leaf.index) == (0xd, 0)) else {
        return Ok(()); // a processor without XSAVE
    };
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = u64::from(leaf.eax) & X87_SSE_AVX;
    vcpu.set_xcrs(&xcrs)
}

fn set_long_mode(sregs: &mut kvm_sregs) {
    const CR0_PE: u64 = 1;
    const CR0_ET: u64 = 1 << 4;
    const CR0_PG: u64 = 1 << 31;
    const CR4_PAE: u64 = 1 << 5;
    const EFER_LME: u64 = 1 << 8;
    const EFER_LMA: u64 = 1 << 10;
    sregs.gdt.base = layout::GDT.0;
    sregs.gdt.limit = 8 * 4 - 1;
    sregs.idt.limit = 0;
    sregs.cs = segment(2);
    for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *data = segment(3);
    }
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PML4.0;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
}

/// The hidden part of a segment register that was loaded from the GDT (Intel SDM volume 3, 3.4.5).
fn segment(index: u16) -> kvm_segment {
    let entry = GDT_ENTRIES[usize::from(index)];
    let bit = |n: u32| u8::from(entry >> n & 1 == 1);
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: (entry >> 40 & 0xf) as u8,
        s: bit(44),
        dpl: 0,
        present: bit(47),
        avl: 0,
        l: bit(53),
        db: bit(54),
        g: bit(55),
        unusable: 0,
        padding: 0,
    }
}

/// Model-specific registers at start: fast string operations on, memory write-back by default (a guest without MTRR
/// support would otherwise run uncached where the hypervisor honours them).
pub(crate) fn boot_msrs() -> Result<Msrs, vmm_sys_util::fam::Error> {
    const IA32_MISC_ENABLE: u32 = 0x1a0;
    const FAST_STRING: u64 = 1;
    const MTRR_DEF_TYPE: u32 = 0x2ff;
    const ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;
    Msrs::from_entries(&[
        kvm_msr_entry { index: IA32_MISC_ENABLE, data: FAST_STRING, ..Default::default() },
        kvm_msr_entry { index: MTRR_DEF_TYPE, data: ENABLED_WRITE_BACK, ..Default::default() },
    ])
}
