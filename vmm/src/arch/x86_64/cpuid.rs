//! The CPUID leaves that differ between vCPUs, or between the host and what a guest should see.
//!
//! Topology: one package, one thread a core, APIC id = vCPU index. KVM passes the host's own topology through; a guest
//! that believed it would look for processors that are not there.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// The leaves for vCPU `index` of `count`, made from those that KVM supports.
pub(crate) fn for_vcpu(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    let id_bits = u8::BITS - count.saturating_sub(1).leading_zeros();
    for entry in cpuid.as_mut_slice() {
        adapt(entry, u32::from(index), u32::from(count), id_bits);
    }
    cpuid
}

fn adapt(entry: &mut kvm_cpuid_entry2, index: u32, count: u32, id_bits: u32) {
    match entry.function {
        0x1 => {
            const HTT: u32 = 1 << 28;
            const HYPERVISOR: u32 = 1 << 31;
            const TSC_DEADLINE: u32 = 1 << 24;
            entry.ebx = (entry.ebx & 0x0000_ffff) | (count << 16) | (index << 24);
            // KVM has the TSC deadline timer whenever it emulates the local APIC, but does not list it before 6.x.
            entry.ecx |= HYPERVISOR | TSC_DEADLINE;
            entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // Caches: each belongs to one core; one package has `count` cores.
        0x4 if entry.eax & 0x1f != 0 => {
            entry.eax = (entry.eax & 0x0000_3fff) | ((count - 1) << 26);
        }
        // Extended topology: level 0 threads, level 1 cores.
        0xb | 0x1f => {
            let (shift, number, level) = match entry.index {
                0 => (0, 1, 1),
                1 => (id_bits, count, 2),
                _ => (0, 0, 0),
            };
            entry.eax = shift;
            entry.ebx = number;
            entry.ecx = entry.index | (level << 8);
            entry.edx = index;
        }
        // AMD: number of cores and the width of their ids.
        0x8000_0008 => entry.ecx = (count - 1) | (id_bits << 12),
        // AMD: caches, as leaf 4.
        0x8000_001d if entry.eax & 0x1f != 0 => entry.eax &= 0x0000_3fff,
        // AMD: extended APIC id, core id, node id.
        0x8000_001e => {
            entry.eax = index;
            entry.ebx = index & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: 0x21,
            ebx: 0xffff_ffff,
            ecx: 0,
            edx: 0,
            ..Default::default()
        }
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id() {
        let supported =
            CpuId::from_entries(&[leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0x8000_001e, 0)]).unwrap();
        for index in 0..5 {
            let cpuid = for_vcpu(&supported, index, 5);
            let [one, threads, cores, amd] = cpuid.as_slice() else { panic!("a leaf went missing") };
            assert_eq!(one.ebx >> 24, u32::from(index));
            assert_eq!((one.ebx >> 16) & 0xff, 5);
            assert_eq!((threads.edx, threads.eax, threads.ebx), (u32::from(index), 0, 1));
            assert_eq!((cores.eax, cores.ebx), (3, 5), "five ids need three bits");
            assert_eq!(amd.eax, u32::from(index));
        }
    }

    #[test]
    fn a_single_vcpu_needs_no_id_bits() {
        let supported = CpuId::from_entries(&[leaf(0xb, 1)]).unwrap();
        assert_eq!(for_vcpu(&supported, 0, 1).as_slice()[0].eax, 0);
    }
}
