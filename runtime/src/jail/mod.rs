//! What a sandbox process gives up before its guest runs, so that whoever breaks out of the guest finds himself in an empty room.
//!
//! **Owns** the layers around the process, but for the VMM's own system call filters, and the order in which they are put up.
//! **Callers:** the sandbox process, once everything it will ever need is open and before it has a second thread.
//!
//! A [`Jail`] is a value: what a role keeps, it says there. [`enter`](Jail::enter) puts up every layer that the kernel grants and
//! returns what became of each. With privileges, a layer that is refused is an error; an ordinary user gets what there is.
//!
//! # What can go wrong
//!
//! After [`enter`](Jail::enter) no file can be opened and no id be changed; what fails half-way leaves a process that must end.

mod check;
mod credentials;
mod filter;
mod landlock;
mod limits;
mod namespaces;
mod network;
mod root;
mod view;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Seek},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
};

use caps::Capability;
use mote_vmm::seccomp;
use serde::{Deserialize, Serialize};

pub use check::layers;
pub(crate) use filter::{CONTAINER_SUPERVISOR, SUPERVISOR};
pub(crate) use namespaces::in_user_namespace;
pub(crate) use network::EmptyNetwork;
pub(crate) use view::{Place, View};

use crate::{Error, error::Kind, spec::Share};

/// What happens when a thread makes a system call that is not on its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SeccompMode {
    /// The sandbox ends.
    #[default]
    Enforce,
    /// The host's kernel logs it and lets it pass: not safe, for finding out what a list lacks.
    Log,
}

impl From<SeccompMode> for seccomp::Mode {
    fn from(mode: SeccompMode) -> Self {
        match mode {
            SeccompMode::Enforce => Self::Enforce,
            SeccompMode::Log => Self::Log,
        }
    }
}

/// What a sandbox process keeps. Everything else it gives up.
#[derive(Debug)]
pub(crate) struct Jail {
    /// The files it sees.
    pub(crate) root: Root,
    /// The network it sees.
    pub(crate) network: Network,
    /// Who it is, if it is started by root.
    pub(crate) user: User,
    /// How many descriptors it may have.
    pub(crate) descriptors: u64,
    /// What it may go on using below open folders, and whether it may change anything there.
    pub(crate) shares: Vec<(OwnedFd, Access)>,
    /// The capabilities that it keeps.
    pub(crate) capabilities: &'static [Capability],
    /// What others find who come into its mount namespace, if not what it sees itself.
    pub(crate) view: Option<(View, Vec<Share>)>,
}

/// What may be done with a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Look.
    Read,
    /// Everything.
    Change,
}

/// The files that a process sees by name. What it has open stays open.
#[derive(Debug)]
pub(crate) enum Root {
    /// None at all.
    Empty,
    /// What it takes to start a program: system folders, read-only.
    Program {
        /// The program.
        path: PathBuf,
        /// What it has of `/dev`.
        devices: &'static [&'static str],
        /// Files that it inherits and may open once more, through `/proc`.
        files: Vec<OwnedFd>,
    },
}

/// The network that a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// One without any interface that is up.
    Own,
    /// The one with this inode number, which other sandboxes are in, and which is as empty; one of its own if it was not started there.
    Common(u64),
    /// The one it was started in: an engine has put it there.
    Keep,
}

/// Whom root becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Somebody whom no other process is: an id made of the process id.
    Dedicated,
    /// This user and group.
    Fixed(u32),
    /// Root it stays: files are to belong to whom the guest says. Its capabilities say what it can do.
    Root,
}

/// One of the jail's walls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// What it is called.
    pub name: String,
    /// Whether it stands.
    pub state: LayerState,
}

/// Whether a wall stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerState {
    /// It does, in this form.
    InForce(String),
    /// The kernel does not grant it to this user, or does not have it.
    NotGranted(String),
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            LayerState::InForce(form) => write!(f, "{}: {form}", self.name),
            LayerState::NotGranted(why) => write!(f, "{}: not in force, {why}", self.name),
        }
    }
}

/// The layers so far.
#[derive(Debug, Default)]
struct Layers(Vec<Layer>);

impl Layers {
    fn in_force(&mut self, name: &str, form: impl Into<String>) {
        self.0.push(Layer { name: name.into(), state: LayerState::InForce(form.into()) });
    }

    fn not_granted(&mut self, name: &str, why: impl Into<String>) {
        self.0.push(Layer { name: name.into(), state: LayerState::NotGranted(why.into()) });
    }
}

/// A step of the jail that failed.
fn refused(what: &'static str) -> impl Fn(nix::errno::Errno) -> Error {
    move |error| Error::because(Kind::Host, format!("cannot confine the sandbox process: {what}"), &error)
}

/// The file's content in memory.
fn copy(mut file: File) -> io::Result<File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut copy = File::from(nix::sys::memfd::memfd_create("copy", flags)?);
    io::copy(&mut file, &mut copy)?;
    copy.rewind()?;
    Ok(copy)
}

impl Jail {
    /// The jail of a process that runs the VM itself.
    pub(crate) fn for_kvm(uid: Option<u32>) -> Self {
        Self {
            root: Root::Empty,
            network: Network::Own,
            user: uid.map_or(User::Dedicated, User::Fixed),
            descriptors: limits::DESCRIPTORS,
            shares: Vec::new(),
            capabilities: &[],
            view: None,
        }
    }

    /// The jail of a process that has QEMU for a child: the child lives in it, too.
    pub(crate) fn for_qemu(program: PathBuf, with_kvm: bool, uid: Option<u32>) -> Self {
        const PLAIN: &[&str] = &["null", "urandom"];
        const WITH_KVM: &[&str] = &["kvm", "null", "urandom"];
        let devices = if with_kvm { WITH_KVM } else { PLAIN };
        let root = Root::Program { path: program, devices, files: Vec::new() };
        Self { root, ..Self::for_kvm(uid) }
    }

    /// Leaves a file server in it what it needs.
    ///
    /// # Errors
    /// A source cannot be opened.
    pub(crate) fn serve_files(&mut self, shares: &[Share]) -> io::Result<()> {
        if shares.is_empty() {
            return Ok(());
        }
        self.user = User::Root;
        self.descriptors = u64::MAX;
        self.capabilities = credentials::FILE_SERVER;
        for share in shares {
            let source = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(&share.source)?;
            let access = if share.read_only { Access::Read } else { Access::Change };
            self.shares.push((source.into(), access));
        }
        Ok(())
    }

    /// Has a file stay readable for whatever program the jail is for, which may be another user then. Without one, what is open
    /// stays open, and nothing has to be done.
    ///
    /// # Errors
    /// It can only be read by those who may read it now, and there is no memory for a copy.
    pub(crate) fn keep_readable(&mut self, file: File) -> io::Result<File> {
        let Root::Program { files, .. } = &mut self.root else { return Ok(file) };
        let for_all = file.metadata()?.mode() & 0o004 != 0;
        let file = if for_all || !file.metadata()?.is_file() { file } else { copy(file)? };
        files.push(file.try_clone()?.into());
        Ok(file)
    }

    /// Whether another program is started in it, which has the limits that the process has then.
    pub(crate) fn starts_a_program(&self) -> bool {
        matches!(self.root, Root::Program { .. })
    }

    /// Puts up all layers around the calling process. It must have one thread.
    ///
    /// # Errors
    /// A layer that should stand does not.
    pub(crate) fn enter(self) -> Result<Vec<Layer>, Error> {
        let mut layers = Layers::default();
        let process_id = credentials::process_id();
        let admin = credentials::is_admin();
        if namespaces::enter(self.network, admin, &mut layers)? {
            // Nobody comes into an ordinary user's.
            let view = self.view.as_ref().filter(|_| admin);
            let view = view.map(|(view, shares)| view.prepare(shares)).transpose()?;
            root::enter(&self.root, &mut layers)?;
            view.map_or(Ok(()), view::Prepared::show)?;
        }
        limits::set(self.descriptors, &mut layers)?;
        landlock::restrict(&self, &mut layers)?;
        credentials::give_up(self.user, self.capabilities, process_id, admin, &mut layers)?;
        for layer in &layers.0 {
            tracing::debug!("jail: {layer}");
        }
        Ok(layers.0)
    }
}
