//! The socket between a caller and its sandbox process: a spec one way, and that its limits are set; one report the other way. Its end tells either side
//! that the other is gone.
//!
//! Each message is a length (u32, little endian) and that many bytes of JSON.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{error::Failure, timeline::Timeline};

/// The longest message: a spec with all that a command line can hold.
const MAX: u32 = 16 << 20;

/// The caller has set the sandbox process's limits: the guest may run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Limited;

/// How a sandbox ended, from its own point of view.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The status the command ended with, or why it could not.
    pub(crate) result: Result<u8, Failure>,
    /// The sandbox's part of the timeline.
    pub(crate) timeline: Timeline,
}

pub(crate) fn send(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let len = u32::try_from(body.len()).ok().filter(|len| *len <= MAX).ok_or(io::ErrorKind::InvalidInput)?;
    stream.write_all(&len.to_le_bytes())?;
    stream.write_all(&body)
}

pub(crate) fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    stream.take(len.into()).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
