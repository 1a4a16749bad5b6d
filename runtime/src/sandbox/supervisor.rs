//! Leads the command through its life: hello, start, signals, end.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    sync::PoisonError,
};

use mote_protocol::{
    ErrorCode, Event, ExitStatus, Failed, Features, Hello, ProcessId, Request, Resize, Run, SeedRandom,
    SetClock, VERSION, Welcome, limits,
};
use mote_vmm::Exit;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};

use super::boot::{Booted, boot};
use crate::{
    Error, clock,
    error::{Kind, errno, host},
    program::Program,
    signals::Signals,
    spec::{Spec, Streams},
    terminal::{self, Restore},
    timeline::{Mark, Timeline},
};

/// The only process that a sandbox of `mote run` is asked to start.
const COMMAND: ProcessId = ProcessId(1);
/// How many lines of the kernel log are shown when a guest dies.
const LAST_LINES: usize = 15;

/// How far the command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The kernel boots.
    Booting,
    /// The agent was asked, with the request of this id.
    Starting(u32),
    Running,
    /// It has ended with this status; output may still be on its way.
    Ended(u8),
}

struct Supervisor<'a> {
    booted: Booted,
    program: Program,
    spec: &'a Spec,
    timeline: &'a mut Timeline,
    phase: Phase,
    /// What turns the guest's clock into the host's, in nanoseconds.
    guest_offset: u64,
    agent_gone: bool,
}

/// Boots a VM and runs the command in it; returns the command's status.
pub(super) fn run(spec: &Spec, lifeline: &UnixStream, timeline: &mut Timeline) -> Result<u8, Error> {
    // Signals first: every thread that is started later inherits that they are blocked.
    let signals = Signals::take(&[Signal::SIGWINCH])?;
    let program = Program::compile(spec)?;
    let terminal = match spec.process.streams {
        Streams::Terminal => Some(Restore::later(std::io::stdin().as_fd())?),
        Streams::Pipes => None,
    };
    let booted = boot(spec)?;
    terminal.as_ref().map_or(Ok(()), Restore::set_raw)?;
    let mut supervisor = Supervisor {
        booted,
        program,
        spec,
        timeline,
        phase: Phase::Booting,
        guest_offset: 0,
        agent_gone: false,
    };
    let result = supervisor.run(&signals, lifeline);
    supervisor.booted.vm.stop();
    let milestones = supervisor.booted.milestones.lock().unwrap_or_else(PoisonError::into_inner);
    supervisor.timeline.marks.extend_from_slice(&milestones.marks);
    drop(milestones);
    // Stopped, but not taken apart: that waits for grace periods of the host's kernel, tens of milliseconds on many hosts. The end
    // of this process does the same, after everybody who waits has got an answer.
    std::mem::forget(supervisor.booted);
    result
}

impl Supervisor<'_> {
    fn run(&mut self, signals: &Signals, lifeline: &UnixStream) -> Result<u8, Error> {
        loop {
            if let Phase::Ended(status) = self.phase
                && self.booted.outputs.open == 0
            {
                self.timeline.reached(Mark::Finished);
                return Ok(status);
            }
            let ready = self.wait(signals, lifeline)?;
            if ready.agent {
                self.hear_agent()?;
            }
            if ready.outputs {
                self.booted.outputs.update();
            }
            while let Some(signal) = ready.signals.then(|| signals.next()).flatten() {
                self.pass_on(signal)?;
            }
            if ready.lifeline {
                return Err(Error::new(Kind::Host, "the caller is gone"));
            }
            if ready.ended && !matches!(self.phase, Phase::Ended(_)) {
                return Err(self.guest_ended());
            }
        }
    }

    fn wait(&self, signals: &Signals, lifeline: &UnixStream) -> Result<Ready, Error> {
        let input = PollFlags::POLLIN;
        let mut fds = [
            PollFd::new(signals.as_fd(), input),
            PollFd::new(self.booted.vm.ended_fd(), input),
            PollFd::new(lifeline.as_fd(), input),
            PollFd::new(self.booted.outputs.closed.as_fd(), input),
            PollFd::new(self.booted.agent.as_fd(), input),
        ];
        // Nothing more comes from an agent that is gone, but its descriptor would stay ready.
        let watched = if self.agent_gone { &mut fds[..4] } else { &mut fds[..] };
        match poll(watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(errno("wait for the sandbox")(error)),
        }
        let [signals, ended, lifeline, outputs, agent] = fds.map(|fd| fd.any().unwrap_or(false));
        Ok(Ready { signals, ended, lifeline, outputs, agent: agent && !self.agent_gone })
    }

    fn hear_agent(&mut self) -> Result<(), Error> {
        // Events borrow from the agent's buffer, and most answers go back to it: take what counts, then act.
        let mut heard = Vec::new();
        let mut failure = None;
        let program = &self.program;
        let open = self.booted.agent.receive(|_, event| {
            match event {
                Event::Hello(hello) => heard.push(Heard::Hello(hello)),
                Event::Started(started) => heard.push(Heard::Started(started.at_ns)),
                Event::Exited(exited) if exited.process == COMMAND => {
                    heard.push(Heard::Exited(exited.status, exited.at_ns));
                }
                Event::Failed(failed) => heard.push(Heard::Failed(describe(program, &failed), failed.code)),
                Event::Created(_) => heard.push(Heard::Created),
                Event::Exited(_) | Event::Done(()) | Event::Contents(_) => {}
            }
            Ok(())
        });
        match open {
            Ok(open) => self.agent_gone = !open,
            Err(error) => failure = Some(error),
        }
        for event in heard {
            self.handle(event)?;
        }
        failure.map_or(Ok(()), Err)
    }

    fn handle(&mut self, event: Heard) -> Result<(), Error> {
        match (event, self.phase) {
            (Heard::Hello(hello), Phase::Booting) => self.start_command(hello),
            (Heard::Started(at), Phase::Starting(_)) => {
                self.timeline.add(Mark::CommandStarted, self.on_host_scale(at));
                self.phase = Phase::Running;
                Ok(())
            }
            // Nobody but us decides when it begins.
            (Heard::Created, Phase::Starting(_)) => {
                let id = self.booted.agent.send(&[Request::Start(COMMAND)])?;
                self.phase = Phase::Starting(id);
                Ok(())
            }
            (Heard::Exited(status, at), Phase::Running) => {
                self.timeline.add(Mark::CommandEnded, self.on_host_scale(at));
                self.phase = Phase::Ended(match status {
                    ExitStatus::Code(code) => code,
                    ExitStatus::Signal(signal) => 128 + (signal & 0x7f),
                });
                Ok(())
            }
            (Heard::Failed(message, code), Phase::Starting(_)) => Err(Error::new(kind_of(code), message)),
            (Heard::Failed(message, code), phase) => {
                // A signal or a new size that came too late: the process has just ended.
                tracing::debug!(?phase, ?code, "the agent refused a request: {message}");
                Ok(())
            }
            (Heard::Hello(_) | Heard::Created | Heard::Started(_) | Heard::Exited(..), phase) => {
                Err(Error::new(Kind::Guest, format!("the guest's agent spoke out of turn ({phase:?})")))
            }
        }
    }

    fn start_command(&mut self, hello: Hello) -> Result<(), Error> {
        let now = clock::monotonic_ns();
        self.guest_offset = now.wrapping_sub(hello.sent_ns);
        self.timeline.add(Mark::HelloReceived, now);
        self.timeline.add(Mark::InitStarted, self.on_host_scale(hello.entered_ns).min(now));
        let requests = [
            Request::Welcome(Welcome { version: VERSION, features: Features::default() }),
            Request::SetClock(SetClock { realtime_ns: clock::realtime_ns() }),
            Request::SeedRandom(SeedRandom { seed: seed()? }),
            Request::Run(Run {
                process: COMMAND,
                stdio: self.booted.stdio,
                program: self.program.operations(),
            }),
        ];
        let id = self.booted.agent.send(&requests)?;
        self.phase = Phase::Starting(id);
        Ok(())
    }

    fn on_host_scale(&self, guest_ns: u64) -> u64 {
        guest_ns.wrapping_add(self.guest_offset)
    }

    fn pass_on(&mut self, signal: Signal) -> Result<(), Error> {
        match self.phase {
            _ if signal == Signal::SIGWINCH => {
                let size = terminal::window_size().filter(|_| self.spec.process.streams == Streams::Terminal);
                if let (Phase::Running | Phase::Starting(_), Some(size)) = (self.phase, size) {
                    self.booted.agent.send(&[Request::Resize(Resize { process: COMMAND, size })])?;
                }
                Ok(())
            }
            Phase::Running => {
                let stop = self.spec.process.stop_signal.filter(|_| signal == Signal::SIGTERM);
                let number = stop.unwrap_or_else(|| u8::try_from(signal as i32).unwrap_or(0));
                let request = mote_protocol::Signal { process: COMMAND, signal: number };
                self.booted.agent.send(&[Request::Signal(request)]).map(|_| ())
            }
            // Nobody is left, or not yet there, to take it.
            Phase::Booting | Phase::Starting(_) | Phase::Ended(_) => Err(Error::new(
                Kind::Interrupted(signal as i32),
                format!("interrupted by {}", signal.as_str()),
            )),
        }
    }

    fn guest_ended(&mut self) -> Error {
        let exit = self.booted.vm.wait();
        let when = match self.phase {
            Phase::Booting => "before its agent was ready",
            Phase::Starting(_) => "before the command was started",
            Phase::Running | Phase::Ended(_) => "while the command was running",
        };
        let kind = if matches!(exit, Exit::Failed(_)) { Kind::Hypervisor } else { Kind::Guest };
        let error = Error::new(kind, format!("{exit} {when}"));
        match exit {
            Exit::Panic | Exit::TripleFault => error.with_kernel_log(self.booted.log.last_lines(LAST_LINES)),
            _ => error,
        }
    }
}

/// What the main thread was woken for.
struct Ready {
    signals: bool,
    ended: bool,
    lifeline: bool,
    outputs: bool,
    agent: bool,
}

/// An event without what it borrowed.
enum Heard {
    Hello(Hello),
    Created,
    Started(u64),
    Exited(ExitStatus, u64),
    Failed(String, ErrorCode),
}

fn kind_of(code: ErrorCode) -> Kind {
    match code {
        ErrorCode::CommandNotFound => Kind::CommandNotFound,
        ErrorCode::CommandNotExecutable => Kind::CommandNotExecutable,
        ErrorCode::OperationFailed | ErrorCode::InvalidArgument => Kind::Process,
        _ => Kind::Guest,
    }
}

/// The whole story of a failed request: the guest knows the number, the host knows what was asked.
fn describe(program: &Program, failed: &Failed<'_>) -> String {
    let reason = match failed.errno {
        0 => failed.text.to_owned(),
        number => Errno::from_raw(number.into()).desc().to_owned(),
    };
    match failed.operation {
        Some(index) if failed.code == ErrorCode::CommandNotFound => {
            format!("cannot {} in the guest: command not found", program.describe(index.into()))
        }
        Some(index) => format!("cannot {} in the guest: {reason}", program.describe(index.into())),
        None => format!("the guest's agent failed: {} ({reason})", failed.text),
    }
}

fn seed() -> Result<[u8; limits::SEED_LEN], Error> {
    use std::io::Read;
    let mut seed = [0; limits::SEED_LEN];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .map_err(host("read /dev/urandom"))?;
    Ok(seed)
}
