//! System call filters: what each kind of thread may ask of the host's kernel, and nothing else.
//!
//! **Owns** the lists (`kinds.rs`), their translation into a program for the kernel, and what happens when a thread oversteps: the
//! process says in one line which kind of thread called what, and ends. **Callers:** every thread of the VMM, as the last thing before
//! the guest runs; other crates describe threads of their own with [`Kind`] and [`allow`].
//!
//! A filter is an allow-list of system calls, for some of them only with certain arguments. It cannot be taken off again, and
//! it reaches the threads that a thread starts, so every filter is installed once all threads are there.
//!
//! # What can go wrong
//!
//! A list that lacks a call that a thread needs after all ends the VM. [`Mode::Log`] is for finding out: the host's kernel logs
//! such calls and lets them pass.

mod kinds;
mod program;
mod violation;

use std::io;

use nix::libc;
use seccompiler::BpfProgram;

pub(crate) use kinds::of_device;
pub use kinds::{COMMON, DEVICES, FILE_SERVER, PUMP, QEMU, VCPU, VHOST_USER, VHOST_USER_FILE_SERVER};
pub use program::TooLong;
pub use violation::{Violation, report_with};

/// What happens to a system call that is not on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The process ends, with one line that says why.
    #[default]
    Enforce,
    /// The host's kernel logs it and lets it pass: not safe.
    Log,
}

/// A kind of thread and the system calls that it may make.
#[derive(Debug)]
pub struct Kind {
    /// What threads of this kind are called in messages.
    pub name: &'static str,
    /// What threads of this kind may do: everything that is on one of these lists. [`COMMON`] is one of them.
    pub lists: &'static [&'static [Allowed]],
}

/// A system call that may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Its number on this architecture.
    pub number: i64,
    /// What its arguments must be: all of these.
    pub when: &'static [Argument],
}

/// What an argument of a system call must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// Which one, from 0.
    index: u8,
    /// The bits that are looked at.
    mask: u32,
    /// What they must be.
    value: u32,
}

impl Argument {
    /// The argument, 32 bits of it, has this value.
    #[must_use]
    pub const fn is(index: u8, value: u32) -> Self {
        Self { index, mask: u32::MAX, value }
    }

    /// None of these bits of the argument is set.
    #[must_use]
    pub const fn lacks(index: u8, bits: u32) -> Self {
        Self { index, mask: bits, value: 0 }
    }
}

/// A system call that may be made whatever its arguments.
#[must_use]
pub const fn allow(number: i64) -> Allowed {
    Allowed { number, when: &[] }
}

/// A system call that may be made with these arguments only. The same call may be on a list more than once.
#[must_use]
pub const fn allow_when(number: i64, when: &'static [Argument]) -> Allowed {
    Allowed { number, when }
}

/// Why a filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list cannot be translated.
    #[error("the system call filter of the {0} thread cannot be made")]
    Compile(&'static str, #[source] TooLong),
    /// The host's kernel refuses it.
    #[error("the system call filter of the {0} thread cannot be installed")]
    Install(&'static str, #[source] io::Error),
}

/// A kind's list, ready to be installed by any number of threads.
pub struct Filter {
    kind: &'static Kind,
    program: BpfProgram,
}

impl Filter {
    /// Translates a list.
    ///
    /// # Errors
    /// The list is wrong: a bug.
    pub fn compile(kind: &'static Kind, mode: Mode) -> Result<Self, Error> {
        let action = match mode {
            Mode::Enforce => program::TRAP,
            Mode::Log => program::LOG,
        };
        let program = program::translate(kind, action).map_err(|error| Error::Compile(kind.name, error))?;
        Ok(Self { kind, program })
    }

    /// Restricts the calling thread to the list, for ever.
    ///
    /// # Errors
    /// The kernel has no filters, or no memory.
    pub fn install(&self) -> Result<(), Error> {
        let failed = |error| Error::Install(self.kind.name, error);
        violation::prepare(self.kind.name).map_err(failed)?;
        seccompiler::apply_filter(&self.program).map_err(|error| match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => failed(error),
            other => failed(io::Error::other(other)),
        })
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("kind", &self.kind.name).finish_non_exhaustive()
    }
}

/// The bit of `mmap`'s and `mprotect`'s third argument that nobody gets.
const EXECUTABLE: u32 = libc::PROT_EXEC.cast_unsigned();

#[cfg(test)]
mod tests;
