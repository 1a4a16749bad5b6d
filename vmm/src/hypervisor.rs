//! What a virtual machine is made of, and what every hypervisor can do with it.

use std::{fs::File, os::fd::BorrowedFd, path::PathBuf, sync::Arc, time::Instant};

use crate::{Exit, KernelLog, seccomp, virtio::Device};

/// The most vCPUs a VM may have.
pub const MAX_VCPUS: u8 = 32;
/// The least memory a VM may have, in bytes.
pub const MIN_MEMORY: u64 = 32 << 20;

/// A virtual machine that is to be started.
pub struct Config {
    /// 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest RAM in bytes; a multiple of 2 MiB, at least [`MIN_MEMORY`].
    pub memory: u64,
    /// The kernel: an uncompressed ELF `vmlinux`, open for reading.
    pub kernel: File,
    /// Where the kernel was found, for messages and for QEMU.
    pub kernel_path: PathBuf,
    /// The initial ramdisk.
    pub initrd: &'static [u8],
    /// Command line options of the caller's; the hypervisor adds what the machine needs.
    pub cmdline: String,
    /// The devices, in the order in which the guest finds them.
    pub devices: Vec<Box<dyn Device>>,
    /// Where the kernel's words go.
    pub log: KernelLog,
    /// Has the kernel log everything, not only its last words. Costs time: each character is an exit.
    pub verbose_log: bool,
    /// Is told when things have happened.
    pub milestones: Milestones,
    /// What happens when a thread of the VM makes a system call that is not on its list.
    pub seccomp: seccomp::Mode,
    /// Runs on the calling thread once everything is open, all threads are there and restricted, and the guest has not run yet.
    pub before_entry: BeforeEntry,
}

/// What the caller does just before the guest runs: the place to give up what only the start needed. If it fails, the guest does not
/// run.
pub type BeforeEntry = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// Something that happens once while a VM starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// Guest RAM is mapped.
    MemoryReady,
    /// Kernel and initial ramdisk are in guest RAM.
    KernelLoaded,
    /// The VM exists on the hypervisor.
    VmCreated,
    /// The first vCPU is about to run.
    FirstEntry,
}

/// Receives [`Milestone`]s with their time. Called from any thread.
#[derive(Clone)]
pub struct Milestones(Arc<dyn Fn(Milestone, Instant) + Send + Sync>);

impl Milestones {
    /// Has `receiver` called for each milestone.
    pub fn new(receiver: impl Fn(Milestone, Instant) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receiver))
    }

    /// Nobody wants to know.
    #[must_use]
    pub fn ignored() -> Self {
        Self::new(|_, _| ())
    }

    pub(crate) fn reached(&self, milestone: Milestone) {
        (self.0)(milestone, Instant::now());
    }
}

/// Why a VM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More or fewer vCPUs than a VM can have.
    #[error("{0} vCPUs asked for: a VM has 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// Not an amount of memory that a VM can have.
    #[error("{0} bytes of memory asked for: a VM has at least 32 MiB, in steps of 2 MiB")]
    Memory(u64),
    /// The host has not that much memory.
    #[error("no room for {0} bytes of guest memory on this host")]
    HostMemory(u64, #[source] std::io::Error),
    /// The kernel is not one that can be booted.
    #[error("kernel {path}: {reason}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Kernel, initial ramdisk and tables do not fit.
    #[error("guest memory is too small for the kernel and the initial ramdisk")]
    DoesNotFit,
    /// The kernel command line is too long.
    #[error("the kernel command line is longer than 2047 bytes")]
    CommandLine,
    /// A step of setting up KVM failed.
    #[error("KVM: {0}")]
    Kvm(&'static str, #[source] std::io::Error),
    /// QEMU cannot be used.
    #[error("QEMU: {0}")]
    Qemu(String),
    /// A thread cannot be restricted to its system calls.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// A system call on the host failed.
    #[error("{0}")]
    Host(&'static str, #[source] std::io::Error),
}

/// Something that runs a virtual machine.
pub trait Hypervisor {
    /// Starts a VM: returns once its vCPUs are about to run.
    ///
    /// # Errors
    /// Nothing is left behind of a VM that could not be started.
    fn start(self: Box<Self>, config: Config) -> Result<Box<dyn Vm>, Error>;
}

/// A running virtual machine. Dropping it stops it.
pub trait Vm: Send {
    /// A descriptor that is readable once the VM has ended.
    fn ended_fd(&self) -> BorrowedFd<'_>;

    /// Waits until the VM has ended, and says how.
    fn wait(&mut self) -> Exit;

    /// Stops the VM if it still runs.
    fn stop(&mut self);
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(Error::Vcpus(self.vcpus));
        }
        if self.memory < MIN_MEMORY || !self.memory.is_multiple_of(2 << 20) {
            return Err(Error::Memory(self.memory));
        }
        Ok(())
    }
}
