//! One process: from the fork to the event that says how it ended.

use mote_protocol::{
    Assembler, ErrorCode, Event, ExitStatus, Exited, Failed, Frame, HEADER_LEN, Header, ProcessId, Started,
};
use rustix::{
    event::epoll::{self, EventFlags},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, Result},
    process::{Pid, WaitStatus},
};

use crate::{
    control::Outbox,
    link::{Flow, Link},
    spawn::{MAX_STATUS, Made, READY, links},
    sys::clock,
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

    /// An event of its status pipe.
    pub(crate) fn status_ready(&mut self, epoll: BorrowedFd<'_>, outbox: &Outbox) {
        if let Stage::Starting { status, watched, .. } = &mut self.stage
            && !outbox.has_room()
        {
            // `advance` looks again.
            let _ = epoll::delete(epoll, &*status);
            *watched = false;
        }
    }

    /// It was reaped: keeps how it ended, and lets what it wrote flow out.
    pub(crate) fn exited(&mut self, epoll: BorrowedFd<'_>, status: WaitStatus) {
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
        if matches!(self.stage, Stage::Starting { .. }) {
            self.advance_start(epoll, outbox);
        }
        let Some((status, at_ns)) = self.exit else {
            return true;
        };
        match self.stage {
            Stage::Starting { .. } => true,
            Stage::Failed => false,
            Stage::Running => {
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

    /// Hears what the child has to say, and answers its request once that is clear.
    fn advance_start(&mut self, epoll: BorrowedFd<'_>, outbox: &mut Outbox) {
        let Stage::Starting { request, status, ready, watched } = &mut self.stage else {
            return;
        };
        if !outbox.has_room() {
            return;
        }
        let request = *request;
        let mut heard = Assembler::new([0; MAX_STATUS + HEADER_LEN]);
        match rustix::io::read(&*status, heard.spare()) {
            Ok(0) if *ready => {
                let pid = self.pid.as_raw_pid().unsigned_abs();
                outbox.push(request, &Event::Started(Started { pid, at_ns: clock::monotonic_ns() }));
                self.leave_start(epoll, Stage::Running);
            }
            Ok(0) => {
                let (code, text) = (ErrorCode::System, "child ended before exec");
                outbox.push(request, &Event::Failed(Failed { code, errno: 0, operation: None, text }));
                self.fail(epoll);
            }
            Ok(count) => {
                heard.filled(count);
                while let Ok(Some(Frame { id, kind, body })) = heard.next_frame() {
                    if kind == READY {
                        *ready = true;
                        continue;
                    }
                    let len = u32::try_from(body.len()).unwrap_or(0);
                    outbox.push_frame(&Header { len, id, kind }.to_bytes());
                    outbox.push_frame(body);
                    self.fail(epoll);
                    return;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                if !*watched {
                    *watched = watch_status(epoll, status.as_fd(), self.slot).is_ok();
                }
            }
            Err(errno) => {
                let (code, errno) = (ErrorCode::System, crate::program::wire_errno(errno));
                let failed = Failed { code, errno, operation: None, text: "status pipe" };
                outbox.push(request, &Event::Failed(failed));
                self.fail(epoll);
            }
        }
    }

    fn fail(&mut self, epoll: BorrowedFd<'_>) {
        self.leave_start(epoll, Stage::Failed);
        for index in 0..links::COUNT {
            self.close(epoll, index);
        }
    }

    fn leave_start(&mut self, epoll: BorrowedFd<'_>, next: Stage) {
        if let Stage::Starting { status, watched: true, .. } = &self.stage {
            let _ = epoll::delete(epoll, status);
        }
        self.stage = next;
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
