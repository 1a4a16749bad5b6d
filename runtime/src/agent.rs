//! The host's end of the conversation with the agent.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use mote_protocol::{Assembler, Event, Frame, HEADER_LEN, Hello, Request, VERSION, limits};

use crate::{Error, error::Kind};

/// A conversation. Requests are written as the guest takes them; events are taken as they come.
pub(crate) struct Agent {
    stream: UnixStream,
    assembler: Assembler<Vec<u8>>,
    /// What was asked and could not be written yet.
    unsent: Vec<u8>,
    next_id: u32,
}

impl Agent {
    /// Talks over `stream`, which must be non-blocking: [`receive`](Self::receive) takes what is there,
    /// [`flush`](Self::flush) sends what there is room for.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            assembler: Assembler::new(vec![0; HEADER_LEN + limits::MAX_EVENT]),
            unsent: Vec::new(),
            next_id: 1,
        }
    }

    /// Sends requests in one go, as far as the guest takes them; returns the id of the last one.
    pub(crate) fn send(&mut self, requests: &[Request<'_>]) -> Result<u32, Error> {
        let start = self.unsent.len();
        let mut room = vec![0; HEADER_LEN + limits::MAX_REQUEST];
        for request in requests {
            let len = request.encode(self.next_id, &mut room).map_err(|error| {
                self.unsent.truncate(start);
                Error::because(Kind::Process, "the request is too long for the agent", &error)
            })?;
            self.unsent.extend_from_slice(&room[..len]);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
        self.flush();
        Ok(self.next_id - 1)
    }

    /// Whether something waits for the stream to take it.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// How many bytes wait.
    pub(crate) fn backlog(&self) -> usize {
        self.unsent.len()
    }

    /// Writes what there is room for. A guest that is gone takes nothing: how it went, its VM tells.
    pub(crate) fn flush(&mut self) {
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => sent = self.unsent.len(),
            }
        }
        self.unsent.drain(..sent);
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
