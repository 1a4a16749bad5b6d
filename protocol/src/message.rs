//! The messages: what a host may ask and what a guest may say.

use serde::{Deserialize, Serialize};

use crate::{Error, Frame, Header, limits, program::Operations, text::WireStr};

/// Optional abilities, one bit each. Each side says what it can; what both can is in force. Unknown bits are ignored.
/// No bit is assigned in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features(pub u64);

/// The host's name for a process it had started: any number that no other running process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

/// Declares an enum of messages: its kinds on the wire, encoding and decoding.
macro_rules! messages {
    ($(#[$meta:meta])* $name:ident<$life:lifetime>, $($(#[$doc:meta])* $kind:literal $variant:ident($body:ty),)+) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name<$life> {
            $($(#[$doc])* $variant($body),)+
        }

        impl<$life> $name<$life> {
            /// The number that stands for this message in a frame's header.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $(Self::$variant(_) => $kind,)+ }
            }

            /// Writes the message as a frame to `buf`; returns the frame's length in bytes.
            ///
            /// # Errors
            /// [`Error::NoRoom`] if `buf` is too short.
            pub fn encode(&self, id: u32, buf: &mut [u8]) -> Result<usize, Error> {
                Header::write_frame(id, self.kind(), buf, |out| match self {
                    $(Self::$variant(body) => serialize(body, out),)+
                })
            }

            /// Reads the message that a frame carries.
            ///
            /// # Errors
            /// [`Error::UnknownKind`]; [`Error::Malformed`] if the body is not exactly one message of its kind.
            pub fn decode(frame: Frame<$life>) -> Result<Self, Error> {
                match frame.kind {
                    $($kind => deserialize(frame.body).map(Self::$variant),)+
                    kind => Err(Error::UnknownKind(kind)),
                }
            }
        }
    };
}

fn serialize<T: Serialize>(body: &T, out: &mut [u8]) -> Result<usize, Error> {
    postcard::to_slice(body, out).map(|used| used.len()).map_err(|_| Error::NoRoom)
}

fn deserialize<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(Error::Malformed),
    }
}

messages! {
    /// What the host asks of the guest. Each request is answered with one event of the same id.
    Request<'a>,
    /// Accepts the guest's [`Hello`]. Answered with `Done`.
    0x0001 Welcome(Welcome),
    /// Sets the guest's wall clock. Answered with `Done`.
    0x0002 SetClock(SetClock),
    /// Gives the guest's CRNG fresh entropy. Answered with `Done`.
    0x0003 SeedRandom(SeedRandom),
    /// Starts a process. Answered with `Started` once its program ran up to a successful `execve`, or with `Created` if
    /// the program stops at an [`Await`](crate::Operation::Await).
    0x0004 Run(Run<'a>),
    /// Sends a signal to a process. Answered with `Done`.
    0x0005 Signal(Signal),
    /// Changes the size of a process's terminal. Answered with `Done`.
    0x0006 Resize(Resize),
    /// Closes a process's standard input, whatever is still under way in its stream. Answered with `Done`.
    0x0007 CloseStdin(ProcessId),
    /// Ends every process and then the guest. Answered with `Done` just before the end.
    0x0008 PowerOff(PowerOff),
    /// Lets a process go on that waits at its [`Await`](crate::Operation::Await). Answered with `Started`.
    0x0009 Start(ProcessId),
    /// Reads a file of the guest's own. Answered with `Contents`.
    0x000a ReadFile(ReadFile<'a>),
    /// Writes to a file of the guest's own that is there already. Answered with `Done`.
    0x000b WriteFile(WriteFile<'a>),
    /// Waits until a file of the guest's own says something new, and reads it. Answered with `Contents`, however long that
    /// takes.
    0x000c WaitFile(WaitFile<'a>),
    /// Sends a signal to every process of a cgroup. Answered with `Done`.
    0x000d SignalGroup(SignalGroup<'a>),
}

messages! {
    /// What the guest says.
    Event<'a>,
    /// The agent is ready. The first frame of a conversation, id 0.
    0x8001 Hello(Hello),
    /// The request was carried out.
    0x8002 Done(()),
    /// The request was not carried out.
    0x8003 Failed(Failed<'a>),
    /// A process runs its program.
    0x8004 Started(Started),
    /// A process has ended and its output was handed over. Id 0.
    0x8005 Exited(Exited),
    /// A process has done everything up to its [`Await`](crate::Operation::Await), and waits there.
    0x8006 Created(Created),
    /// What a file says.
    0x8007 Contents(Contents<'a>),
}

/// The agent's first words. Its version stands first, so that it can be read whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol the agent speaks: [`VERSION`](crate::VERSION).
    pub version: u32,
    /// What the agent can do beyond that.
    pub features: Features,
    /// When the agent's first instruction ran: nanoseconds of the guest's `CLOCK_MONOTONIC`.
    pub entered_ns: u64,
    /// When this message was made, on the same clock.
    pub sent_ns: u64,
}

impl Hello {
    /// The version that the body of a `Hello` of *any* version names.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none.
    pub fn peek_version(body: &[u8]) -> Result<u32, Error> {
        postcard::take_from_bytes(body).map(|(version, _)| version).map_err(|_| Error::Malformed)
    }
}

/// The host's answer to [`Hello`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol the host speaks: [`VERSION`](crate::VERSION). An agent that speaks another fails the request.
    pub version: u32,
    /// The features that are in force: those that both sides have.
    pub features: Features,
}

/// The wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetClock {
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub realtime_ns: u64,
}

/// Entropy from the host's CRNG, credited in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedRandom {
    /// The seed.
    pub seed: [u8; limits::SEED_LEN],
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines of text.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Where a process's standard streams go. A port is one of the host's (CID 2), to which the guest opens a stream;
/// a stream without a port is `/dev/null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// Host to guest.
    pub stdin: Option<u32>,
    /// Guest to host. With a terminal, everything that is written to it.
    pub stdout: Option<u32>,
    /// Guest to host. Unused with a terminal.
    pub stderr: Option<u32>,
    /// Gives the process a new pseudo-terminal of this size, as its controlling terminal.
    pub terminal: Option<WindowSize>,
}

/// Starts a process: the guest forks, connects the streams, and the child carries out the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run<'a> {
    /// The host's name for the process.
    pub process: ProcessId,
    /// Its streams.
    pub stdio: Stdio,
    /// What the child does, ending in an `Exec`.
    #[serde(borrow)]
    pub program: Operations<'a>,
}

/// A signal for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// To whom.
    pub process: ProcessId,
    /// The number that Linux on this architecture gives the signal, 1 to 64.
    pub signal: u8,
}

/// A file to read. Paths are the agent's own, not a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile<'a> {
    /// Which file.
    #[serde(borrow)]
    pub path: WireStr<'a>,
    /// Where to begin, in bytes: a file that is longer than one answer is read with several requests.
    pub offset: u64,
}

/// Something to write to a file, in one call: to cgroups, for example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile<'a> {
    /// Which file.
    #[serde(borrow)]
    pub path: WireStr<'a>,
    /// What to write.
    pub content: &'a [u8],
}

/// A file to watch: one that tells of its changes by itself (`EPOLLPRI`), such as `cgroup.events` and `memory.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitFile<'a> {
    /// Which file.
    #[serde(borrow)]
    pub path: WireStr<'a>,
    /// What the host has read before. If the file says something else already, the answer comes at once.
    pub known: &'a [u8],
}

/// A signal for all that runs in a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalGroup<'a> {
    /// The cgroup's list of processes: its `cgroup.procs`.
    #[serde(borrow)]
    pub processes: WireStr<'a>,
    /// The number that Linux on this architecture gives the signal, 1 to 64.
    pub signal: u8,
}

/// A new size for a process's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Whose terminal.
    pub process: ProcessId,
    /// The size.
    pub size: WindowSize,
}

/// What the host means the guest's end to be. The guest itself always ends in a reset, the one end that every hypervisor
/// notices: a machine without firmware has nothing to switch it off with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// For good.
    PowerOff,
    /// To start again.
    Reboot,
}

/// Ends the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerOff {
    /// How.
    pub action: Action,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The frame or its body cannot be read.
    BadMessage,
    /// The two sides speak different versions.
    UnsupportedVersion,
    /// A table of the agent's is full.
    ResourceExhausted,
    /// No such process, or none any more.
    NoSuchProcess,
    /// The request makes no sense: a signal that does not exist, an id in use, a program without `Exec`.
    InvalidArgument,
    /// An operation of a program failed; `operation` and `errno` say which and why.
    OperationFailed,
    /// A system call of the agent's own failed; `errno` says why.
    System,
    /// The program to execute was not found.
    CommandNotFound,
    /// The program to execute cannot be executed.
    CommandNotExecutable,
}

/// The request was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed<'a> {
    /// What kind of failure.
    pub code: ErrorCode,
    /// Linux's error number, 0 if there is none.
    pub errno: u16,
    /// The index of the operation that failed, if one did.
    pub operation: Option<u16>,
    /// A few words for people, at most [`MAX_TEXT`](limits::MAX_TEXT) bytes.
    pub text: &'a str,
}

/// A process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its PID in the guest.
    pub pid: u32,
    /// When its `execve` had succeeded: nanoseconds of the guest's `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called `exit` with this status.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

/// A process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Which.
    pub process: ProcessId,
    /// How.
    pub status: ExitStatus,
    /// When it was reaped: nanoseconds of the guest's `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// A process that waits for its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its PID in the guest. It keeps it when it goes on.
    pub pid: u32,
}

/// What a file says, or a part of it: at most [`MAX_CONTENTS`](limits::MAX_CONTENTS) bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents<'a> {
    /// The bytes.
    pub content: &'a [u8],
    /// Whether the file goes on after them.
    pub more: bool,
}
