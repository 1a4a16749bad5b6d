//! What goes wrong between a user's wish and a running command, in words for that user.

use serde::{Deserialize, Serialize};

/// What a failure is about; decides nothing but what callers may want to treat apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The guest kernel.
    Kernel,
    /// The root file system.
    Rootfs,
    /// A folder or a file that the guest is to see.
    Share,
    /// The hypervisor, or the resources asked of it.
    Hypervisor,
    /// The guest ended or misbehaved before the command did.
    Guest,
    /// The command was not found in the guest.
    CommandNotFound,
    /// The command cannot be executed in the guest.
    CommandNotExecutable,
    /// The working directory, the user, or another part of the command's surroundings.
    Process,
    /// The host refused something.
    Host,
    /// There is no such container.
    NoContainer,
    /// The container is not in a state for this, or never can be.
    Container,
    /// A signal came before the command ran.
    Interrupted(i32),
}

/// One line for people, and what it is about. Travels from the sandbox process to its caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// What it is about.
    pub kind: Kind,
    /// What failed, on what, and what to do.
    pub message: String,
    /// The causes, outermost first, for `--debug`.
    pub causes: Vec<String>,
    /// The last lines of the guest's kernel log, where they may explain it.
    pub kernel_log: Vec<String>,
}

/// Why a command could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct Error(pub Box<Failure>);

impl Error {
    /// An error without a cause.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Failure { kind, message: message.into(), causes: Vec::new(), kernel_log: Vec::new() }))
    }

    /// An error whose message ends with its first cause.
    #[must_use]
    pub fn because(kind: Kind, message: impl Into<String>, cause: &dyn std::error::Error) -> Self {
        let mut causes = Vec::new();
        let mut next = Some(cause);
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        let message = format!("{}: {}", message.into(), causes.join(": "));
        Self(Box::new(Failure { kind, message, causes, kernel_log: Vec::new() }))
    }

    /// Adds the guest's last words.
    #[must_use]
    pub fn with_kernel_log(mut self, lines: Vec<String>) -> Self {
        self.0.kernel_log = lines;
        self
    }

    /// The status with which `mote run` ends: as `podman run` and the shell have it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self.0.kind {
            Kind::CommandNotFound => 127,
            Kind::CommandNotExecutable => 126,
            Kind::Interrupted(signal) => 128 + u8::try_from(signal).unwrap_or(0),
            _ => 125,
        }
    }
}

impl From<mote_vmm::Error> for Error {
    fn from(error: mote_vmm::Error) -> Self {
        let kind = match error {
            mote_vmm::Error::Kernel { .. } | mote_vmm::Error::CommandLine => Kind::Kernel,
            _ => Kind::Hypervisor,
        };
        Self::because(kind, "cannot start the VM", &error)
    }
}

/// Shorthand for failures of host system calls.
pub(crate) fn host(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::because(Kind::Host, format!("cannot {what}"), &error)
}

/// The same for `nix`.
pub(crate) fn errno(what: &'static str) -> impl Fn(nix::errno::Errno) -> Error {
    move |error| host(what)(error.into())
}
