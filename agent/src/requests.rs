//! Carrying out requests: each is answered with one event, at once or, for `Run`, when the child has reported.

use mote_protocol::{
    Action, Error, ErrorCode, Event, Failed, Frame, ProcessId, Request, Resize, Run, Signal, VERSION,
    WireStr, limits::MAX_PROCESSES,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{PidfdFlags, pidfd_open},
};

use crate::{
    Machine,
    control::Outbox,
    process::Process,
    program::{self, wire_errno},
    spawn, sys,
    watch::{self, Watches},
};

/// The highest signal number.
const MAX_SIGNAL: u8 = 64;

/// Why a request cannot be carried out.
struct Refusal {
    code: ErrorCode,
    errno: Option<Errno>,
    text: &'static str,
}

impl Refusal {
    fn new(code: ErrorCode, text: &'static str) -> Self {
        Self { code, errno: None, text }
    }

    fn system(errno: Errno, text: &'static str) -> Self {
        Self { code: ErrorCode::System, errno: Some(errno), text }
    }
}

/// What is to be done about a request.
enum Reply {
    /// It was carried out.
    Done,
    /// The answer follows by itself.
    Later,
    /// The guest ends.
    End(Action),
}

/// The processes, and what they need.
#[derive(Debug)]
pub(crate) struct Guest<M> {
    pub(crate) epoll: OwnedFd,
    pub(crate) null: OwnedFd,
    pub(crate) processes: [Option<Process>; MAX_PROCESSES],
    pub(crate) watches: Watches,
    pub(crate) machine: M,
}

impl<M: Machine> Guest<M> {
    /// Carries out one request. Returns how the guest ends, if that was the request.
    pub(crate) fn handle(&mut self, frame: Frame<'_>, outbox: &mut Outbox) -> Option<(u32, Action)> {
        let id = frame.id;
        let reply = match Request::decode(frame) {
            Ok(request) => self.carry_out(id, &request, outbox),
            Err(Error::UnknownKind(_)) => Err(Refusal::new(ErrorCode::BadMessage, "unknown request")),
            Err(_) => Err(Refusal::new(ErrorCode::BadMessage, "request does not decode")),
        };
        match reply {
            Ok(Reply::Done) => outbox.push(id, &Event::Done(())),
            Ok(Reply::Later) => {}
            Ok(Reply::End(action)) => return Some((id, action)),
            Err(Refusal { code, errno, text }) => {
                let errno = errno.map_or(0, wire_errno);
                outbox.push(id, &Event::Failed(Failed { code, errno, operation: None, text }));
            }
        }
        None
    }

    fn carry_out(&mut self, id: u32, request: &Request<'_>, outbox: &mut Outbox) -> Result<Reply, Refusal> {
        match request {
            Request::Welcome(welcome) if welcome.version == VERSION => {}
            Request::Welcome(_) => {
                return Err(Refusal::new(ErrorCode::UnsupportedVersion, "another protocol version"));
            }
            Request::SetClock(clock) => self
                .machine
                .set_clock(clock.realtime_ns)
                .map_err(|errno| Refusal::system(errno, "clock_settime"))?,
            Request::SeedRandom(random) => self
                .machine
                .seed_random(&random.seed)
                .map_err(|errno| Refusal::system(errno, "RNDADDENTROPY"))?,
            Request::Run(run) => {
                self.run(id, run)?;
                return Ok(Reply::Later);
            }
            Request::Signal(signal) => self.signal(*signal)?,
            Request::Resize(resize) => self.resize(*resize)?,
            Request::CloseStdin(process) => {
                let epoll = self.epoll.as_fd();
                find(&mut self.processes, *process)?.close_input(epoll);
            }
            Request::PowerOff(power_off) => return Ok(Reply::End(power_off.action)),
            Request::Start(process) => {
                let epoll = self.epoll.as_fd();
                if !find(&mut self.processes, *process)?.start(epoll, id) {
                    return Err(Refusal::new(ErrorCode::InvalidArgument, "does not wait for its start"));
                }
                return Ok(Reply::Later);
            }
            Request::ReadFile(file) => {
                watch::read_file(id, file.path.as_c_str(), file.offset, outbox).map_err(file_error)?;
                return Ok(Reply::Later);
            }
            Request::WriteFile(file) => {
                watch::write_file(file.path.as_c_str(), file.content).map_err(file_error)?;
            }
            Request::WaitFile(file) => {
                let what = (file.path.as_c_str(), file.known);
                self.watches.begin(self.epoll.as_fd(), id, what, outbox).map_err(file_error)?;
                return Ok(Reply::Later);
            }
            Request::SignalGroup(group) => {
                check_signal(group.signal)?;
                signal_group(group.processes, group.signal)?;
            }
        }
        Ok(Reply::Done)
    }

    fn run(&mut self, id: u32, run: &Run<'_>) -> Result<(), Refusal> {
        if self.processes.iter().flatten().any(|process| process.id() == Some(run.process)) {
            return Err(Refusal::new(ErrorCode::InvalidArgument, "process id in use"));
        }
        let joined = match program::joins(run.program) {
            Some(other) => {
                let other = find(&mut self.processes, other)?.pid().ok_or_else(no_such_process)?;
                let pidfd = pidfd_open(other, PidfdFlags::empty());
                Some(pidfd.map_err(|errno| Refusal::system(errno, "pidfd_open"))?)
            }
            None => None,
        };
        let Some((slot, place)) = (0..).zip(&mut self.processes).find(|(_, place)| place.is_none()) else {
            return Err(Refusal::new(ErrorCode::ResourceExhausted, "too many processes"));
        };
        let null = self.null.as_fd();
        let made = spawn::make_streams(&mut self.machine, null, &run.stdio)
            .map_err(|errno| Refusal::system(errno, "streams"))?;
        let joined = joined.as_ref().map(AsFd::as_fd);
        let child =
            spawn::fork(run, id, &made, null, joined).map_err(|errno| Refusal::system(errno, "fork"))?;
        *place = Some(Process::new(self.epoll.as_fd(), (run.process, id, slot), child, made));
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Refusal> {
        let process = find(&mut self.processes, signal.process)?;
        check_signal(signal.signal)?;
        if process.end_at_gate(signal.signal) {
            return Ok(());
        }
        let pid = process.pid().ok_or_else(no_such_process)?;
        sys::signal::send(pid, signal.signal).map_err(|errno| match errno {
            Errno::SRCH => no_such_process(),
            errno => Refusal::system(errno, "kill"),
        })
    }

    fn resize(&mut self, resize: Resize) -> Result<(), Refusal> {
        let terminal = find(&mut self.processes, resize.process)?
            .terminal()
            .ok_or_else(|| Refusal::new(ErrorCode::InvalidArgument, "no terminal"))?;
        spawn::set_size(terminal, resize.size).map_err(|errno| Refusal::system(errno, "TIOCSWINSZ"))
    }
}

fn check_signal(signal: u8) -> Result<(), Refusal> {
    if (1..=MAX_SIGNAL).contains(&signal) {
        Ok(())
    } else {
        Err(Refusal::new(ErrorCode::InvalidArgument, "no such signal"))
    }
}

fn signal_group(processes: WireStr<'_>, signal: u8) -> Result<(), Refusal> {
    watch::signal_group(processes.as_c_str(), signal).map_err(|errno| Refusal::system(errno, "kill"))
}

fn file_error(errno: Errno) -> Refusal {
    match errno {
        Errno::MFILE => Refusal::new(ErrorCode::ResourceExhausted, "too many watched files"),
        errno => Refusal::system(errno, "file"),
    }
}

fn no_such_process() -> Refusal {
    Refusal::new(ErrorCode::NoSuchProcess, "no such process")
}

/// The process of this name, if it was not reaped yet.
fn find(processes: &mut [Option<Process>], id: ProcessId) -> Result<&mut Process, Refusal> {
    processes
        .iter_mut()
        .flatten()
        .find(|process| process.id() == Some(id) && process.pid().is_some())
        .ok_or_else(no_such_process)
}
