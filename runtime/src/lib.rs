//! What a sandbox is and how it lives: one virtual machine, its agent, and the command in it.
//!
//! **Owns** the sandbox process, the conversation with the agent, the translation of what a user asked for into a program that
//! the guest executes, the embedded initial ramdisk, and the choice of a hypervisor. **Must not know** command lines or how
//! anything is printed: that is `cli`'s.
//!
//! **Callers:** `cli` (later also an engine's shim and a launcher): fill a [`Spec`], call [`run`], get an [`Outcome`].
//!
//! # Processes
//!
//! ```text
//! mote run ──── spawns ───> sandbox process (the same program)
//!    │  lifeline (socket)      │ main thread: supervisor, talks with the agent
//!    │   spec  ───────────>    │ vCPU threads, device loop          (or: QEMU, a child)
//!    │   <──────── report      │
//!    └─ signals ──────────>    └─ standard streams: the ones it inherited
//! ```
//!
//! The caller keeps the terminal, forwards signals with `kill`, and waits. The sandbox process *is* the command to the outside:
//! it passes signals on and exits with the command's status. Each sees the other's end at once: the caller by waiting for its
//! child, the sandbox by the end of the lifeline; neither leaves anything behind.
//!
//! # What can go wrong
//!
//! Everything that can fail does so with an [`Error`] that says what, on what, and what to do; it reaches the caller through the
//! report, whichever process it happened in.

mod agent;
mod assets;
mod caller;
mod cgroup;
mod choice;
mod clock;
pub mod container;
mod control;
mod error;
mod frame;
mod heap;
mod identity;
mod jail;
mod lifeline;
pub mod log_file;
pub mod named_file;
pub mod oci;
mod program;
mod sandbox;
pub mod shares;
mod signals;
mod spawn;
mod spec;
mod terminal;
mod timeline;

pub use assets::{agent_size, default_rootfs, initrd, kernel, meter, meter_initrd};
pub use caller::{Outcome, run};
pub use choice::{HypervisorChoice, hypervisor, qemu_available};
pub use error::{Error, Failure, Kind};
pub use jail::{Layer, LayerState, SeccompMode, layers as jail_layers};
pub use program::Program;
pub use sandbox::{LIFELINE_FD, main as sandbox_main};
pub use spawn::{Child, SANDBOX_NAME};
pub use spec::{Cache, Machine, Process, Rootfs, Share, Spec, Streams, Volume};
pub use timeline::{Mark, Timeline};
