//! The loop.

use core::mem::MaybeUninit;

use mote_protocol::{Error, ErrorCode, Event, Failed, Features, HEADER_LEN, Hello, VERSION};
use rustix::{
    event::{
        PollFd, PollFlags, Timespec,
        epoll::{self, EventFlags},
    },
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
    io::{Errno, Result},
    net::{SendFlags, Shutdown},
    process::WaitOptions,
};

use crate::{
    Machine,
    control::{Control, Outbox},
    machine::Stop,
    process::Process,
    requests::Guest,
    sys::{clock, signal},
    token::Token,
    watch::Watches,
};

/// How many events one turn of the loop takes.
const BATCH: usize = 32;

/// How long the agent waits for the host to take its last word. A host that closes the control stream when it has read it
/// does not let it wait at all.
const LAST_WORD_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// The agent: a control stream, and the processes that it asked for.
#[derive(Debug)]
pub struct Agent<'b, M> {
    control: Control<'b>,
    children: OwnedFd,
    guest: Guest<M>,
}

/// Says hello on a control stream that was just connected.
///
/// # Errors
/// Those of `sendto(2)`.
pub fn say_hello(control: BorrowedFd<'_>, entered_ns: u64) -> Result<()> {
    let mut frame = [0; HEADER_LEN + 64];
    let sent_ns = clock::monotonic_ns();
    let hello = Event::Hello(Hello { version: VERSION, features: Features(0), entered_ns, sent_ns });
    let len = hello.encode(0, &mut frame).map_err(|_| Errno::MSGSIZE)?;
    let frame = frame.get(..len).unwrap_or_default();
    match rustix::net::send(control, frame, SendFlags::NOSIGNAL)? {
        sent if sent == len => Ok(()),
        // A stream that was just opened has room for these few bytes, or is of no use.
        _ => Err(Errno::IO),
    }
}

impl<'b, M: Machine> Agent<'b, M> {
    /// An agent for a host that was greeted. Requests are collected in `buffer`, which should be
    /// [`REQUEST_BUFFER_LEN`](crate::REQUEST_BUFFER_LEN) long.
    ///
    /// Descriptors 0 to 2 must be open. From here on, `SIGCHLD` is blocked in the calling thread, `SIGPIPE` is ignored, and
    /// every child of the process is reaped.
    ///
    /// # Errors
    /// Those of the system calls that make its descriptors.
    pub fn new(control: OwnedFd, buffer: &'b mut [u8], machine: M) -> Result<Self> {
        rustix::io::ioctl_fionbio(&control, true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let children = signal::watch_children()?;
        let data = epoll::EventData::new_u64(Token::Children.to_bits());
        epoll::add(&epoll, &children, data, EventFlags::IN)?;
        let control = Control::new(epoll.as_fd(), control, buffer)?;
        let processes = [const { None }; mote_protocol::limits::MAX_PROCESSES];
        let watches = Watches::default();
        Ok(Self { control, children, guest: Guest { epoll, null, processes, watches, machine } })
    }

    /// Serves the host until it asks for the end, or is gone.
    pub fn run(mut self) -> Stop {
        loop {
            if let Err(stop) = self.turn() {
                return stop;
            }
        }
    }

    /// Says and does what is due, then waits for something to happen and reacts to it.
    fn turn(&mut self) -> core::result::Result<(), Stop> {
        loop {
            self.advance();
            self.take_requests()?;
            let had_room = self.control.outbox.has_room();
            self.control.flush()?;
            // Whatever stopped for lack of room goes on as soon as there is some.
            if had_room || !self.control.outbox.has_room() {
                break;
            }
        }
        self.control.watch(self.guest.epoll.as_fd())?;
        let mut room = [MaybeUninit::uninit(); BATCH];
        let events = match epoll::wait(&self.guest.epoll, &mut room, None) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(_) => return Err(Stop::HostGone),
        };
        for event in events.iter() {
            let (flags, data) = (event.flags, event.data);
            match Token::from_bits(data.u64()) {
                // What can be sent is sent on the next turn.
                Some(Token::Control) if flags == EventFlags::OUT => {}
                Some(Token::Control) => self.control.receive()?,
                Some(Token::Children) => self.reap(),
                Some(Token::Status(slot)) => {
                    let epoll = self.guest.epoll.as_fd();
                    if let Some(process) = process(&mut self.guest.processes, slot) {
                        process.status_ready(epoll, &self.control.outbox);
                    }
                }
                Some(Token::Watch(slot)) => self.guest.watches.ready(self.guest.epoll.as_fd(), slot),
                Some(Token::Link { slot, link, end }) => {
                    let epoll = self.guest.epoll.as_fd();
                    if let Some(process) = process(&mut self.guest.processes, slot) {
                        process.link_ready(epoll, link, end, flags);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Lets every process and every watched file say what it has to say.
    fn advance(&mut self) {
        let epoll = self.guest.epoll.as_fd();
        self.guest.watches.advance(&mut self.control.outbox);
        for place in &mut self.guest.processes {
            if let Some(process) = place
                && !process.advance(epoll, &mut self.control.outbox)
            {
                *place = None;
            }
        }
    }

    /// Carries out the requests that have arrived, as long as there is room for the answers.
    fn take_requests(&mut self) -> core::result::Result<(), Stop> {
        let Control { inbox, outbox, .. } = &mut self.control;
        let mut end = None;
        while end.is_none() && outbox.has_room() {
            match inbox.next_frame() {
                Ok(Some(frame)) => end = self.guest.handle(frame, outbox),
                Ok(None) => return Ok(()),
                Err(Error::TooLong { id, .. }) => refuse(outbox, id, "request too long"),
                Err(_) => refuse(outbox, 0, "bad frame"),
            }
        }
        match end {
            Some((id, action)) => {
                self.end(id);
                Err(Stop::Asked(action))
            }
            None => Ok(()),
        }
    }

    /// Takes note of every child that has ended, the host's processes and orphans alike.
    fn reap(&mut self) {
        // One signal may stand for many children, so what it says is of no interest.
        let mut info = [0; 128];
        while rustix::io::read(&self.children, &mut info).is_ok_and(|count| count > 0) {}
        let epoll = self.guest.epoll.as_fd();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let mut processes = self.guest.processes.iter_mut().flatten();
                    if let Some(process) = processes.find(|process| process.pid() == Some(pid)) {
                        process.exited(epoll, status);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Ends every process, brings what was written to the disks, and tells the host.
    fn end(&mut self, id: u32) {
        let mut started = self.guest.processes.iter().flatten().filter_map(Process::pid);
        self.guest.machine.kill_all(&mut started);
        while let Ok(_) | Err(Errno::INTR) = rustix::process::wait(WaitOptions::empty()) {}
        rustix::fs::sync();
        self.control.outbox.push(id, &Event::Done(()));
        self.last_word();
    }

    /// Sends what is left, and waits until the host has it: a vsock stream may still hold what was written to it when the
    /// machine stops. That the host closes its side, or ends the machine, says that it has read everything.
    fn last_word(&mut self) {
        while self.control.flush().is_ok() && !self.control.is_flushed() {
            if !poll_one(self.control.stream(), PollFlags::OUT) {
                return;
            }
        }
        if rustix::net::shutdown(self.control.stream(), Shutdown::Write).is_err() {
            return;
        }
        let mut rest = [0; 256];
        while poll_one(self.control.stream(), PollFlags::IN) {
            match rustix::io::read(self.control.stream(), &mut rest) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

fn refuse(outbox: &mut Outbox, id: u32, text: &str) {
    let failed = Failed { code: ErrorCode::BadMessage, errno: 0, operation: None, text };
    outbox.push(id, &Event::Failed(failed));
}

fn process(processes: &mut [Option<Process>], slot: u8) -> Option<&mut Process> {
    processes.get_mut(usize::from(slot))?.as_mut()
}

/// Waits for one descriptor, for as long as the host's last moments may take. False if nothing came.
fn poll_one(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(&fd, events)];
    rustix::event::poll(&mut fds, Some(&LAST_WORD_TIMEOUT)).is_ok_and(|ready| ready > 0)
}
