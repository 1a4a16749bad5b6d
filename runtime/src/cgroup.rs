//! Cgroups of the host: what a sandbox may use of it, however the guest behaves.
//!
//! **Owns** where cgroups are mounted, their names, limits and ends. A container's is called what `cgroupsPath` says, and stays until
//! `delete`; the limits of the container itself are kept by the guest, to the byte. Engines look there for what a container uses.
//! That of a `mote run` is its own, and goes with it.
//!
//! Version 2 has one tree for everything. Version 1 has one for each controller, and a process is moved into each.

mod hierarchy;
mod host;
mod limits;
mod name;
mod passing;

pub(crate) use self::{
    host::HostCgroup,
    limits::{Bound, Limits, PERIOD},
    name::name,
    passing::{Neighbour, Passing},
};
