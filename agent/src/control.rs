//! The control stream: requests come in, events go out.

use mote_protocol::{Assembler, Event, HEADER_LEN, limits};
use rustix::{
    event::epoll::{self, EventFlags},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::SendFlags,
};

use crate::{machine::Stop, token::Token};

/// How many bytes of events wait at most for a host that does not read: one of the longest, and many of the usual ones.
const OUTBOX: usize = HEADER_LEN + limits::MAX_EVENT + 4096;

/// Events on their way to the host.
#[derive(Debug)]
pub(crate) struct Outbox {
    buf: [u8; OUTBOX],
    end: usize,
}

impl Outbox {
    fn new() -> Self {
        Self { buf: [0; OUTBOX], end: 0 }
    }

    /// Whether any event fits. Nothing that makes one is begun while this is false.
    pub(crate) fn has_room(&self) -> bool {
        self.buf.len() - self.end >= HEADER_LEN + limits::MAX_EVENT
    }

    /// Appends an event.
    pub(crate) fn push(&mut self, id: u32, event: &Event<'_>) {
        // An event that does not fit cannot be: callers look at `has_room`, and texts are cut to their limit.
        if let Ok(len) = event.encode(id, self.buf.get_mut(self.end..).unwrap_or_default()) {
            self.end += len;
        }
    }

    /// Appends a frame that was encoded elsewhere.
    pub(crate) fn push_frame(&mut self, frame: &[u8]) {
        if let Some(room) = self.buf.get_mut(self.end..self.end + frame.len()) {
            room.copy_from_slice(frame);
            self.end += frame.len();
        }
    }

    fn waiting(&self) -> &[u8] {
        self.buf.get(..self.end).unwrap_or_default()
    }

    fn sent(&mut self, count: usize) {
        let count = count.min(self.end);
        self.buf.copy_within(count..self.end, 0);
        self.end -= count;
    }
}

/// The stream and what is under way in it.
#[derive(Debug)]
pub(crate) struct Control<'b> {
    stream: OwnedFd,
    pub(crate) inbox: Assembler<&'b mut [u8]>,
    pub(crate) outbox: Outbox,
    watched: EventFlags,
}

impl<'b> Control<'b> {
    /// Takes a connected, non-blocking stream.
    pub(crate) fn new(
        epoll: BorrowedFd<'_>,
        stream: OwnedFd,
        buffer: &'b mut [u8],
    ) -> rustix::io::Result<Self> {
        let watched = EventFlags::IN;
        epoll::add(epoll, &stream, Self::data(), watched)?;
        Ok(Self { stream, inbox: Assembler::new(buffer), outbox: Outbox::new(), watched })
    }

    fn data() -> epoll::EventData {
        epoll::EventData::new_u64(Token::Control.to_bits())
    }

    /// Reads what has come, unless there is no room for answers.
    pub(crate) fn receive(&mut self) -> Result<(), Stop> {
        if !self.outbox.has_room() {
            return Ok(());
        }
        match rustix::io::read(&self.stream, self.inbox.spare()) {
            Ok(0) => Err(Stop::HostGone),
            Ok(count) => {
                self.inbox.filled(count);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => Err(Stop::HostGone),
        }
    }

    /// Sends what the stream takes without blocking.
    pub(crate) fn flush(&mut self) -> Result<(), Stop> {
        while !self.outbox.waiting().is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.stream, self.outbox.waiting(), flags) {
                Ok(count) => self.outbox.sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Stop::HostGone),
            }
        }
        Ok(())
    }

    /// Asks for exactly the events that there is something to do for.
    pub(crate) fn watch(&mut self, epoll: BorrowedFd<'_>) -> Result<(), Stop> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.outbox.has_room());
        wanted.set(EventFlags::OUT, !self.outbox.waiting().is_empty());
        if wanted != self.watched {
            epoll::modify(epoll, &self.stream, Self::data(), wanted).map_err(|_| Stop::HostGone)?;
            self.watched = wanted;
        }
        Ok(())
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.waiting().is_empty()
    }

    /// The stream itself.
    pub(crate) fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
