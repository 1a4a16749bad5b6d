//! Why there is no lab, or why it has no result.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of everything in the lab.
pub type Result<T> = std::result::Result<T, Error>;

/// A lab that could not be set up, or that died.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program that the lab calls is not installed.
    #[error("the lab needs the program {program}: install the Debian package {package}")]
    NoProgram {
        /// The program's name or path.
        program: String,
        /// The package that has it.
        package: String,
    },
    /// A program that was to be copied into L1 is not in `PATH`.
    #[error("no program {name} in PATH: install the package that has it, or give its path with --file")]
    NoSuchProgram {
        /// The name as the caller gave it.
        name: String,
    },
    /// A program that was to be copied into L1 cannot be resolved.
    #[error("cannot copy the program {path} into the lab: {reason}")]
    Program {
        /// The file on the host.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A helper program failed.
    #[error("{command} failed ({status}): {message}")]
    Helper {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to standard error.
        message: String,
    },
    /// The distribution does not offer the lab's kernel.
    #[error("no kernel for the lab: {reason}")]
    Kernel {
        /// What was looked for and not found.
        reason: String,
    },
    /// The kernel has no such module.
    #[error("the lab's kernel has no module {name} in {tree}")]
    NoModule {
        /// The module's name.
        name: String,
        /// Where it was looked for.
        tree: PathBuf,
    },
    /// A path in L1 is not absolute, or has `.` or `..` in it.
    #[error("{path} is no path in the lab: give an absolute path without '.' and '..'")]
    GuestPath {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The ramdisk does not fit.
    #[error(
        "{given} MiB of memory are too few for what is copied into the lab: give it {needed} MiB or more"
    )]
    Memory {
        /// What was asked for, in MiB.
        given: u32,
        /// What is needed, in MiB.
        needed: u64,
    },
    /// The ramdisk cannot be written.
    #[error("cannot pack the lab's ramdisk")]
    Archive(#[from] mote_initrd::Error),
    /// The command ended, but did not leave a file that was to be brought out.
    #[error("the command ended with status {status} and left no regular file {guest} to bring out")]
    NoResult {
        /// The path in L1.
        guest: PathBuf,
        /// The command's status.
        status: u8,
    },
    /// L1 ended, and there is no status of the command.
    #[error("the lab died: {reason}{console}")]
    Died {
        /// How it ended.
        reason: String,
        /// The last lines of L1's console and of QEMU, each on a line of its own; empty if there are none.
        console: String,
    },
    /// The time limit was reached.
    #[error("the lab died: stopped after {} s, its time limit{console}", limit.as_secs())]
    Hang {
        /// The limit.
        limit: Duration,
        /// The last lines of L1's console and of QEMU, each on a line of its own; empty if there are none.
        console: String,
    },
    /// An interactive lab without a terminal.
    #[error("no command, and standard input is no terminal: give a command after --")]
    NoTerminal,
    /// The operating system refused something.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was tried on which file.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_path_buf(), source: source.into() }
    }
}
