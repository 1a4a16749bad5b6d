//! What a user asks for: the machine and the command in it, checked and complete. Travels to the sandbox process as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{choice::HypervisorChoice, jail::SeccompMode};

/// A virtual machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
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
    /// The root file system.
    pub rootfs: Rootfs,
    /// Folders and files of the host's that the guest sees. What it does with them, programs say.
    pub shares: Vec<Share>,
    /// Where the guest's whole kernel log goes.
    pub console: Option<PathBuf>,
    /// What happens to a process of ours that makes a system call it has no business with.
    pub seccomp: SeccompMode,
}

/// A machine and the command that runs in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The machine.
    pub machine: Machine,
    /// Gives the command a read-only root instead of one whose changes are forgotten.
    pub read_only: bool,
    /// Folders of the root that are made if they are not there.
    pub folders: Vec<Vec<u8>>,
    /// Folders of the root that the command may write to even if it is read-only. Absolute, and free of symbolic links.
    pub writable: Vec<Vec<u8>>,
    /// Where the command finds shares.
    pub volumes: Vec<Volume>,
    /// Whom the sandbox process becomes if root starts it; none for a user of its own.
    pub jail_uid: Option<u32>,
    /// The command.
    pub process: Process,
}

/// What a command has as its root. It never changes: what the command writes goes to memory, and is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An EROFS image, attached read-only.
    Image(PathBuf),
    /// The folder that the share with this index shares.
    Share(usize),
}

/// A folder or a regular file of the host's that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The folder or the file.
    pub source: PathBuf,
    /// Has the host refuse every change, whatever the guest believes.
    pub read_only: bool,
    /// What the guest may remember of it.
    pub cache: Cache,
}

/// What a guest may remember of a share without asking.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cache {
    /// Nothing: each read is a request to the host.
    None,
    /// Contents, while size and times of the file stay the same, which the guest asks for each time: it sees at once what the host
    /// changes.
    #[default]
    Auto,
    /// Everything: nobody but this guest changes the share.
    Always,
}

/// A share in a command's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The index of the share.
    pub share: usize,
    /// Where it is mounted, an absolute path. What is missing of it is made, as a folder or a file, whichever the share is.
    pub target: Vec<u8>,
}

/// The network namespace that a sandbox process lives in. Engines and hooks look for a container's interfaces there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Network {
    /// Its caller's.
    Callers,
    /// An empty one that other sandboxes have in common, by its inode number; its caller's if it could not be born there.
    Empty(u64),
    /// A new one.
    New,
    /// The one that this path names.
    Path(PathBuf),
}

/// What a sandbox process's own standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Terminal {
    /// No terminal, as far as the guest is concerned.
    None,
    /// The caller's terminal, set to raw mode while the guest has it. The caller sends `SIGWINCH`.
    Callers,
    /// A terminal that was made for the container, in raw mode already; whoever has its other end changes its size.
    Own,
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
    /// Further groups, at most [`MAX_GROUPS`](mote_protocol::limits::MAX_GROUPS).
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
