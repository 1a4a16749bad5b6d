//! Leads the guest's processes through their lives: hello, start, signals, end.
//!
//! One loop, over descriptors only. What the guest says and what commands ask (`requests.rs`) changes the table of processes; when
//! the first process has ended and its output was passed on, the sandbox ends.

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex},
};

use mote_protocol::{
    ExitStatus, Features, Hello, ProcessId, Request, Resize, Run, SeedRandom, SetClock, VERSION, Welcome,
    limits,
};
use mote_vmm::{Exit, KernelLog, Vm};
use nix::sys::signal::Signal;

use super::{
    boot::Booted,
    clients::{ClientId, Clients},
    events::{Heard, Refusal},
    oom::Want,
    processes::{INIT, Process, Processes, Stage},
    requests::Watch,
    streams::{Endpoints, Streams},
};
use crate::{
    Error,
    agent::Agent,
    clock,
    control::Answer,
    error::{Kind, host},
    lifeline::{self, Go, News, Order},
    program::Program,
    signals::Signals,
    terminal,
    timeline::{Mark, Timeline},
};

/// How many lines of the kernel log are shown when a guest dies.
const LAST_LINES: usize = 15;
/// What ends a process that nobody can stop.
const SIGKILL: u8 = 9;

/// What an answer of the guest's is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pending {
    /// A process was to be started.
    Run(ProcessId),
    /// The first process was to go through its gate.
    Start(ClientId),
    /// The first process was to be killed.
    Kill(Option<ClientId>),
    /// A file was to be watched.
    Watch,
    /// Why the first process was killed.
    Memory,
    /// Something else, and who waits for it.
    Other(ClientId),
}

/// What a sandbox has of the outside.
pub(super) struct Outside<'a> {
    pub(super) order: &'a Order,
    pub(super) lifeline: &'a UnixStream,
    /// The first process's streams.
    pub(super) endpoints: Endpoints,
    /// The terminal behind them.
    pub(super) terminal: Option<OwnedFd>,
    /// What the guest's random numbers begin with.
    pub(super) seed: [u8; limits::SEED_LEN],
    pub(super) signals: &'a Signals,
}

pub(super) struct Supervisor<'a> {
    pub(super) vm: Box<dyn Vm>,
    log: KernelLog,
    pub(super) agent: Agent,
    pub(super) milestones: Arc<Mutex<Timeline>>,
    pub(super) streams: Streams,
    pub(super) processes: Processes,
    pub(super) pending: BTreeMap<u32, Pending>,
    pub(super) clients: Clients,
    pub(super) watches: Vec<Watch>,
    /// The container's processes stand still.
    pub(super) frozen: bool,
    /// Why the first process was killed.
    pub(super) want: Want,
    order: &'a Order,
    /// As long as the caller has to be there.
    pub(super) lifeline: Option<&'a UnixStream>,
    pub(super) signals: &'a Signals,
    terminal: Option<OwnedFd>,
    /// What the first process will be, until it is.
    program: Option<Program>,
    endpoints: Endpoints,
    seed: [u8; limits::SEED_LEN],
    ready: bool,
    pub(super) timeline: &'a mut Timeline,
    /// What turns the guest's clock into the host's, in nanoseconds.
    guest_offset: u64,
    pub(super) agent_gone: bool,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(booted: Booted, outside: Outside<'a>, timeline: &'a mut Timeline) -> Self {
        Self {
            vm: booted.vm,
            log: booted.log,
            agent: booted.agent,
            milestones: booted.milestones,
            streams: booted.streams,
            processes: Processes::default(),
            pending: BTreeMap::new(),
            clients: booted.clients,
            watches: Vec::new(),
            frozen: false,
            want: Want::default(),
            order: outside.order,
            lifeline: Some(outside.lifeline),
            signals: outside.signals,
            terminal: outside.terminal,
            program: None,
            endpoints: outside.endpoints,
            seed: outside.seed,
            ready: false,
            timeline,
            guest_offset: 0,
            agent_gone: false,
        }
    }

    /// Runs until the first process has ended; returns its status.
    pub(super) fn run(&mut self) -> Result<u8, Error> {
        loop {
            for (client, status) in self.processes.take_finished() {
                self.clients.answer(client, &Answer::Exited { status });
            }
            if let Some(Process { stage: Stage::Ended(status), streams, .. }) = self.processes.init()
                && streams.is_over()
                && self.want != Want::Asked
            {
                let status = *status;
                self.timeline.reached(Mark::Finished);
                self.say_goodbye();
                return Ok(status);
            }
            let ready = self.wait()?;
            if ready.agent {
                self.hear_agent()?;
            }
            if ready.outputs {
                self.streams.heard();
            }
            while let Some(signal) = ready.signals.then(|| self.signals.next()).flatten() {
                self.pass_on(signal)?;
            }
            if ready.lifeline {
                self.hear_caller()?;
            }
            if ready.listener {
                self.clients.accept();
            }
            for client in ready.clients {
                self.serve(client)?;
            }
            if ready.ended {
                // Of a VM that is gone, nothing more comes.
                return match self.processes.init().map(|init| init.stage) {
                    Some(Stage::Ended(status)) => Ok(status),
                    _ => Err(self.guest_ended()),
                };
            }
        }
    }

    /// The caller sends the program, or is gone.
    fn hear_caller(&mut self) -> Result<(), Error> {
        let Some(mut lifeline) = self.lifeline else { return Ok(()) };
        match lifeline::receive(&mut lifeline) {
            Ok(Go { program }) if self.program.is_none() && self.processes.init().is_none() => {
                self.program = Some(Program::from_bytes(program));
                self.start_init()
            }
            Ok(_) => Err(Error::new(Kind::Host, "the caller spoke out of turn")),
            Err(_) => Err(Error::new(Kind::Host, "the caller is gone")),
        }
    }

    fn hear_agent(&mut self) -> Result<(), Error> {
        self.agent.flush();
        // Events borrow from the agent's buffer, and most answers go back to it: take what counts, then act.
        let mut heard = Vec::new();
        let open = self.agent.receive(|id, event| {
            heard.push((id, Heard::from(event)));
            Ok(())
        });
        let failure = open.map(|open| self.agent_gone = !open);
        for (id, event) in heard {
            self.handle(id, event)?;
        }
        failure
    }

    fn handle(&mut self, id: u32, event: Heard) -> Result<(), Error> {
        let pending = self.pending.remove(&id);
        match (event, pending) {
            (Heard::Hello(hello), None) if !self.ready => self.greet(hello),
            (Heard::Exited(process, status, at), _) if self.ready => {
                self.exited(process, status, at);
                Ok(())
            }
            (Heard::Created, Some(Pending::Run(process))) => self.created(process),
            (Heard::Started(pid, at), Some(Pending::Run(process))) => self.started(process, pid, at),
            (Heard::Started(pid, at), Some(Pending::Start(client))) => {
                self.clients.answer(client, &Answer::Done);
                self.started(INIT, pid, at)
            }
            (Heard::Failed(refusal), Some(Pending::Run(process))) => self.not_started(process, &refusal),
            (Heard::Failed(refusal), Some(Pending::Start(client))) => {
                let error = self.explain(INIT, &refusal);
                self.clients.answer(client, &Answer::Failed(*error.0));
                if let Some(init) = self.processes.get_mut(INIT) {
                    init.stage = Stage::Ended(error_status(&refusal));
                }
                Ok(())
            }
            (Heard::Done, Some(Pending::Kill(client))) => {
                if let Some(client) = client {
                    self.clients.answer(client, &Answer::Done);
                }
                Ok(())
            }
            (Heard::Done, Some(Pending::Other(client))) => {
                self.clients.answer(client, &Answer::Done);
                Ok(())
            }
            (event @ (Heard::File { .. } | Heard::Failed(_)), Some(Pending::Memory)) => {
                self.heard_about_memory(&event);
                Ok(())
            }
            (event @ (Heard::File { .. } | Heard::Failed(_)), Some(Pending::Watch)) => {
                self.watched(id, &event);
                Ok(())
            }
            (Heard::File { content, more }, Some(Pending::Other(client))) => {
                self.clients.answer(client, &Answer::File { content, more });
                Ok(())
            }
            (Heard::Failed(refusal), Some(Pending::Other(client) | Pending::Kill(Some(client)))) => {
                self.clients.answer(client, &Answer::Failed(*refusal.error().0));
                Ok(())
            }
            // What nobody waits for: the answers to a welcome, to a new size, to a signal that came too late.
            (Heard::Done, None) => Ok(()),
            (Heard::Failed(refusal), None | Some(Pending::Kill(None))) => {
                tracing::debug!("the agent refused a request: {}", refusal.error());
                // Without the first requests there is nothing to go on with.
                if self.processes.init().is_none() { Err(refusal.error()) } else { Ok(()) }
            }
            (event, pending) => {
                tracing::debug!(?event, ?pending, "out of turn");
                Err(Error::new(Kind::Guest, "the guest's agent spoke out of turn"))
            }
        }
    }

    fn greet(&mut self, hello: Hello) -> Result<(), Error> {
        let now = clock::monotonic_ns();
        self.guest_offset = now.wrapping_sub(hello.sent_ns);
        self.timeline.add(Mark::HelloReceived, now);
        self.timeline.add(Mark::InitStarted, self.on_host_scale(hello.entered_ns).min(now));
        self.ready = true;
        self.agent.send(&[
            Request::Welcome(Welcome { version: VERSION, features: Features::default() }),
            Request::SetClock(SetClock { realtime_ns: clock::realtime_ns() }),
            Request::SeedRandom(SeedRandom { seed: self.seed }),
        ])?;
        self.start_init()
    }

    /// Starts the first process, once there are a guest and a program.
    fn start_init(&mut self) -> Result<(), Error> {
        if !self.ready {
            return Ok(());
        }
        let Some(program) = self.program.take() else { return Ok(()) };
        let mut endpoints = std::mem::take(&mut self.endpoints);
        // It may have changed during the boot.
        if let Some(size) = self.terminal.as_ref().and_then(|fd| terminal::size_of(fd.as_fd())) {
            endpoints.terminal = endpoints.terminal.and(Some(size));
        }
        self.start(INIT, program, endpoints, None)
    }

    /// Has the guest start a process.
    pub(super) fn start(
        &mut self,
        id: ProcessId,
        program: Program,
        endpoints: Endpoints,
        client: Option<ClientId>,
    ) -> Result<(), Error> {
        let has_terminal = endpoints.terminal.is_some();
        let (stdio, streams) = self.streams.open(endpoints);
        let run = Run { process: id, stdio, program: program.operations() };
        match self.agent.send(&[Request::Run(run)]) {
            Ok(request) => {
                self.pending.insert(request, Pending::Run(id));
                let stage = Stage::Starting;
                let process = Process { stage, program, streams, has_terminal, client };
                self.processes.insert(id, process);
                Ok(())
            }
            Err(error) => {
                self.streams.withdraw(&streams);
                Err(error)
            }
        }
    }

    fn created(&mut self, id: ProcessId) -> Result<(), Error> {
        if let Some(process) = self.processes.get_mut(id) {
            process.stage = Stage::Created;
        }
        if let Some(mut lifeline) = self.lifeline.filter(|_| id == INIT) {
            // A caller that is gone by now cannot have told anyone that there is a container.
            lifeline::send(&mut lifeline, &News::Created).map_err(host("tell the caller"))?;
            self.lifeline = None;
        }
        Ok(())
    }

    fn started(&mut self, id: ProcessId, pid: u32, at_ns: u64) -> Result<(), Error> {
        let at = self.on_host_scale(at_ns);
        let Some(process) = self.processes.get_mut(id) else { return Ok(()) };
        process.stage = Stage::Running;
        match process.client {
            Some(client) => self.clients.answer(client, &Answer::Started { pid }),
            None if id == INIT => self.timeline.add(Mark::CommandStarted, at),
            // Whoever wanted it is gone.
            None => self.kill(id)?,
        }
        Ok(())
    }

    /// Ends a process whose client is gone.
    pub(super) fn kill(&mut self, id: ProcessId) -> Result<(), Error> {
        let signal = mote_protocol::Signal { process: id, signal: SIGKILL };
        self.agent.send(&[Request::Signal(signal)]).map(drop)
    }

    fn not_started(&mut self, id: ProcessId, refusal: &Refusal) -> Result<(), Error> {
        let error = self.explain(id, refusal);
        if id == INIT {
            return Err(error);
        }
        if let Some(process) = self.processes.remove(id) {
            self.streams.withdraw(&process.streams);
            if let Some(client) = process.client {
                self.clients.answer(client, &Answer::Failed(*error.0));
            }
        }
        Ok(())
    }

    fn explain(&mut self, id: ProcessId, refusal: &Refusal) -> Error {
        let container = self.order.container;
        match self.processes.get_mut(id) {
            Some(process) if container => refusal.as_engines_know_it(&process.program),
            Some(process) => refusal.explain(&process.program),
            None => refusal.error(),
        }
    }

    fn exited(&mut self, id: ProcessId, status: ExitStatus, at_ns: u64) {
        if id == INIT {
            self.timeline.add(Mark::CommandEnded, self.on_host_scale(at_ns));
            self.ask_about_memory(status);
        }
        if let Some(process) = self.processes.get_mut(id) {
            process.stage = Stage::Ended(match status {
                ExitStatus::Signal(signal) => 128 + (signal & 0x7f),
                ExitStatus::Code(code) => code,
            });
        }
    }

    /// Whoever waits for a process that lives only as long as the first one.
    fn say_goodbye(&mut self) {
        let waiting: Vec<_> = self.processes.waiting_clients().collect();
        for client in waiting {
            self.clients.answer(client, &Answer::Exited { status: 128 + SIGKILL });
        }
    }

    pub(super) fn is_container_with_limited_memory(&self) -> bool {
        self.order.container && self.order.host_memory.is_some()
    }

    fn on_host_scale(&self, guest_ns: u64) -> u64 {
        guest_ns.wrapping_add(self.guest_offset)
    }

    fn pass_on(&mut self, signal: Signal) -> Result<(), Error> {
        if signal == Signal::SIGWINCH {
            let size = self.terminal.as_ref().and_then(|fd| terminal::size_of(fd.as_fd()));
            if let (Some(size), Some(Process { stage, .. })) = (size, self.processes.init())
                && !matches!(stage, Stage::Ended(_))
            {
                self.agent.send(&[Request::Resize(Resize { process: INIT, size })])?;
            }
            return Ok(());
        }
        match self.processes.init().map(|init| init.stage) {
            Some(Stage::Created | Stage::Going | Stage::Running) => {
                let stop = self.order.stop_signal.filter(|_| signal == Signal::SIGTERM);
                self.signal_init(stop.unwrap_or_else(|| u8::try_from(signal as i32).unwrap_or(0)), None)
            }
            // Nobody is left, or not yet there, to take it.
            None | Some(Stage::Starting | Stage::Ended(_)) => Err(Error::new(
                Kind::Interrupted(signal as i32),
                format!("interrupted by {}", signal.as_str()),
            )),
        }
    }

    fn guest_ended(&mut self) -> Error {
        let exit = self.vm.wait();
        let when = match self.processes.init().map(|init| init.stage) {
            None if !self.ready => "before its agent was ready",
            None | Some(Stage::Starting) => "before the command was started",
            Some(Stage::Created | Stage::Going) => "before the container was started",
            Some(Stage::Running | Stage::Ended(_)) => "while the command was running",
        };
        let kind = if matches!(exit, Exit::Failed(_)) { Kind::Hypervisor } else { Kind::Guest };
        let error = Error::new(kind, format!("{exit} {when}"));
        match exit {
            Exit::Panic | Exit::TripleFault => error.with_kernel_log(self.log.last_lines(LAST_LINES)),
            _ => error,
        }
    }
}

/// The status of a container whose program could not be executed, after all.
fn error_status(refusal: &Refusal) -> u8 {
    Error::new(refusal.kind(), "").exit_status()
}
