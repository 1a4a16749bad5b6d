//! The streams that `exec` hands over to a sandbox process.
//!
//! In its jail that can neither open anything nor start threads, so what it gets must not block. Pipes and terminals are opened once
//! more here, for descriptions of our own that do not; what cannot be (a terminal of another user's, say) has a thread here that passes
//! its bytes on.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
};

use mote_vmm::virtio::vsock::Endpoint;

use crate::control::{Ask, Connection};

/// Streams that do not block, and what stands between some of them and those of ours.
pub(super) struct Streams {
    given: Vec<OwnedFd>,
    pumps: Vec<Pump>,
}

/// Passes on the bytes of one stream.
pub(super) struct Pump {
    stream: OwnedFd,
    socket: OwnedFd,
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Input,
    Output,
}

impl Streams {
    /// Standard input, output and error.
    pub(super) fn new([stdin, stdout, stderr]: [BorrowedFd<'_>; 3]) -> io::Result<Self> {
        Self::from_ends(&[
            (stdin, Direction::Input),
            (stdout, Direction::Output),
            (stderr, Direction::Output),
        ])
    }

    /// A terminal, for both directions.
    pub(super) fn of_terminal(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        Self::from_ends(&[(terminal, Direction::Input), (terminal, Direction::Output)])
    }

    fn from_ends(ends: &[(BorrowedFd<'_>, Direction)]) -> io::Result<Self> {
        let mut streams = Self { given: Vec::new(), pumps: Vec::new() };
        for (end, direction) in ends {
            let stream = Endpoint::reopen(*end)?;
            if !Endpoint::may_block(stream.as_fd())? {
                streams.given.push(stream);
                continue;
            }
            let (ours, theirs) = UnixStream::pair()?;
            streams.given.push(theirs.into());
            streams.pumps.push(Pump { stream, socket: ours.into(), direction: *direction });
        }
        Ok(streams)
    }

    /// Sends them with `ask`. From then on they are the sandbox process's alone; what is left to be done here is returned.
    pub(super) fn hand_over(self, connection: &mut Connection, ask: &Ask) -> io::Result<Vec<Pump>> {
        let given: Vec<_> = self.given.iter().map(AsFd::as_fd).collect();
        connection.send(ask, &given)?;
        Ok(self.pumps)
    }
}

impl Pump {
    /// The same with other descriptors for the same things.
    pub(super) fn map<E>(
        &self,
        mut other: impl FnMut(BorrowedFd<'_>) -> Result<OwnedFd, E>,
    ) -> Result<Self, E> {
        let stream = other(self.stream.as_fd())?;
        Ok(Self { stream, socket: other(self.socket.as_fd())?, direction: self.direction })
    }

    /// Starts the thread. That of an output ends after the last byte and is returned; that of an input may wait for ever.
    pub(super) fn start(self) -> io::Result<Option<JoinHandle<()>>> {
        let (mut from, mut to) = match self.direction {
            Direction::Input => (File::from(self.stream), File::from(self.socket)),
            Direction::Output => (File::from(self.socket), File::from(self.stream)),
        };
        let thread = thread::Builder::new().name("stream".into()).spawn(move || {
            // An error ends the stream, as its end does.
            let _ = io::copy(&mut from, &mut to);
        })?;
        Ok((self.direction == Direction::Output).then_some(thread))
    }
}
