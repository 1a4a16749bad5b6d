//! A guest of one vCPU and a few pages that does what a processor does and KVM's instruction emulator does not.
//!
//! In 64-bit mode: `cmpxchg16b` (the emulator gives up on 16-byte operands), then `paddq` on an XMM register (the emulator
//! knows moves of these registers, but no arithmetic). Both results are handed back by port writes and checked: an
//! emulator that did something else instead is found, too. (Linux `arch/x86/kvm/emulate.c`: `em_cmpxchg8b`, `twobyte_table`.)

use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryRegion};

use super::ProbeFailure;
use crate::Memory;

/// Where things lie in the guest; a page each. Data and page tables are apart: KVM emulates writes to page tables.
mod at {
    pub(super) const PML4: u64 = 0x0000;
    pub(super) const PDPT: u64 = 0x1000;
    pub(super) const PD: u64 = 0x2000;
    pub(super) const CODE: u64 = 0x3000;
    pub(super) const DATA: u64 = 0x4000;
    pub(super) const END: usize = 0x5000;
}

/// The guest writes its results to this port; nothing is there.
const PORT: u16 = 0xf4;

/// ```text
///     mov    eax, 1              ; expected, low half: what is there
///     xor    edx, edx            ; expected, high half
///     mov    ebx, 0x55           ; new, low half
///     xor    ecx, ecx            ; new, high half
///     lock cmpxchg16b [0x4000]
///     mov    al, [0x4000]        ; 0x55 if it was exchanged
///     out    0xf4, al
///     movq   xmm0, rbx
///     paddq  xmm0, xmm0
///     movq   rax, xmm0           ; 0xaa
///     out    0xf4, al
///     hlt
/// ```
const CODE: [u8; 50] = [
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
    0x31, 0xd2, // xor edx, edx
    0xbb, 0x55, 0x00, 0x00, 0x00, // mov ebx, 0x55
    0x31, 0xc9, // xor ecx, ecx
    0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x40, 0x00, 0x00, // lock cmpxchg16b [0x4000]
    0x8a, 0x04, 0x25, 0x00, 0x40, 0x00, 0x00, // mov al, [0x4000]
    0xe6, 0xf4, // out 0xf4, al
    0x66, 0x48, 0x0f, 0x6e, 0xc3, // movq xmm0, rbx
    0x66, 0x0f, 0xd4, 0xc0, // paddq xmm0, xmm0
    0x66, 0x48, 0x0f, 0x7e, 0xc0, // movq rax, xmm0
    0xe6, 0xf4, // out 0xf4, al
    0xf4, // hlt
];
/// What the guest writes, in order.
const RESULTS: [u8; 2] = [0x55, 0xaa];

/// Page table entries: present and writable; and, in the page directory, a page of 2 MiB.
const TABLE: u64 = 0b11;
const LARGE_PAGE: u64 = TABLE | 1 << 7;
/// Control register bits (Intel SDM 3A, 2.5 and 2.2.1).
const CR0_PE_MP_ET_NE_PG: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 31;
const CR4_PAE_OSFXSR_OSXMMEXCPT: u64 = 1 << 5 | 1 << 9 | 1 << 10;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// RFLAGS with nothing set but the bit that always is.
const RFLAGS: u64 = 1 << 1;

fn setup(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> ProbeFailure {
    move |error| ProbeFailure::Setup(what, error.into())
}

/// Runs the test guest to its end.
pub(super) fn run(kvm: &Kvm) -> Result<(), ProbeFailure> {
    let memory = prepared_memory().map_err(|error| ProbeFailure::Setup("prepare its memory", error))?;
    let vm = kvm.create_vm().map_err(setup("create a VM"))?;
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let mapping = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: `memory` outlives the VM and its vCPU, which were declared after it, and nothing else uses the range while
        // the guest runs.
        unsafe { vm.set_user_memory_region(mapping) }.map_err(setup("map memory"))?;
    }
    // Real mode needs it on older Intel processors; the guest never is in real mode, but KVM asks for it first.
    vm.set_tss_address(0xfffb_d000).map_err(setup("set the TSS address"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(setup("create a vCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(setup("read the CPUID leaves"))?;
    vcpu.set_cpuid2(&cpuid).map_err(setup("set CPUID"))?;
    enter_long_mode(&vcpu).map_err(setup("set its registers"))?;
    execute(&mut vcpu)
}

fn prepared_memory() -> std::io::Result<Memory> {
    let memory = Memory::from_ranges(&[(GuestAddress(0), at::END)]).map_err(std::io::Error::other)?;
    let write = |address, value: u64| memory.write_obj(value.to_le(), GuestAddress(address));
    write(at::PML4, at::PDPT | TABLE)
        .and_then(|()| write(at::PDPT, at::PD | TABLE))
        .and_then(|()| write(at::PD, LARGE_PAGE))
        .and_then(|()| write(at::DATA, 1))
        .and_then(|()| memory.write_slice(&CODE, GuestAddress(at::CODE)))
        .map_err(std::io::Error::other)?;
    Ok(memory)
}

fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let flat = |selector, type_, long| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..kvm_segment::default()
    };
    // Accessed code that is readable, and accessed data that is writable (Intel SDM 3A, 3.4.5.1).
    sregs.cs = flat(0x08, 0b1011, 1);
    let data = flat(0x10, 0b0011, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy 64-bit task state segment, which the processor asks for and the guest does not use.
    sregs.tr =
        kvm_segment { limit: 0x67, selector: 0x18, type_: 0b1011, present: 1, ..kvm_segment::default() };
    sregs.cr3 = at::PML4;
    sregs.cr4 = CR4_PAE_OSFXSR_OSXMMEXCPT;
    sregs.efer = EFER_LME_LMA;
    sregs.cr0 = CR0_PE_MP_ET_NE_PG;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = at::CODE;
    regs.rflags = RFLAGS;
    vcpu.set_regs(&regs)
}

/// Takes the guest's results until it halts.
fn execute(vcpu: &mut VcpuFd) -> Result<(), ProbeFailure> {
    let mut results = Vec::new();
    loop {
        let seen = match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, data)) if results.len() < RESULTS.len() => {
                results.extend_from_slice(data);
                continue;
            }
            Ok(VcpuExit::Hlt) if results == RESULTS => return Ok(()),
            Ok(VcpuExit::Hlt | VcpuExit::IoOut(..)) => {
                format!("the test guest computed {results:x?} for {RESULTS:x?}")
            }
            Ok(VcpuExit::InternalError) => {
                // SAFETY: `KVM_RUN` has just returned with this exit reason, for which KVM fills in this member.
                let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
                format!("the test guest stopped with KVM_EXIT_INTERNAL_ERROR (suberror {suberror})")
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                format!("the processor refused to enter the test guest (reason {reason:#x})")
            }
            Ok(VcpuExit::Shutdown) => "the test guest stopped with a triple fault".into(),
            Ok(other) => format!("the test guest stopped with an unexpected exit ({other:?})"),
            Err(error) => return Err(ProbeFailure::Setup("run it", error.into())),
        };
        return Err(ProbeFailure::NotExecuted(format!("{seen}: guests are not executed by the processor")));
    }
}
