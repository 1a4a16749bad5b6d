//! x86-64: the 64-bit boot protocol (Linux `Documentation/arch/x86/boot.rst`, 1.14), no firmware.

mod cmdline;
mod cpuid;
mod kernel;
pub(crate) mod layout;
mod mptable;
mod system_calls;
mod tables;
mod vcpu;

pub(crate) use cmdline::{base_cmdline, virtio_mmio_option};
pub(crate) use cpuid::for_vcpu as cpuid_for_vcpu;
pub(crate) use kernel::{MapFile, check_kernel, load};
pub(crate) use mptable::Processors;
pub(crate) use system_calls::system_call_name;
pub(crate) use vcpu::{boot_msrs, enable_extended_state, enter_kernel};
