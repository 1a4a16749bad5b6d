//! The system calls that `rustix` does not have in a safe form, each behind a safe function.
//!
//! **Owns** every line of `unsafe` of this crate, and the knowledge of the kernel's ABI that goes with it. **Must not
//! know** what a program, a message or a container is. **Callers:** the rest of the crate.

pub mod bpf;
pub mod clock;
pub mod mount;
pub mod net;
pub mod process;
mod raw;
pub mod signal;
pub mod system;

pub use rustix::io::{Errno, Result};
