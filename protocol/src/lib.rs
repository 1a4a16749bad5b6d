//! The language that Mote's host side and its guest agent speak.
//!
//! **Owns** the frame layout, the messages, the operations that a program is made of, and every limit both sides
//! must agree on. **Must not know** how bytes travel, what a container is, or what an operation does: it only says
//! what may be said. No `std`, no allocation: messages borrow from the frame they arrived in.
//!
//! **Callers:** `agent` (guest) and `runtime` (host).
//!
//! # The conversation
//!
//! The guest opens one vsock stream to the host, port [`CONTROL_PORT`], and speaks first:
//!
//! ```text
//! guest                                    host
//!   | -- Hello (version, features) -------> |    this is the ready signal
//!   | <------ Welcome, SetClock, SeedRandom |    each answered with Done or Failed
//!   | <------------------- Run (a program)  |
//!   | -- Created -------------------------> |    only if the program has an `Await`
//!   | <------------------------- Start      |
//!   | -- Started -------------------------> |
//!   | <------------- Signal, Resize, …      |
//!   | -- Exited --------------------------> |    after the last byte of output was handed over
//!   | <------------------------- PowerOff   |
//!   | -- Done ----------------------------> |
//! ```
//!
//! Requests carry an id that the answer repeats; what the guest says on its own (`Hello`, `Exited`) has id 0.
//! Standard streams do not travel here: a [`Run`] request names a vsock port for each, and the guest opens a stream to it.
//!
//! # What can go wrong
//!
//! The peer may be hostile or of another version. Every length is checked against [`limits`] before anything is
//! read, an unknown kind or an undecodable body is an [`Error`] that names the request, and a frame that is too
//! long is skipped, so one bad frame never ends the conversation.
//!
//! # Changing it
//!
//! Kinds and operations are only ever appended. Whatever changes the meaning of bytes that were valid before raises
//! [`VERSION`]; the golden vectors in `tests/golden.rs` notice when that was forgotten.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod frame;
pub mod limits;
mod message;
pub mod meter;
mod program;
mod text;

pub use frame::{Assembler, Frame, HEADER_LEN, Header};
pub use message::{
    Action, Contents, Created, ErrorCode, Event, ExitStatus, Exited, Failed, Features, Hello, PowerOff,
    ProcessId, ReadFile, Request, Resize, Run, SeedRandom, SetClock, Signal, SignalGroup, Started, Stdio,
    WaitFile, Welcome, WindowSize, WriteFile,
};
pub use program::{Operation, Operations, ProgramWriter};
pub use text::{IdList, StrList, WireStr};

/// The version of this protocol. The two sides must agree on it exactly: agent and host are built together.
pub const VERSION: u32 = 1;

/// The vsock port on the host (CID 2) that the agent's control stream connects to.
pub const CONTROL_PORT: u32 = 1024;

/// The first vsock port on the host that standard streams use; the host hands out numbers from here upwards.
pub const FIRST_STREAM_PORT: u32 = 1025;

/// Why bytes are not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The body is longer than the receiver accepts.
    TooLong {
        /// The request that the frame belonged to.
        id: u32,
        /// The length that its header announced, in bytes.
        len: u32,
    },
    /// No message has this kind.
    UnknownKind(u16),
    /// The body does not decode as its kind says.
    Malformed,
    /// The message does not fit the buffer it is written to.
    NoRoom,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong { id, len } => write!(f, "frame {id} announces {len} bytes, more than the limit"),
            Self::UnknownKind(kind) => write!(f, "unknown message kind {kind:#06x}"),
            Self::Malformed => f.write_str("message body does not decode"),
            Self::NoRoom => f.write_str("message does not fit its buffer"),
        }
    }
}

impl core::error::Error for Error {}
