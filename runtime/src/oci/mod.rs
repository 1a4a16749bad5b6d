//! OCI bundles: from a folder with a `config.json` to the program that makes its container in the guest.
//!
//! **Owns** what each field of the configuration means in a VM (`docs/oci.md` has the table; a test keeps it true), what is
//! refused and what is passed over with a line in the log. **Must not know** how a VM is started, where a container's state
//! is kept, or who asks. **Callers:** the verbs, which [`load`](Bundle::load) a bundle, size a machine and its shares from it, and
//! send the guest what [`compile`] made of it.
//!
//! # What a container is in the guest
//!
//! One process with a cgroup, `/sys/fs/cgroup/container`, and mount, PID, IPC, UTS and cgroup namespaces of its own, whatever the
//! configuration says: there is nobody else to share them with. Its network namespace is the guest's own, which holds what the host gave
//! the VM; with a user namespace, it has one of its own. Its root is a share of the bundle's root folder.
//!
//! # What can go wrong
//!
//! Whatever is wrong with a bundle is an [`Error`](crate::Error) whose text is runc's where engines look at it.

mod bundle;
mod capabilities;
pub mod cgroup;
pub mod compile;
mod devices;
mod json;
mod mounts;
mod process;
mod seccomp;
#[cfg(test)]
mod tests;

pub(crate) use bundle::cannot_join;
pub use bundle::{Bundle, Size};

use mote_protocol::ProcessId;

/// The version of the runtime specification that is implemented.
pub const OCI_VERSION: &str = "1.2.0";

/// The container's cgroup, in the agent's own view of the guest.
pub const GUEST_CGROUP: &str = "/sys/fs/cgroup/container";

/// The container's first process, by the name that the agent has for it.
pub const CONTAINER: ProcessId = ProcessId(1);
