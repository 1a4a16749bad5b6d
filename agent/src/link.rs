//! One direction of a stream: bytes go from a source to a sink inside the kernel.
//!
//! One of the two is a pipe, the other a socket or a terminal, so `splice(2)` moves the bytes, and none are ever held here:
//! a slow reader stops the writer through the kernel's own buffers.
//!
//! Two rules keep `epoll` from spinning, which reports hang-ups and errors whether asked to or not. A source is watched only
//! while it is what the link waits for; a sink is always watched, because its end is the link's end.

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll},
    fd::{BorrowedFd, OwnedFd},
    io::{Errno, Result},
    net::SendFlags,
    pipe::SpliceFlags,
};

use crate::token::{End, Token};

/// How much one call moves at most. A vsock packet is made of what one call moves, and up to this length it lies in one
/// piece of the guest's memory; not every device takes packets in more pieces.
const CHUNK: usize = 32 * 1024;

/// How many calls one event may cause, so that one busy stream does not keep the others waiting.
const ROUNDS: usize = 32;

/// What the unfinished output of an ended process can be besides what its pipe holds: a terminal's buffers.
const TERMINAL_BUFFERS: u64 = 128 * 1024;

/// Whether a link goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Flow {
    /// It waits for the next event.
    Open,
    /// Nothing more will flow. The owner closes it.
    Ended,
}

/// A source, a sink, and which of them the link waits for.
#[derive(Debug)]
pub(crate) struct Link {
    source: OwnedFd,
    sink: OwnedFd,
    slot: u8,
    link: u8,
    waits_for: End,
    /// How many more bytes to move; without one, all that come.
    limit: Option<u64>,
    /// Whether the sink can be watched. `/dev/null` cannot, and never has to be waited for.
    sink_watched: bool,
    /// Whether the sink's peer has said that it will not write. It may still read.
    peer_silent: bool,
}

impl Link {
    /// A link that waits for its source. `slot` and `link` come back in the events' tokens.
    pub(crate) fn open(
        epoll: BorrowedFd<'_>,
        source: OwnedFd,
        sink: OwnedFd,
        (slot, link): (u8, u8),
    ) -> Result<Self> {
        let mut new = Self {
            source,
            sink,
            slot,
            link,
            waits_for: End::Source,
            limit: None,
            sink_watched: true,
            peer_silent: false,
        };
        new.watch_source(epoll)?;
        match epoll::add(epoll, &new.sink, new.data(End::Sink), epoll::EventFlags::RDHUP) {
            Ok(()) => Ok(new),
            Err(Errno::PERM) => {
                new.sink_watched = false;
                Ok(new)
            }
            Err(errno) => Err(errno),
        }
    }

    /// An event of one of the two descriptors.
    pub(crate) fn ready(&mut self, epoll: BorrowedFd<'_>, end: End, events: epoll::EventFlags) -> Flow {
        if end == End::Sink {
            if self.sink_gone(events) {
                return Flow::Ended;
            }
            if events.contains(epoll::EventFlags::RDHUP) {
                // It stays so, and would be reported for ever.
                self.peer_silent = true;
                if self.watch_sink(epoll).is_err() {
                    return Flow::Ended;
                }
            }
            if self.waits_for == End::Source {
                return Flow::Open;
            }
        }
        self.pump(epoll)
    }

    /// The process at the other side of the source is gone: moves what it has left behind, and nothing that others with the
    /// same source write after it.
    pub(crate) fn finish(&mut self, epoll: BorrowedFd<'_>, from_terminal: bool) -> Flow {
        let left = if from_terminal {
            TERMINAL_BUFFERS
        } else {
            rustix::io::ioctl_fionread(&self.source).unwrap_or(0)
        };
        self.limit = Some(left);
        self.pump(epoll)
    }

    /// Closes both ends.
    pub(crate) fn close(self, epoll: BorrowedFd<'_>) {
        // Said explicitly: a child between fork and exec still holds copies, which would keep them watched. Neither may be
        // watched at the moment, which is the only way for this to fail.
        let _ = epoll::delete(epoll, &self.source);
        let _ = epoll::delete(epoll, &self.sink);
    }

    /// Moves bytes until one of the ends has to be waited for.
    fn pump(&mut self, epoll: BorrowedFd<'_>) -> Flow {
        let mut rounds = 0;
        // With a limit, the limit ends it.
        while rounds < ROUNDS || self.limit.is_some() {
            rounds += 1;
            let wanted = self.limit.map_or(CHUNK, |left| usize::try_from(left).unwrap_or(CHUNK).min(CHUNK));
            if wanted == 0 {
                return Flow::Ended;
            }
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            match rustix::pipe::splice(&self.source, None, &self.sink, None, wanted, flags) {
                Ok(0) => return Flow::Ended,
                Ok(moved) => {
                    if let Some(left) = &mut self.limit {
                        *left = left.saturating_sub(u64::try_from(moved).unwrap_or(u64::MAX));
                    } else if moved < wanted && self.waits_for == End::Source {
                        // Most likely that was all; if not, the source is reported again.
                        return Flow::Open;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.wait(epoll),
                // A terminal that nobody has open any more, a closed pipe, a stream that was reset.
                Err(_) => return Flow::Ended,
            }
        }
        Flow::Open
    }

    /// Finds out which end made `splice` stop, and waits for that one.
    fn wait(&mut self, epoll: BorrowedFd<'_>) -> Flow {
        let mut ends = [
            PollFd::new(&self.source, PollFlags::IN | PollFlags::RDHUP),
            PollFd::new(&self.sink, PollFlags::OUT),
        ];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut ends, Some(&now)).is_err() {
            return Flow::Ended;
        }
        let [source, sink] = ends.map(|end| !end.revents().is_empty());
        if !source && self.limit.is_some() {
            // Nothing is left of the process that was.
            return Flow::Ended;
        }
        let wanted = if source && !sink { End::Sink } else { End::Source };
        if wanted == self.waits_for {
            return Flow::Open;
        }
        self.waits_for = wanted;
        let source = match wanted {
            End::Source => self.watch_source(epoll),
            End::Sink => epoll::delete(epoll, &self.source),
        };
        match source.and_then(|()| self.watch_sink(epoll)) {
            Ok(()) => Flow::Open,
            Err(_) => Flow::Ended,
        }
    }

    fn watch_source(&self, epoll: BorrowedFd<'_>) -> Result<()> {
        epoll::add(epoll, &self.source, self.data(End::Source), epoll::EventFlags::IN)
    }

    fn watch_sink(&self, epoll: BorrowedFd<'_>) -> Result<()> {
        if !self.sink_watched {
            return Ok(());
        }
        let mut events = epoll::EventFlags::empty();
        events.set(epoll::EventFlags::RDHUP, !self.peer_silent);
        events.set(epoll::EventFlags::OUT, self.waits_for == End::Sink);
        epoll::modify(epoll, &self.sink, self.data(End::Sink), events)
    }

    /// Whether nobody reads any more what goes to the sink. A peer that hung up may have closed its writing half only;
    /// sending nothing tells.
    fn sink_gone(&self, events: epoll::EventFlags) -> bool {
        if events.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP) {
            return true;
        }
        events.contains(epoll::EventFlags::RDHUP)
            && rustix::net::send(&self.sink, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_err()
    }

    fn data(&self, end: End) -> epoll::EventData {
        epoll::EventData::new_u64(Token::Link { slot: self.slot, link: self.link, end }.to_bits())
    }
}
