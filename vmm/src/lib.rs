//! A small virtual machine monitor: boots a Linux kernel with an initial ramdisk and virtio devices.
//!
//! **Owns** guest memory, vCPUs, the virtio devices and their transports, and the hypervisors that run them.
//! **Must not know** what runs in the guest: no word of agents, protocols or containers.
//!
//! **Callers:** `runtime`, and anyone who wants to boot a microVM: make the devices, fill a [`Config`], pick a
//! [`Hypervisor`], [`start`](Hypervisor::start) it, and wait for the [`Exit`].
//!
//! # What can go wrong
//!
//! Everything that the guest controls is hostile: descriptor rings, register writes, packet headers, the kernel log. A
//! device that is fed nonsense stops with one log line, the guest sees `DEVICE_NEEDS_RESET`, and nobody else is hurt.
//!
//! # Map
//!
//! ```text
//! Config, Hypervisor, Vm, Exit         hypervisor.rs, exit.rs
//!   kvm/   vCPU threads, memory, the device loop,      qemu/  a QEMU child, our devices over vhost-user
//!          the I/O APIC
//!   virtio/  Device, queues; mmio and vhost-user transports; vsock, block
//!   seccomp/  the system calls that each kind of thread may make
//!   arch/  CPU state, page tables, tables for the kernel     console.rs  the 16550's sending half, the kernel log
//! ```

mod arch;
mod console;
mod exit;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod hypervisor;
pub mod kvm;
pub mod qemu;
pub mod seccomp;
pub mod virtio;

pub use console::{KernelLog, LogSink};
pub use exit::Exit;
pub use hypervisor::{
    BeforeEntry, Config, Error, Hypervisor, MAX_VCPUS, MIN_MEMORY, Milestone, Milestones, Vm,
};

/// The guest's memory, as devices see it.
pub type Memory = vm_memory::GuestMemoryMmap<()>;
