//! Containers: the lives of VMs that others than their creator take part in.
//!
//! **Owns** the state folder, the client's side of the control socket, hooks on the host, the host's cgroup, consoles and pid
//! files. **Must not know** how a configuration becomes a program: that is [`oci`](crate::oci)'s. **Callers:** `cli`, one
//! function for each verb.
//!
//! # The life of a container
//!
//! ```text
//!  create ──> created ──start──> running <──pause, resume──> paused
//!                │                  │                           │
//!                │ kill             │ end, kill                 │ kill
//!                v                  v                           v
//!             stopped, until delete removes what is left: folder, cgroup
//! ```
//!
//! The sandbox process is the one source of truth: who wants to know how a container is asks it. If it is gone, however that
//! happened, the container has stopped. Nothing needs to be repaired after a crash or a restart of the host: a state folder
//! without its process is a stopped container, and `delete` removes it.
//!
//! # What can go wrong
//!
//! Commands may meet at any time. The sandbox process takes them one after the other; `create` and `delete` hold a lock on the
//! state folder. Errors are told in the words that engines know from runc.

mod console;
mod create;
mod events;
mod exec;
mod folder;
mod guest;
mod hooks;
mod id;
mod pod;
mod ps;
mod run;
mod state;
mod streams;
mod update;
mod verbs;

pub use self::{
    create::{CreateOptions, create},
    events::{stats, watch_oom},
    exec::{ExecOptions, Target as ExecTarget, exec},
    id::ContainerId,
    ps::{host_pids, table as process_table},
    run::run,
    state::View,
    update::update,
    verbs::{delete, freeze, kill, list, start, state},
};
pub use crate::control::Status;
