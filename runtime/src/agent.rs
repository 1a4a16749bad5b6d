//! The host's end of the conversation with the agent.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use mote_protocol::{Assembler, Event, Frame, HEADER_LEN, Hello, Request, VERSION, limits};

use crate::{
    Error,
    error::{Kind, host},
};

/// A conversation. Requests are written at once; events are taken as they come.
pub(crate) struct Agent {
    stream: UnixStream,
    assembler: Assembler<Vec<u8>>,
    next_id: u32,
}

impl Agent {
    /// Talks over `stream`, which must be non-blocking for reading: [`receive`](Self::receive) takes what is there.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, assembler: Assembler::new(vec![0; HEADER_LEN + limits::MAX_EVENT]), next_id: 1 }
    }

    /// Sends requests in one go; returns the id of the last one.
    pub(crate) fn send(&mut self, requests: &[Request<'_>]) -> Result<u32, Error> {
        let mut bytes = Vec::new();
        let mut buf = vec![0; HEADER_LEN + limits::MAX_REQUEST];
        for request in requests {
            let len = request.encode(self.next_id, &mut buf).map_err(|error| {
                Error::because(Kind::Process, "the request is too long for the agent", &error)
            })?;
            bytes.extend_from_slice(&buf[..len]);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
        self.stream.write_all(&bytes).map_err(host("send a request to the guest's agent"))?;
        Ok(self.next_id - 1)
    }

    /// Reads what has arrived, and has `handle` called for each whole event. `false` at the end of the stream.
    pub(crate) fn receive(
        &mut self,
        mut handle: impl FnMut(u32, Event<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let count = match self.stream.read(self.assembler.spare()) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(true);
            }
            // The guest has gone; how, its VM tells.
            Err(_) => return Ok(false),
        };
        self.assembler.filled(count);
        loop {
            match self.assembler.next_frame() {
                Ok(Some(frame)) => {
                    let event = decode(frame)?;
                    handle(frame.id, event)?;
                }
                Ok(None) => return Ok(true),
                Err(error) => return Err(garbled(&error)),
            }
        }
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Decodes an event; a hello of another version is told from a broken one.
fn decode(frame: Frame<'_>) -> Result<Event<'_>, Error> {
    let hello_kind =
        Event::Hello(Hello { version: 0, features: Default::default(), entered_ns: 0, sent_ns: 0 }).kind();
    if frame.kind == hello_kind
        && let Ok(version) = Hello::peek_version(frame.body)
        && version != VERSION
    {
        return Err(Error::new(
            Kind::Guest,
            format!(
                "the guest's agent speaks version {version} of the protocol, this mote speaks version {VERSION}; \
                 use the initial ramdisk that belongs to this mote"
            ),
        ));
    }
    Event::decode(frame).map_err(|error| garbled(&error))
}

fn garbled(error: &mote_protocol::Error) -> Error {
    Error::because(Kind::Guest, "the guest's agent sent something that is not the protocol", error)
}
