//! A host: forks an agent, speaks with it, and holds the other ends of its streams.

use std::{
    collections::VecDeque,
    ffi::CString,
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use mote_agent::{Agent, Machine, REQUEST_BUFFER_LEN, Stop, say_hello, sys};
use mote_protocol::{
    Action, Assembler, ErrorCode, Event, ExitStatus, Exited, HEADER_LEN, Hello, Operation, Operations,
    ProcessId, ProgramWriter, Request, Run, Started, Stdio, StrList, WindowSize, limits,
};
// The descriptors that the agent gets are made by rustix: whether its types are those of std depends on the build.
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags},
    io::{Errno, Result},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::{Pid, Signal, WaitOptions},
};

/// How long anything may take before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PORT: u32 = mote_protocol::FIRST_STREAM_PORT;
const PORTS: u32 = 300;

/// An event that is not borrowed from a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Hello(Hello),
    Done,
    Failed { code: ErrorCode, errno: u16, operation: Option<u16>, text: String },
    Started(Started),
    Exited(Exited),
    Created(u32),
    Contents(Vec<u8>, bool),
}

/// How the agent process exits, by why it stopped.
pub(crate) fn status_of(stop: Stop) -> i32 {
    match stop {
        Stop::Asked(Action::PowerOff) => 20,
        Stop::Asked(Action::Reboot) => 21,
        Stop::HostGone => 10,
    }
}

struct TestMachine {
    addresses: Vec<SocketAddrUnix>,
}

impl Machine for TestMachine {
    fn connect(&mut self, port: u32) -> Result<OwnedFd> {
        let index = usize::try_from(port.wrapping_sub(FIRST_PORT)).map_err(|_| Errno::INVAL)?;
        let address = self.addresses.get(index).ok_or(Errno::CONNREFUSED)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, address)?;
        Ok(socket)
    }

    fn open_terminal(&mut self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open("/dev/ptmx", flags, Mode::empty())
    }

    fn set_clock(&mut self, _: u64) -> Result<()> {
        Err(Errno::PERM)
    }

    fn seed_random(&mut self, _: &[u8; limits::SEED_LEN]) -> Result<()> {
        Ok(())
    }

    fn kill_all(&mut self, started: &mut dyn Iterator<Item = Pid>) {
        for pid in started {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// What to run, and with which streams.
pub(crate) struct Command {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) streams: [bool; 3],
    pub(crate) terminal: Option<WindowSize>,
    /// Whether it waits before it begins, after a look at whether the program is there.
    pub(crate) gate: bool,
    /// Operations that its program begins with.
    pub(crate) before: Vec<u8>,
}

impl Command {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let environment = vec!["PATH=/usr/bin:/bin".to_owned()];
        Self { arguments, environment, streams: [true; 3], terminal: None, gate: false, before: Vec::new() }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }
}

/// A process as the host has it.
pub(crate) struct Child {
    pub(crate) process: ProcessId,
    pub(crate) request: u32,
    pub(crate) stdin: Option<UnixStream>,
    pub(crate) stdout: Option<UnixStream>,
    pub(crate) stderr: Option<UnixStream>,
}

pub(crate) struct Host {
    pub(crate) control: UnixStream,
    agent: Option<Pid>,
    name: String,
    inbox: Assembler<Vec<u8>>,
    said: VecDeque<(u32, Said)>,
    next_id: u32,
    next_port: u32,
}

impl Host {
    pub(crate) fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mote-agent-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let theirs = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::connect(&theirs, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
        let control = listener.accept().unwrap().0;
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        control.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut machine = Some(TestMachine {
            addresses: (FIRST_PORT..FIRST_PORT + PORTS)
                .map(|port| SocketAddrUnix::new_abstract_name(format!("{name}-{port}").as_bytes()).unwrap())
                .collect(),
        });
        let mut buffer = vec![0; REQUEST_BUFFER_LEN];
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        // The child must not allocate: another thread of the harness may hold the allocator's lock.
        let agent = sys::process::spawn(false, || {
            let mut serve = || {
                let (control, _) = sys::process::keep_only([null.as_fd(); 3], theirs.as_fd(), None)?;
                rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
                say_hello(control.as_fd(), 1)?;
                let machine = machine.take().ok_or(Errno::INVAL)?;
                Ok::<Stop, Errno>(Agent::new(control, &mut buffer, machine)?.run())
            };
            serve().map_or(99, status_of)
        })
        .unwrap();
        let mut host = Self {
            control,
            agent: Some(agent),
            name,
            inbox: Assembler::new(vec![0; HEADER_LEN + limits::MAX_EVENT]),
            said: VecDeque::new(),
            next_id: 1,
            next_port: FIRST_PORT,
        };
        drop(theirs);
        let (id, Said::Hello(hello)) = host.next_event() else { panic!("no hello") };
        assert_eq!((id, hello.version, hello.entered_ns), (0, mote_protocol::VERSION, 1));
        host
    }

    /// Sends a request; returns its id.
    pub(crate) fn send(&mut self, request: &Request<'_>) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        let mut frame = vec![0; REQUEST_BUFFER_LEN];
        let len = request.encode(id, &mut frame).unwrap();
        self.control.write_all(&frame[..len]).unwrap();
        id
    }

    fn next_event(&mut self) -> (u32, Said) {
        if let Some(event) = self.said.pop_front() {
            return event;
        }
        loop {
            if let Some(frame) = self.inbox.next_frame().unwrap() {
                let id = frame.id;
                let said = match Event::decode(frame).unwrap() {
                    Event::Hello(hello) => Said::Hello(hello),
                    Event::Done(()) => Said::Done,
                    Event::Failed(failed) => Said::Failed {
                        code: failed.code,
                        errno: failed.errno,
                        operation: failed.operation,
                        text: failed.text.to_owned(),
                    },
                    Event::Started(started) => Said::Started(started),
                    Event::Exited(exited) => Said::Exited(exited),
                    Event::Created(created) => Said::Created(created.pid),
                    Event::Contents(read) => Said::Contents(read.content.to_vec(), read.more),
                };
                return (id, said);
            }
            let count = self.control.read(self.inbox.spare()).expect("the agent says nothing");
            assert!(count > 0, "the agent is gone");
            self.inbox.filled(count);
        }
    }

    /// The first event that `wanted` accepts; the others are kept.
    fn event_where(&mut self, wanted: impl Fn(u32, &Said) -> bool) -> Said {
        if let Some(at) = self.said.iter().position(|(id, said)| wanted(*id, said)) {
            return self.said.remove(at).unwrap().1;
        }
        let mut others = std::mem::take(&mut self.said);
        loop {
            let (id, said) = self.next_event();
            if wanted(id, &said) {
                others.append(&mut self.said);
                self.said = others;
                return said;
            }
            others.push_back((id, said));
        }
    }

    /// The answer to a request.
    pub(crate) fn answer(&mut self, request: u32) -> Said {
        self.event_where(|id, _| id == request)
    }

    /// Sends a request and returns its answer.
    pub(crate) fn ask(&mut self, request: &Request<'_>) -> Said {
        let id = self.send(request);
        self.answer(id)
    }

    /// Waits for the end of a process.
    pub(crate) fn exit_of(&mut self, process: ProcessId) -> ExitStatus {
        let said = self.event_where(|id, said| {
            id == 0 && matches!(said, Said::Exited(exited) if exited.process == process)
        });
        match said {
            Said::Exited(exited) => exited.status,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the process's end was reported among what was heard so far.
    pub(crate) fn heard_exit(&self, process: ProcessId) -> bool {
        self.said.iter().any(|(_, said)| matches!(said, Said::Exited(exited) if exited.process == process))
    }

    /// Listens on a new port.
    fn listen(&mut self) -> (u32, UnixListener) {
        let port = self.next_port;
        self.next_port += 1;
        let address = SocketAddr::from_abstract_name(format!("{}-{port}", self.name)).unwrap();
        (port, UnixListener::bind_addr(&address).unwrap())
    }

    /// Sends a `Run` and connects its streams, without waiting for the answer.
    pub(crate) fn begin(&mut self, process: u32, command: &Command) -> Child {
        let listeners = command.streams.map(|wanted| wanted.then(|| self.listen()));
        let [stdin, stdout, stderr] =
            [0, 1, 2].map(|at: usize| listeners[at].as_ref().map(|(port, _)| *port));
        let stdio = Stdio { stdin, stdout, stderr, terminal: command.terminal };
        let mut program = vec![0; 64 * 1024];
        let (arguments, environment) = (strings(&command.arguments), strings(&command.environment));
        let mut writer = ProgramWriter::new(&mut program);
        if command.gate {
            let name = CString::new(command.arguments[0].as_str()).unwrap();
            let path = c"/usr/bin:/bin".into();
            writer.push(&Operation::CheckExecutable { name: name.as_c_str().into(), path }).unwrap();
            writer.push(&Operation::Await).unwrap();
        }
        writer
            .push(&Operation::Exec {
                arguments: StrList::from_bytes(&arguments).unwrap(),
                environment: StrList::from_bytes(&environment).unwrap(),
            })
            .unwrap();
        let process = ProcessId(process);
        let program = [&command.before, writer.finish().as_bytes()].concat();
        let program = Operations::from_bytes(&program);
        let request = self.send(&Request::Run(Run { process, stdio, program }));
        let is_terminal = command.terminal.is_some();
        let [stdin, stdout, stderr] = listeners.map(|listener| {
            listener.and_then(|(port, listener)| {
                let is_unused = is_terminal && Some(port) == stderr;
                (!is_unused).then(|| listener.accept().unwrap().0)
            })
        });
        for stream in [&stdin, &stdout, &stderr].into_iter().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Child { process, request, stdin, stdout, stderr }
    }

    /// Starts a process that must start.
    pub(crate) fn run(&mut self, process: u32, command: &Command) -> Child {
        let child = self.begin(process, command);
        let said = self.answer(child.request);
        assert!(matches!(said, Said::Started(started) if started.pid > 1), "{said:?}");
        child
    }

    /// Waits for the agent's own end; returns its status.
    pub(crate) fn agent_status(mut self) -> i32 {
        drop(self.control.shutdown(std::net::Shutdown::Both));
        let (_, status) = rustix::process::waitpid(self.agent.take(), WaitOptions::empty()).unwrap().unwrap();
        status.exit_status().unwrap()
    }

    /// The agent's PID.
    pub(crate) fn agent_pid(&self) -> Pid {
        self.agent.unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            let _ = rustix::process::kill_process(agent, Signal::KILL);
            let _ = rustix::process::waitpid(Some(agent), WaitOptions::empty());
        }
    }
}

/// Operations as the wire has them.
pub(crate) fn program(operations: &[Operation<'_>]) -> Vec<u8> {
    let mut buf = vec![0; 4096];
    let mut writer = ProgramWriter::new(&mut buf);
    for operation in operations {
        writer.push(operation).unwrap();
    }
    writer.finish().as_bytes().to_vec()
}

/// Strings as the wire has them.
fn strings(list: &[String]) -> Vec<u8> {
    list.iter().flat_map(|text| CString::new(text.as_str()).unwrap().into_bytes_with_nul()).collect()
}

/// Everything that comes until the stream ends.
pub(crate) fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}
