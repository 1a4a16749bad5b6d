//! The language of a sandbox process's control socket, and the client's end of it.
//!
//! A connection carries messages: a length (u32, little endian), and that many bytes of JSON. Descriptors for standard streams
//! travel with the first byte of the message that needs them. Requests are answered in the order in which they were made; the
//! end of a process that was started over a connection is told there when it comes.
//!
//! ```text
//! exec                               sandbox process
//!   | -- Exec (program) + streams ----> |     the guest starts it
//!   | <----------------------- Started  |
//!   | -- Signal, Resize --------------> |
//!   | <----------------------- Exited   |     after the last byte of output was passed on
//! ```
//!
//! A connection that ends takes the process that was started over it along: `SIGKILL` for whoever executes on its behalf.
//!
//! # What can go wrong
//!
//! The other side may be gone at any time; that is an end of the connection, and never a signal. The sandbox's end
//! (`sandbox/clients.rs`) takes connections of its own user and of root only, and bounds what each may have it hold.

use std::{
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use mote_protocol::WindowSize;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};

pub(crate) use crate::frame::LENGTH;
use crate::{error::Failure, frame};

/// The longest message, in bytes: a program of full length, as JSON.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;
/// How many descriptors a message can have with it: standard streams.
pub(crate) const MAX_DESCRIPTORS: usize = 3;

/// What a command asks of a sandbox process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// How the container is. Answered with [`Answer::Status`].
    Status,
    /// Lets the container's program begin.
    Start,
    /// A signal for the container's first process.
    Kill { signal: u8 },
    /// Starts a process in the container, with the streams that come along: three descriptors, for standard input, output and error
    /// in this order, or two for a terminal, one for each direction. None of them may block: the sandbox process can neither open
    /// them once more nor start a thread for them. Answered with [`Answer::Started`], later [`Answer::Exited`].
    Exec(Exec),
    /// A signal for the process that this connection has started.
    Signal { signal: u8 },
    /// A new size for the terminal of the process that this connection has started.
    Resize { rows: u16, columns: u16 },
    /// A signal for every process of a cgroup of the guest's.
    KillGroup { processes: String, signal: u8 },
    /// Reads a part of one of the guest's files. Answered with [`Answer::File`].
    ReadFile { path: String, offset: u64 },
    /// Writes one of the guest's files.
    WriteFile { path: String, content: String },
    /// Waits until one of the guest's files says something else than what is known, and reads it. Answered with
    /// [`Answer::File`], whenever that is; other answers may come before.
    WaitFile { path: String, known: String },
    /// Takes note that the container's processes stand still, or do not any more.
    Frozen { frozen: bool },
}

/// A process to be started in a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    /// Compiled for the guest.
    pub(crate) program: Vec<u8>,
    /// Gives it a terminal of this size (rows, columns).
    pub(crate) terminal: Option<(u16, u16)>,
    /// Even if the container is paused.
    pub(crate) ignore_paused: bool,
}

impl Exec {
    pub(crate) fn window(&self) -> Option<WindowSize> {
        self.terminal.map(|(rows, columns)| WindowSize { rows, columns })
    }
}

/// How a container is, as its sandbox process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being created.
    Creating,
    /// Everything is ready; the program has not begun.
    Created,
    /// The program runs.
    Running,
    /// All of its processes stand still.
    Paused,
    /// The program has ended.
    Stopped,
}

impl Status {
    /// The word that `state` and `list` use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What a sandbox process answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It was done.
    Done,
    /// It was not done.
    Failed(Failure),
    Status(Status),
    /// The process runs; its pid in the guest.
    Started {
        pid: u32,
    },
    /// The process has ended, and its output was passed on.
    Exited {
        status: u8,
    },
    /// What the file says, and whether it goes on after that.
    File {
        content: String,
        more: bool,
    },
}

/// A message as it travels.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    frame::frame(message, MAX_MESSAGE)
}

/// A connection to a sandbox process.
#[derive(Debug)]
pub(crate) struct Connection(UnixStream);

impl Connection {
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        UnixStream::connect(socket).map(Self)
    }

    /// Asks; the answer may be waited for.
    pub(crate) fn send(&mut self, ask: &Ask, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = frame(ask)?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let sent =
            sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
        // Descriptors went with the first byte.
        self.0.write_all(bytes.get(sent..).unwrap_or_default())
    }

    /// Waits for the next message.
    pub(crate) fn receive(&mut self) -> io::Result<Answer> {
        let mut len = [0; LENGTH];
        self.0.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len);
        if usize::try_from(len).map_or(true, |len| len > MAX_MESSAGE) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = Vec::new();
        (&mut self.0).take(len.into()).read_to_end(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, ask: &Ask) -> io::Result<Answer> {
        self.send(ask, &[])?;
        self.receive()
    }
}

impl From<UnixStream> for Connection {
    fn from(stream: UnixStream) -> Self {
        Self(stream)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
