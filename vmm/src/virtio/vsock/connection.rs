//! One stream between the guest and the host: which directions are open, what was said about that, and what is owed.
//!
//! The device feeds it the guest's packets and the descriptors' events; it says what it wants to send. It never sends by
//! itself, so a connection's memory is its [`Buffer`], whatever the guest does.
//!
//! A direction ends where its descriptor goes: `input` is none when the guest will get no more bytes, `output` is none when
//! nobody takes the guest's. With both gone the stream is over, though the guest may still hold its end of it.

use std::{io, sync::Arc};

use nix::sys::epoll::{Epoll, EpollFlags};

use super::{
    buffer::Buffer,
    credit::{Granted, Peer},
    descriptor::Watch,
    endpoint::{Direction, Endpoint, OnClose},
    packet::{HEADER_LEN, HOST_CID, Header, Key, TYPE_STREAM, op, shutdown},
    pump::Pump,
};
use crate::{
    Memory,
    virtio::{Segments, queue::transfer::Vector},
};

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    Keep,
    /// It is to be reset, and forgotten.
    Reset,
}

#[derive(Debug)]
pub(super) struct Connection {
    key: Key,
    guest_cid: u64,
    input: Option<Side>,
    output: Option<Side>,
    buffer: Buffer,
    over: Option<Arc<OnClose>>,
    granted: Granted,
    peer: Peer,
    /// The guest's [`shutdown`] flags.
    guest_done: u32,
    /// The [`shutdown`] flags that the guest was told.
    told_done: u32,
    /// The guest knows that it is connected.
    answered: bool,
    /// The guest asked for its credit.
    update_wanted: bool,
    /// The last read filled all that was offered: the next one may, too.
    pub(super) flows: bool,
    /// The guest's bytes cannot be written any more, and it gets none either.
    broken: bool,
    /// Is in the list of those that have something for the guest.
    pub(super) queued: bool,
}

impl Connection {
    /// Joins a guest's request with an endpoint.
    ///
    /// # Errors
    /// The endpoint's descriptor cannot be used, or not be watched.
    pub(super) fn join(
        request: &Header,
        key: Key,
        endpoint: Endpoint,
        epoll: &Arc<Epoll>,
    ) -> io::Result<Self> {
        let Endpoint { direction, descriptor, over } = endpoint;
        let incoming = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        let (reads, writes, interest) = match direction {
            Direction::Input => (true, false, incoming),
            Direction::Output => (false, true, EpollFlags::empty()),
            Direction::Both => (true, true, incoming),
        };
        let watch = Arc::new(Watch::new(descriptor?, epoll, interest, key.token())?);
        let side = |wanted: bool| wanted.then(|| Side { watch: Arc::clone(&watch), ready: true });
        let mut peer = Peer::default();
        peer.update(request.buf_alloc, request.fwd_cnt);
        Ok(Self {
            key,
            guest_cid: request.src_cid,
            input: side(reads),
            output: side(writes),
            buffer: Buffer::default(),
            over: Some(over),
            granted: Granted::default(),
            peer,
            guest_done: 0,
            told_done: 0,
            answered: false,
            update_wanted: false,
            flows: false,
            broken: false,
            queued: false,
        })
    }

    /// Whether nothing will pass any more. The guest may not know yet.
    pub(super) fn is_over(&self) -> bool {
        self.input.is_none() && self.output.is_none()
    }

    /// Takes a packet of the guest's that is neither a request nor a reset. For [`op::RW`], the first `header.len` bytes after
    /// the header of `packet` are its payload; they exist.
    pub(super) fn packet<'m>(
        &mut self,
        header: &Header,
        packet: &Segments,
        memory: &'m Memory,
        vector: &mut Vector<'m>,
    ) -> Verdict {
        self.peer.update(header.buf_alloc, header.fwd_cnt);
        match header.op {
            op::RW => {
                if self.guest_done & shutdown::SEND != 0 || !self.granted.take(header.len) {
                    return Verdict::Reset;
                }
                self.payload(header.len as usize, packet, memory, vector);
            }
            op::SHUTDOWN => self.guest_done |= header.flags & shutdown::BOTH,
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => self.update_wanted = true,
            _ => return Verdict::Reset,
        }
        self.settle()
    }

    /// Passes the guest's bytes on: straight from guest memory as far as their reader takes them, the rest later.
    fn payload<'m>(&mut self, len: usize, packet: &Segments, memory: &'m Memory, vector: &mut Vector<'m>) {
        let mut done = 0;
        while done < len
            && self.buffer.is_empty()
            && let Some(output) = self.output.as_mut().filter(|output| output.ready)
        {
            vector.clear();
            packet.gather(memory, HEADER_LEN + done, len - done, vector);
            match output.write(vector) {
                Transfer::Done(count) => done += count,
                Transfer::Later => {}
                Transfer::Over => self.output_failed(),
            }
        }
        if self.output.is_some() {
            self.buffer.append(memory, packet, HEADER_LEN + done, len - done);
        } else {
            done = len;
        }
        self.granted.forward(done);
    }

    /// Takes an event of a descriptor.
    pub(super) fn event(&mut self, events: EpollFlags) -> Verdict {
        let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | gone)
            && let Some(input) = &mut self.input
        {
            input.ready = true;
        }
        if events.intersects(EpollFlags::EPOLLOUT | gone)
            && let Some(output) = &mut self.output
        {
            output.ready = true;
            output.watch.want_room(false);
        }
        self.flush();
        self.settle()
    }

    /// Writes what had to wait.
    fn flush(&mut self) {
        while !self.buffer.is_empty()
            && let Some(output) = self.output.as_mut().filter(|output| output.ready)
        {
            let mut vector = Vector::new();
            self.buffer.gather(&mut vector);
            match output.write(&vector) {
                Transfer::Done(count) => {
                    self.buffer.consume(count);
                    self.granted.forward(count);
                }
                Transfer::Later => {}
                Transfer::Over => self.output_failed(),
            }
        }
    }

    fn output_failed(&mut self) {
        self.output = None;
        self.granted.forward(self.buffer.len());
        self.buffer = Buffer::default();
        self.broken = self.input.is_none();
    }

    /// Draws the conclusions of what has changed.
    pub(super) fn settle(&mut self) -> Verdict {
        if self.guest_done & shutdown::RECEIVE != 0
            && let Some(input) = self.input.take()
        {
            input.watch.descriptor().end_input();
        }
        if self.guest_done & shutdown::SEND != 0
            && self.buffer.is_empty()
            && let Some(output) = self.output.take()
        {
            output.watch.descriptor().end_output();
        }
        if self.is_over() {
            self.over = None;
        }
        let disconnected = self.guest_done == shutdown::BOTH && self.output.is_none();
        if self.broken || disconnected { Verdict::Reset } else { Verdict::Keep }
    }

    /// Whether there is something to send to the guest.
    pub(super) fn wants_to_send(&self) -> bool {
        self.owes_control() || self.may_read() > 0
    }

    /// Whether a packet without payload is to be sent.
    pub(super) fn owes_control(&self) -> bool {
        !self.answered || self.news() != 0 || self.update_wanted || self.owes_credit()
    }

    /// The next packet without payload, which counts as sent. A credit update if there is no other.
    pub(super) fn control(&mut self) -> Header {
        let news = self.news();
        if !self.answered {
            self.answered = true;
            self.header(op::RESPONSE)
        } else if news != 0 {
            self.told_done |= news;
            Header { flags: self.told_done, ..self.header(op::SHUTDOWN) }
        } else {
            self.header(op::CREDIT_UPDATE)
        }
    }

    /// How many bytes may be read for the guest, at most; zero if there is no room, or nothing to read.
    pub(super) fn may_read(&self) -> u32 {
        if self.answered && self.input.as_ref().is_some_and(|input| input.ready) {
            self.peer.window()
        } else {
            0
        }
    }

    /// Reads for the guest. Returns how many bytes; zero if it must wait for more, or there are no more.
    pub(super) fn read(&mut self, into: &Vector<'_>) -> usize {
        let Some(input) = &mut self.input else { return 0 };
        let count = match input.read(into) {
            Transfer::Done(count) => count,
            Transfer::Later => 0,
            Transfer::Over => {
                self.input = None;
                0
            }
        };
        self.flows = count == into.len();
        count
    }

    /// The header of a packet with `len` bytes of payload, which counts as sent.
    pub(super) fn data(&mut self, len: u32) -> Header {
        self.peer.send(len);
        Header { len, ..self.header(op::RW) }
    }

    /// Tells the guest that the connection is gone.
    pub(super) fn reset(&mut self) -> Header {
        self.header(op::RST)
    }

    /// Forgets the guest. What it had sent is still written.
    pub(super) fn leave(self, pump: &Pump) {
        if let Some(output) = self.output
            && !self.buffer.is_empty()
        {
            // The watch goes with `output`, the pump keeps only the descriptor.
            pump.write(Arc::clone(output.watch.descriptor()), self.buffer, self.over);
        }
    }

    /// The shutdown flags that the guest has neither been told nor implied by its own.
    fn news(&self) -> u32 {
        let mut flags = 0;
        if self.input.is_none() && self.guest_done & shutdown::RECEIVE == 0 {
            flags |= shutdown::SEND;
        }
        if self.output.is_none() && self.guest_done & shutdown::SEND == 0 {
            flags |= shutdown::RECEIVE;
        }
        flags & !self.told_done
    }

    fn owes_credit(&self) -> bool {
        self.guest_done & shutdown::SEND == 0 && self.granted.update_due(self.peer.buf_alloc())
    }

    /// Any packet tells the guest its credit.
    fn header(&mut self, op: u16) -> Header {
        self.update_wanted = false;
        let (buf_alloc, fwd_cnt) = self.granted.tell();
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.key.host_port,
            dst_port: self.key.guest_port,
            len: 0,
            kind: TYPE_STREAM,
            op,
            flags: 0,
            buf_alloc,
            fwd_cnt,
        }
    }
}

/// One direction of an endpoint.
#[derive(Debug)]
struct Side {
    watch: Arc<Watch>,
    /// Not known to block.
    ready: bool,
}

enum Transfer {
    /// So many bytes, at least one.
    Done(usize),
    /// An event will tell when to go on.
    Later,
    /// There will be no more: the end, or an error.
    Over,
}

impl Side {
    fn read(&mut self, into: &Vector<'_>) -> Transfer {
        let result = self.watch.descriptor().read(into);
        self.outcome(result)
    }

    fn write(&mut self, from: &Vector<'_>) -> Transfer {
        let result = self.watch.descriptor().write(from);
        if let Err(error) = &result {
            report_loss(error);
        }
        let outcome = self.outcome(result);
        if matches!(outcome, Transfer::Later) {
            self.watch.want_room(true);
        }
        outcome
    }

    fn outcome(&mut self, result: io::Result<usize>) -> Transfer {
        match result {
            Ok(0) => Transfer::Over,
            Ok(count) => Transfer::Done(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.watch.is_watched() => {
                self.ready = false;
                Transfer::Later
            }
            Err(error) => {
                tracing::debug!(%error, "host's end of a stream failed");
                Transfer::Over
            }
        }
    }
}

/// Says what the guest only learns as a broken pipe: that what it wrote cannot be kept. That nobody reads any more is no loss.
pub(super) fn report_loss(error: &io::Error) {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, WouldBlock};
    if !matches!(error.kind(), WouldBlock | BrokenPipe | ConnectionReset) {
        tracing::warn!("output is lost: {error}");
    }
}
