//! How a virtual machine ended.

/// How a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered itself off, or halted.
    PowerOff,
    /// The guest asked to be restarted.
    Reboot,
    /// The guest's kernel panicked. Its last words are in the [`KernelLog`](crate::KernelLog).
    Panic,
    /// A vCPU had no way to go on (a triple fault), and the kernel had said nothing.
    TripleFault,
    /// The VM was stopped from outside.
    Stopped,
    /// The hypervisor failed: not the guest's doing, or not something the VMM knows how to run.
    Failed(String),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reboot => f.write_str("the guest rebooted"),
            Self::Panic => f.write_str("the guest's kernel panicked"),
            Self::TripleFault => f.write_str("the guest's processor failed (triple fault)"),
            Self::Stopped => f.write_str("the VM was stopped"),
            Self::Failed(why) => write!(f, "the hypervisor failed: {why}"),
        }
    }
}
