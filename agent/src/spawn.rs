//! Making a process: its streams, and what the child does before it is another program.

use core::cell::Cell;

use heapless::Vec;
use mote_protocol::{ErrorCode, Event, Failed, HEADER_LEN, Header, Run, Stdio, WindowSize};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::Mode,
    io::{Errno, Result},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
    pipe::PipeFlags,
    process::Pid,
    pty::OpenptFlags,
    termios::Winsize,
};

use crate::{
    Machine,
    program::{self, Failure, Linux, Streams, wire_errno},
    sys,
};

/// How long the host may take to accept the streams it named. It does so at once, or it never will.
const CONNECT_TIMEOUT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// The exit status of a child whose program failed. Nobody sees it.
const FAILED_STATUS: i32 = 127;

/// The longest text of a failed program, in bytes.
const MAX_TEXT: usize = 200;

/// The longest thing a child says, in bytes: one frame of at most this length, in one packet.
const MAX_STATUS: usize = 256;

/// The kind of the frame by which a child says that all that is left is `execve(2)`.
const READY: u16 = 0;
/// That it waits at its gate.
const CREATED: u16 = 1;
/// That it goes on as another child of the agent's. The body is that one's PID.
const MOVED: u16 = 2;

/// What a child that waits at its gate hears: this, or a signal to end as if by.
pub(crate) const GO_ON: u8 = 0;

/// What a child says.
#[allow(
    clippy::large_enum_variant,
    reason = "there is no heap to put the large one on, and one lives at a time"
)]
pub(crate) enum Word {
    /// All that is left is `execve(2)`.
    Ready,
    /// It waits at its gate.
    Created,
    /// It goes on as this process.
    Moved(Pid),
    /// It has failed: the whole frame that answers its request.
    Failed(Vec<u8, MAX_STATUS>),
    /// Nothing more.
    End,
}

/// The next word of a child's, without waiting.
pub(crate) fn hear(status: BorrowedFd<'_>) -> Result<Word> {
    listen(status, RecvFlags::DONTWAIT)
}

/// The process that a child goes on as, if that is its next word. Takes no other.
pub(crate) fn peek_move(status: BorrowedFd<'_>) -> Option<Pid> {
    let peek = listen(status, RecvFlags::DONTWAIT | RecvFlags::PEEK);
    if !matches!(peek, Ok(Word::Moved(_))) {
        return None;
    }
    match hear(status) {
        Ok(Word::Moved(pid)) => Some(pid),
        _ => None,
    }
}

fn listen(status: BorrowedFd<'_>, flags: RecvFlags) -> Result<Word> {
    let mut packet = [0; MAX_STATUS];
    let (count, _) = rustix::net::recv(status, &mut packet, flags)?;
    let packet = packet.get(..count).unwrap_or_default();
    let Some((head, body)) = packet.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Word::End);
    };
    match (Header::from_bytes(*head).kind, body.first_chunk()) {
        (READY, _) => Ok(Word::Ready),
        (CREATED, _) => Ok(Word::Created),
        (MOVED, Some(pid)) => Pid::from_raw(i32::from_le_bytes(*pid)).map(Word::Moved).ok_or(Errno::CHILD),
        _ => Vec::from_slice(packet).map(Word::Failed).map_err(|_| Errno::MSGSIZE),
    }
}

/// The links of a process, by their place in its table.
pub(crate) mod links {
    /// From the host to standard input's pipe, or to the terminal's.
    pub(crate) const INPUT: usize = 0;
    /// To the host, from standard output's pipe or the terminal's.
    pub(crate) const OUTPUT: usize = 1;
    /// To the host, from standard error's pipe.
    pub(crate) const ERRORS: usize = 2;
    /// From a pipe to the terminal.
    pub(crate) const KEYBOARD: usize = 3;
    /// From the terminal to a pipe.
    pub(crate) const SCREEN: usize = 4;
    /// How many there are.
    pub(crate) const COUNT: usize = 5;
}

/// A link's source and sink.
pub(crate) type Ends = (OwnedFd, OwnedFd);

/// The streams of a process that is about to be made.
pub(crate) struct Made {
    /// The agent's side.
    pub(crate) links: [Option<Ends>; links::COUNT],
    /// The controlling side of the process's terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// The process's side, by descriptor; a terminal is in the first place only.
    child: [Option<OwnedFd>; 3],
}

/// Connects and makes the streams of a process.
pub(crate) fn make_streams(machine: &mut impl Machine, null: BorrowedFd<'_>, stdio: &Stdio) -> Result<Made> {
    let mut connect = |port: Option<u32>| port.map(|port| machine.connect(port)).transpose();
    let stdin = connect(stdio.stdin)?;
    let stdout = connect(stdio.stdout)?;
    let stderr = if stdio.terminal.is_none() { connect(stdio.stderr)? } else { None };
    for stream in [&stdin, &stdout, &stderr].into_iter().flatten() {
        await_connection(stream.as_fd())?;
    }
    match stdio.terminal {
        None => make_pipes(stdin, stdout, stderr),
        Some(size) => make_terminal(machine.open_terminal()?, null, stdin, stdout, size),
    }
}

/// Waits until a stream is connected. The host accepts streams as soon as it can, so this takes one round trip.
fn await_connection(stream: BorrowedFd<'_>) -> Result<()> {
    let mut wanted = [PollFd::new(&stream, PollFlags::OUT)];
    loop {
        match rustix::event::poll(&mut wanted, Some(&CONNECT_TIMEOUT)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => return rustix::net::sockopt::socket_error(stream)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

fn make_pipes(stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Result<Made> {
    let mut made = Made { links: Default::default(), terminal: None, child: Default::default() };
    if let Some(stream) = stdin {
        let (reader, writer) = pipe()?;
        made.links[links::INPUT] = Some((stream, writer));
        made.child[0] = Some(reader);
    }
    for (stream, link, number) in [(stdout, links::OUTPUT, 1), (stderr, links::ERRORS, 2)] {
        if let Some(stream) = stream {
            let (reader, writer) = pipe()?;
            made.links[link] = Some((reader, stream));
            made.child[number] = Some(writer);
        }
    }
    Ok(made)
}

/// A terminal is neither a pipe nor a socket, so a pipe stands between it and each stream.
fn make_terminal(
    master: OwnedFd,
    null: BorrowedFd<'_>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    size: WindowSize,
) -> Result<Made> {
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    set_size(master.as_fd(), size)?;
    let mut made = Made { links: Default::default(), terminal: None, child: [Some(slave), None, None] };
    if let Some(stream) = stdin {
        let (reader, writer) = pipe()?;
        made.links[links::INPUT] = Some((stream, writer));
        made.links[links::KEYBOARD] = Some((reader, duplicate(master.as_fd())?));
    }
    // Somebody has to read from a terminal, or what writes to it stops.
    let stream = match stdout {
        Some(stream) => stream,
        None => duplicate(null)?,
    };
    let (reader, writer) = pipe()?;
    made.links[links::SCREEN] = Some((duplicate(master.as_fd())?, writer));
    made.links[links::OUTPUT] = Some((reader, stream));
    made.terminal = Some(master);
    Ok(made)
}

/// A second descriptor of the same file: `epoll` watches each on its own.
fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// Sets a terminal's size.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, size: WindowSize) -> Result<()> {
    let WindowSize { rows, columns } = size;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// Forks the process that carries out `run`. Returns its PID and the socket on which it reports, whose end without a
/// word of failure is its success. `joined` is the process whose namespaces it joins, if it does.
pub(crate) fn fork(
    run: &Run<'_>,
    id: u32,
    made: &Made,
    null: BorrowedFd<'_>,
    joined: Option<BorrowedFd<'_>>,
) -> Result<(Pid, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let pid = sys::process::spawn(program::wants_pid_namespace(run.program), || {
        child(run, id, made, null, (theirs.as_fd(), joined))
    })?;
    Ok((pid, ours))
}

/// All that the child does, with its copy of the agent's memory.
fn child(
    run: &Run<'_>,
    id: u32,
    made: &Made,
    null: BorrowedFd<'_>,
    (status, joined): (BorrowedFd<'_>, Option<BorrowedFd<'_>>),
) -> i32 {
    let is_terminal = made.terminal.is_some();
    let [stdin, stdout, stderr] = &made.child;
    let streams = if is_terminal {
        let terminal = stdin.as_ref().map_or(null, AsFd::as_fd);
        [terminal; 3]
    } else {
        [stdin, stdout, stderr].map(|stream| stream.as_ref().map_or(null, AsFd::as_fd))
    };
    let kind = if is_terminal {
        Streams::Terminal
    } else {
        Streams::Pipes([stdin, stdout, stderr].map(Option::is_some))
    };
    let Ok((status, joined)) = sys::process::keep_only(streams, status, joined) else {
        // Without its descriptors it cannot say why: its end without a word is a failure.
        return FAILED_STATUS;
    };
    let status = StatusWriter { socket: status, id, ready: Cell::new(false) };
    let failure = match prepare(kind, program::forks(run.program)) {
        Ok(()) => program::execute(run.program, &mut Linux::new(kind, &status, joined)),
        Err((errno, step)) => {
            status.failed(ErrorCode::System, wire_errno(errno), None, &[step.as_bytes()]);
            return FAILED_STATUS;
        }
    };
    let Failure { code, errno, operation, step, ref message } = failure;
    let separator: &[u8] = if message.is_empty() { b"" } else { b": " };
    status.failed(code, errno, Some(operation), &[step.as_bytes(), separator, message]);
    FAILED_STATUS
}

/// Gives the child what every process starts with, and nothing of the agent's. One that goes on in a child of its own leaves
/// the session to that.
fn prepare(streams: Streams, forks: bool) -> core::result::Result<(), (Errno, &'static str)> {
    sys::signal::reset().map_err(|errno| (errno, "sigaction"))?;
    // Operations make files with exactly the modes that they name.
    rustix::process::umask(Mode::empty());
    if forks { Ok(()) } else { lead_session(streams) }
}

/// Makes this process the leader of a session, and its terminal that session's.
pub(crate) fn lead_session(streams: Streams) -> core::result::Result<(), (Errno, &'static str)> {
    rustix::process::setsid().map_err(|errno| (errno, "setsid"))?;
    if streams == Streams::Terminal {
        let [stdin, ..] = sys::process::standard_streams();
        rustix::process::ioctl_tiocsctty(stdin).map_err(|errno| (errno, "TIOCSCTTY"))?;
    }
    Ok(())
}

/// A child's way to tell the agent how it is getting on: frames, each in a packet of its own.
#[derive(Debug)]
pub struct StatusWriter {
    socket: OwnedFd,
    id: u32,
    ready: Cell<bool>,
}

impl StatusWriter {
    /// Says, once, that all that is left is `execve(2)`.
    pub(crate) fn ready(&self) -> Result<()> {
        if self.ready.replace(true) {
            return Ok(());
        }
        self.say(READY, &[])
    }

    /// Says that this process waits, and waits until it may go on.
    pub(crate) fn created(&self) -> Result<()> {
        self.say(CREATED, &[])?;
        let mut word = [0];
        loop {
            match rustix::net::recv(&self.socket, &mut word, RecvFlags::empty()) {
                Ok((1, _)) if word == [GO_ON] => return Ok(()),
                Ok((1, _)) => sys::process::exit(128 + i32::from(word[0])),
                Err(Errno::INTR) => {}
                // Nobody will ever say so.
                Ok(_) | Err(_) => sys::process::exit(FAILED_STATUS),
            }
        }
    }

    /// Says that this process goes on as another child of the agent's.
    pub(crate) fn moved(&self, pid: Pid) -> Result<()> {
        self.say(MOVED, &pid.as_raw_pid().to_le_bytes())
    }

    fn say(&self, kind: u16, body: &[u8]) -> Result<()> {
        let mut frame: Vec<u8, { HEADER_LEN + 4 }> = Vec::new();
        let len = u32::try_from(body.len()).unwrap_or(0);
        let whole = frame
            .extend_from_slice(&Header { len, id: self.id, kind }.to_bytes())
            .and_then(|()| frame.extend_from_slice(body));
        whole.map_err(|_| Errno::MSGSIZE)?;
        self.send(&frame)
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        rustix::net::send(&self.socket, frame, SendFlags::NOSIGNAL).map(|_| ())
    }

    /// Says what failed, as the event that answers the request.
    fn failed(&self, code: ErrorCode, errno: u16, operation: Option<u16>, text: &[&[u8]]) {
        let mut words: Vec<u8, MAX_TEXT> = Vec::new();
        for part in text {
            let room = words.capacity() - words.len();
            // Cut to the room that is left.
            let _ = words.extend_from_slice(part.get(..room).unwrap_or(part));
        }
        let text = match core::str::from_utf8(&words) {
            Ok(text) => text,
            Err(error) => {
                let valid = words.get(..error.valid_up_to()).unwrap_or_default();
                core::str::from_utf8(valid).unwrap_or_default()
            }
        };
        let mut frame = [0; MAX_STATUS];
        let event = Event::Failed(Failed { code, errno, operation, text });
        // The frame fits, and the socket has room for it. If it had not, the end without a word would be the failure.
        if let Ok(len) = event.encode(self.id, &mut frame) {
            let _ = self.send(frame.get(..len).unwrap_or_default());
        }
    }
}

const _: () = assert!(MAX_STATUS >= HEADER_LEN + MAX_TEXT + 16);
