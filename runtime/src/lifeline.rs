//! The socket between a caller and its sandbox process: orders one way, news the other way. Its end tells either side that the
//! other is gone.
//!
//! ```text
//! caller                    sandbox process
//!   | -- Order ---------------> |   the VM boots
//!   | <------------- Prepared   |   it is where the container is to be: its namespaces
//!   | -- Limited -------------> |   only if it is no container: its cgroup has it, the guest may run
//!   | -- Go (a program) ------> |
//!   | <-------------- Created   |   only if the program stops at its gate: the caller may leave now
//!   | <--------------- Report   |   the end
//! ```
//!
//! Each message is a length (u32, little endian) and that many bytes of JSON.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::Failure,
    frame,
    jail::View,
    spec::{Machine, Network, Terminal},
    timeline::Timeline,
};

/// The longest message: a spec with all that a command line can hold.
const MAX: usize = 16 << 20;

/// The caller has set the sandbox process's limits: the guest may run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Limited;
/// The first thing that a sandbox process hears: what it is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The VM.
    pub(crate) machine: Machine,
    /// Where the sandbox process lives.
    pub(crate) network: Network,
    /// Whether the process's standard streams are a terminal, and whose.
    pub(crate) terminal: Terminal,
    /// It is a container: the caller leaves once it is created, and others come over the control socket.
    pub(crate) container: bool,
    /// How much memory of the host's the container's sandbox can have, in bytes, if that is limited.
    pub(crate) host_memory: Option<u64>,
    /// Whom the process becomes in its jail, if root starts it and it serves no files; none for a user of its own.
    pub(crate) jail_uid: Option<u32>,
    /// The signal that the guest's first process gets for a `SIGTERM`, if not that.
    pub(crate) stop_signal: Option<u8>,
    /// What others find in its mount namespace, if it is a container.
    pub(crate) view: Option<View>,
}

/// What the guest is to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go {
    /// Compiled for the guest.
    pub(crate) program: Vec<u8>,
}

/// What a caller hears.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// The sandbox process is in its namespaces.
    Prepared,
    /// The program waits at its gate.
    Created,
    /// The sandbox has ended.
    Report(Report),
}

/// How a sandbox ended, from its own point of view.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The status the command ended with, or why it could not.
    pub(crate) result: Result<u8, Failure>,
    /// The sandbox's part of the timeline.
    pub(crate) timeline: Timeline,
}

/// A message as it goes over the lifeline.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    frame::frame(message, MAX)
}

pub(crate) fn send(stream: &mut &UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream.write_all(&frame(message)?)
}

pub(crate) fn receive<T: DeserializeOwned>(stream: &mut &UnixStream) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if usize::try_from(len).unwrap_or(usize::MAX) > MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    stream.take(len.into()).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
