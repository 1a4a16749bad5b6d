//! One process: from the fork to the event that says how it ended.

use mote_protocol::{Created, ErrorCode, Event, ExitStatus, Exited, Failed, Header, ProcessId, Started};
use rustix::{
    event::epoll::{self, EventFlags},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, Result},
    net::SendFlags,
    process::{Pid, WaitStatus},
};

use crate::{
    control::Outbox,
    link::{Flow, Link},
    spawn::{GO_ON, Made, Word, hear, links, peek_move},
    sys::{self, clock},
    token::{End, Token},
};

/// How far a process has come.
#[derive(Debug)]
enum Stage {
    /// The child carries out its program.
    Starting {
        /// The request that is still to be answered.
        request: u32,
        /// Where it reports.
        status: OwnedFd,
        /// Whether all that is left is `execve`.
        ready: bool,
        /// Whether `status` is watched. It is not while there is no room for an answer.
        watched: bool,
    },
    /// It waits at its gate, and the host knows.
    Created {
        /// Where it hears that it may go on.
        status: OwnedFd,
    },
    /// The program was executed.
    Running,
    /// The program failed, and that was said. The child is about to be reaped.
    Failed,
}

/// A process of the host's.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    pid: Pid,
    slot: u8,
    stage: Stage,
    exit: Option<(ExitStatus, u64)>,
    links: [Option<Link>; links::COUNT],
    terminal: Option<OwnedFd>,
}

impl Process {
    /// A process that was just forked.
    pub(crate) fn new(
        epoll: BorrowedFd<'_>,
        (id, request, slot): (ProcessId, u32, u8),
        (pid, status): (Pid, OwnedFd),
        made: Made,
    ) -> Self {
        let watched = watch_status(epoll, status.as_fd(), slot).is_ok();
        let mut index: u8 = 0;
        let links = made.links.map(|ends| {
            let place = (slot, index);
            index += 1;
            // One that cannot be watched is closed, as if the host had done so.
            ends.and_then(|(source, sink)| Link::open(epoll, source, sink, place).ok())
        });
        let stage = Stage::Starting { request, status, ready: false, watched };
        Self { id, pid, slot, stage, exit: None, links, terminal: made.terminal }
    }

    /// The host's name for it; none if the host was told that it failed to start.
    pub(crate) fn id(&self) -> Option<ProcessId> {
        (!matches!(self.stage, Stage::Failed)).then_some(self.id)
    }

    /// Its PID, until it was reaped; the number may then be another process's.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.exit.is_none().then_some(self.pid)
    }

    /// The controlling side of its terminal, if it has one.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// An event of one of its links.
    pub(crate) fn link_ready(&mut self, epoll: BorrowedFd<'_>, link: u8, end: End, events: EventFlags) {
        let index = usize::from(link);
        let Some(Some(link)) = self.links.get_mut(index) else {
            return;
        };
        if link.ready(epoll, end, events) == Flow::Ended {
            self.close(epoll, index);
        }
    }

    /// Closes its standard input. A terminal stays open.
    pub(crate) fn close_input(&mut self, epoll: BorrowedFd<'_>) {
        self.close(epoll, links::INPUT);
    }

    /// An event of its status socket.
    pub(crate) fn status_ready(&mut self, epoll: BorrowedFd<'_>, outbox: &Outbox) {
        if let Stage::Starting { status, watched, .. } = &mut self.stage
            && !outbox.has_room()
        {
            // `advance` looks again.
            let _ = epoll::delete(epoll, &*status);
            *watched = false;
        }
    }

    /// Lets it go on from its gate; the answer goes to `request`. False if it does not wait there.
    pub(crate) fn start(&mut self, epoll: BorrowedFd<'_>, request: u32) -> bool {
        if !matches!(self.stage, Stage::Created { .. }) {
            return false;
        }
        let Stage::Created { status } = core::mem::replace(&mut self.stage, Stage::Failed) else {
            return false;
        };
        // If it is gone, the end of its status says so.
        let _ = rustix::net::send(&status, &[GO_ON], SendFlags::NOSIGNAL);
        let watched = watch_status(epoll, status.as_fd(), self.slot).is_ok();
        self.stage = Stage::Starting { request, status, ready: false, watched };
        true
    }

    /// Has a process that waits at its gate end as if by this signal, if the signal would end a process that has not said what
    /// else it should do. The kernel would not: such a process may be the first of its PID namespace, which is immune.
    pub(crate) fn end_at_gate(&mut self, signal: u8) -> bool {
        match &self.stage {
            Stage::Created { status } if sys::signal::ends_by_default(signal) => {
                rustix::net::send(status, &[signal], SendFlags::NOSIGNAL).is_ok()
            }
            _ => false,
        }
    }

    /// It was reaped: keeps how it ended, and lets what it wrote flow out. A process that goes on in another of its own
    /// making has not ended.
    pub(crate) fn exited(&mut self, epoll: BorrowedFd<'_>, status: WaitStatus) {
        if let Stage::Starting { status, .. } = &self.stage
            && let Some(pid) = peek_move(status.as_fd())
        {
            self.pid = pid;
            return;
        }
        self.exit = Some((exit_status(status), clock::monotonic_ns()));
        self.close(epoll, links::INPUT);
        self.close(epoll, links::KEYBOARD);
        let source_is_terminal = self.terminal.is_some();
        let sources: &[usize] =
            if source_is_terminal { &[links::SCREEN] } else { &[links::OUTPUT, links::ERRORS] };
        for index in sources.iter().copied() {
            if let Some(link) = &mut self.links[index]
                && link.finish(epoll, source_is_terminal) == Flow::Ended
            {
                self.close(epoll, index);
            }
        }
    }

    /// Says what there is to say, if there is room. Returns false once the process is of no more interest.
    pub(crate) fn advance(&mut self, epoll: BorrowedFd<'_>, outbox: &mut Outbox) -> bool {
        while self.advance_start(epoll, outbox) {}
        let Some((status, at_ns)) = self.exit else {
            return true;
        };
        match self.stage {
            Stage::Starting { .. } => true,
            Stage::Failed => false,
            Stage::Running | Stage::Created { .. } => {
                let has_output = [links::OUTPUT, links::ERRORS, links::SCREEN]
                    .into_iter()
                    .any(|index| self.links[index].is_some());
                if has_output || !outbox.has_room() {
                    return true;
                }
                outbox.push(0, &Event::Exited(Exited { process: self.id, status, at_ns }));
                false
            }
        }
    }

    /// Hears a word that the child has to say, and answers its request once that is clear. True if there may be more.
    fn advance_start(&mut self, epoll: BorrowedFd<'_>, outbox: &mut Outbox) -> bool {
        let Stage::Starting { request, status, ready, watched } = &mut self.stage else {
            return false;
        };
        if !outbox.has_room() {
            return false;
        }
        let request = *request;
        let pid = self.pid.as_raw_pid().unsigned_abs();
        match hear(status.as_fd()) {
            Ok(Word::Ready) => *ready = true,
            Ok(Word::Moved(pid)) => self.pid = pid,
            Ok(Word::Created) => {
                outbox.push(request, &Event::Created(Created { pid }));
                if let Some(status) = self.leave_start(epoll, Stage::Running) {
                    self.stage = Stage::Created { status };
                }
            }
            Ok(Word::Failed(mut frame)) => {
                // The child knows the request that it was started for; behind its gate, another one is to be answered.
                answer(&mut frame, request);
                outbox.push_frame(&frame);
                self.fail(epoll);
            }
            Ok(Word::End) if *ready => {
                outbox.push(request, &Event::Started(Started { pid, at_ns: clock::monotonic_ns() }));
                drop(self.leave_start(epoll, Stage::Running));
            }
            Ok(Word::End) => {
                let (code, text) = (ErrorCode::System, "child ended before exec");
                outbox.push(request, &Event::Failed(Failed { code, errno: 0, operation: None, text }));
                self.fail(epoll);
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                if !*watched {
                    *watched = watch_status(epoll, status.as_fd(), self.slot).is_ok();
                }
                return false;
            }
            Err(errno) => {
                let (code, errno) = (ErrorCode::System, crate::program::wire_errno(errno));
                let failed = Failed { code, errno, operation: None, text: "status socket" };
                outbox.push(request, &Event::Failed(failed));
                self.fail(epoll);
            }
        }
        true
    }

    fn fail(&mut self, epoll: BorrowedFd<'_>) {
        drop(self.leave_start(epoll, Stage::Failed));
        for index in 0..links::COUNT {
            self.close(epoll, index);
        }
    }

    /// Goes on to another stage. Returns the status socket, which is not watched any more.
    fn leave_start(&mut self, epoll: BorrowedFd<'_>, next: Stage) -> Option<OwnedFd> {
        match core::mem::replace(&mut self.stage, next) {
            Stage::Starting { status, watched, .. } => {
                if watched {
                    let _ = epoll::delete(epoll, &status);
                }
                Some(status)
            }
            Stage::Created { status } => Some(status),
            Stage::Running | Stage::Failed => None,
        }
    }

    /// Closes one link, and those that have nothing to do without it.
    fn close(&mut self, epoll: BorrowedFd<'_>, index: usize) {
        if let Some(link) = self.links.get_mut(index).and_then(Option::take) {
            link.close(epoll);
        }
        // Nobody looks at the terminal any more: it hangs up.
        if index == links::SCREEN && self.terminal.take().is_some() {
            self.close(epoll, links::INPUT);
            self.close(epoll, links::KEYBOARD);
        }
    }
}

/// Makes a frame the answer to `request`.
fn answer(frame: &mut [u8], request: u32) {
    if let Some(head) = frame.first_chunk_mut() {
        *head = Header { id: request, ..Header::from_bytes(*head) }.to_bytes();
    }
}

fn watch_status(epoll: BorrowedFd<'_>, status: BorrowedFd<'_>, slot: u8) -> Result<()> {
    let data = epoll::EventData::new_u64(Token::Status(slot).to_bits());
    epoll::add(epoll, status, data, EventFlags::IN)
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(byte(code)),
        (None, signal) => ExitStatus::Signal(byte(signal.unwrap_or(0))),
    }
}
