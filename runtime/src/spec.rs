//! What a user asks for: the machine and the command in it, checked and complete. Travels to the sandbox process as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::choice::HypervisorChoice;

/// A machine and the command that runs in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Which hypervisor runs it.
    pub hypervisor: HypervisorChoice,
    /// 1 to 32.
    pub vcpus: u8,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// An uncompressed `vmlinux`.
    pub kernel: PathBuf,
    /// An initial ramdisk instead of the embedded one.
    pub initrd: Option<PathBuf>,
    /// Further options for the kernel's command line.
    pub kernel_options: String,
    /// The image of the root file system: EROFS, attached read-only.
    pub rootfs: PathBuf,
    /// Gives the command a read-only root instead of one whose changes are forgotten.
    pub read_only: bool,
    /// Folders of the root that are made if they are not there.
    pub folders: Vec<Vec<u8>>,
    /// Folders of the root that the command may write to even if it is read-only. Absolute, and free of symbolic links.
    pub volumes: Vec<Vec<u8>>,
    /// Where the guest's whole kernel log goes.
    pub console: Option<PathBuf>,
    /// The command.
    pub process: Process,
}

/// A command and its surroundings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments. Bytes, as a command line has them.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Where it starts, in the guest.
    pub directory: Vec<u8>,
    /// User id in the guest.
    pub uid: u32,
    /// Group id in the guest.
    pub gid: u32,
    /// Further groups, at most 64.
    pub groups: Vec<u32>,
    /// The guest's host name.
    pub hostname: String,
    /// How its standard streams look.
    pub streams: Streams,
    /// The signal that it gets for a `SIGTERM`, if not that: 1 to 64.
    pub stop_signal: Option<u8>,
}

/// How a command's standard streams look. The bytes come from and go to the sandbox process's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// Three separate pipes.
    Pipes,
    /// A pseudo-terminal, as large as the caller's terminal.
    Terminal,
}
