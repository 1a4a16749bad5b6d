//! The guest's PID 1.
//!
//! **Owns** the guest: it starts processes, carries their streams, reaps everything, and ends the machine. It says hello
//! to the host over vsock, then does what the host asks, one request at a time, from one thread around one `epoll`.
//!
//! **Must not know** what a container or an image is, nor any policy: it carries out programs of small operations that the
//! host compiled (`mote_protocol::Operation`). It parses no text but `key=value` and `PATH`, and allocates nothing:
//! every table has a fixed size, and bytes of standard streams go from descriptor to descriptor inside the kernel.
//!
//! **Callers:** the binary `mote-agent` of this package, which is `/init` of the initial ramdisk (feature `guest`), through
//! [`guest::run`]; and tests, which run [`Agent`] as an ordinary process with a [`Machine`] of their own.
//!
//! # What can go wrong
//!
//! - A bad frame, an unknown request, a full table: the request is answered with `Failed`, nothing else happens.
//! - An operation of a program fails: the child reports which and why and is gone; the host sees one `Failed`.
//! - A host that does not read: events wait in a small outbox, and while it is full no requests are read. Streams go on.
//! - The control stream ends: the host is gone, and so is the guest.
//! - The agent itself cannot go on (no vsock, a bug): a line to the kernel log, then the machine is reset.

#![cfg_attr(not(test), no_std)]

mod agent;
mod control;
pub mod guest;
mod link;
mod machine;
pub mod meter;
mod process;
pub mod program;
mod requests;
mod spawn;
pub mod sys;
mod token;
mod watch;

pub use agent::{Agent, say_hello};
pub use machine::{Machine, Stop};
pub use spawn::StatusWriter;

use mote_protocol::{HEADER_LEN, limits};

/// The bytes that an [`Agent`] needs to collect requests in.
pub const REQUEST_BUFFER_LEN: usize = HEADER_LEN + limits::MAX_REQUEST;
