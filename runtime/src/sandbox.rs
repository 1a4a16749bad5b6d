//! The sandbox process: VMM and supervisor of one VM.
//!
//! Its main thread waits for descriptors at once, and for nothing else: the agent, the end of the VM, signals, the lifeline to
//! its caller, streams that are done, and the commands that come over a container's control socket. There is no timer: whatever
//! happens, one of them tells.
//!
//! To the outside it *is* the command, or the container: signals for it are passed on, it ends after the last byte of output,
//! with the status of the guest's first process.

mod boot;
mod clients;
mod events;
mod namespaces;
mod oom;
mod processes;
mod ready;
mod requests;
mod streams;
mod supervisor;

use std::{
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::ExitCode,
    sync::PoisonError,
};

use mote_protocol::limits;
use mote_vmm::virtio::vsock::Endpoint;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::Signal,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::oom::killed;
use self::{
    oom::Want,
    streams::Ends,
    supervisor::{Outside, Supervisor},
};
use crate::{
    Error,
    error::host,
    heap,
    lifeline::{self, News, Order, Report},
    signals::Signals,
    spec::Terminal,
    terminal::{self, Restore},
    timeline::{Mark, Timeline},
};

/// The descriptor at which a sandbox process finds its lifeline.
pub const LIFELINE_FD: RawFd = 3;
/// Where a container's sandbox process finds its control socket, bound and listening.
pub(crate) const CONTROL_FD: RawFd = 4;
/// Where a container's sandbox process finds the file that it writes its end to.
pub(crate) const ENDED_FD: RawFd = 5;

/// How a container's sandbox ended; what is left of it in the state folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// The status that the sandbox process ended with.
    pub(crate) status: u8,
    /// What went wrong, if it was not the program's own end.
    pub(crate) message: Option<String>,
}

/// Runs a sandbox process to its end; its exit status is the command's, or that of the failure.
///
/// Call it from `main` of the hidden verb, before any thread is started.
#[must_use]
pub fn main() -> ExitCode {
    let mut timeline = Timeline::default();
    timeline.reached(Mark::SandboxStarted);
    // SAFETY: the caller of this process put the lifeline there, and nothing else in this process has touched it. If it is not
    // open, or not a socket, the first read fails.
    let lifeline = UnixStream::from(unsafe { OwnedFd::from_raw_fd(LIFELINE_FD) });
    let order: Order = match lifeline::receive(&mut &lifeline) {
        Ok(order) => order,
        Err(error) => {
            tracing::error!(%error, "this is a sandbox process of mote's own; it is not started by hand");
            return ExitCode::from(125);
        }
    };
    // Opened now, because no file is once the guest runs.
    let null = File::options().read(true).write(true).open("/dev/null").ok();
    // SAFETY: with such an order, the caller has put these there, and nothing else has touched them.
    let inherited = order.container.then(|| unsafe {
        (UnixListener::from(OwnedFd::from_raw_fd(CONTROL_FD)), File::from(OwnedFd::from_raw_fd(ENDED_FD)))
    });
    let (control, ended) = inherited.unzip();
    let result = run(&order, &lifeline, control, null.as_ref(), &mut timeline);
    let out_of_memory = matches!(result, Ok((_, Want::OfMemory)));
    let result = result.map(|(status, _)| status);
    let status = match &result {
        Ok(status) => *status,
        Err(error) => error.exit_status(),
    };
    if let Err(error) = &result
        && order.container
    {
        tracing::error!("{error}");
        error.0.kernel_log.iter().for_each(|line| tracing::error!("guest: {line}"));
    }
    if let Some(mut file) = ended {
        let ended = Ended { status, message: result.as_ref().err().map(ToString::to_string) };
        let written = serde_json::to_vec(&ended).map_err(Into::into).and_then(|text| file.write_all(&text));
        if let Err(error) = written {
            tracing::warn!(%error, "how the container ended could not be noted");
        }
    }
    let report = Report { result: result.map_err(|error| *error.0), timeline };
    let_go_of_streams(null.as_ref());
    // A caller that is gone does not need the report.
    let _ = lifeline::send(&mut &lifeline, &News::Report(report));
    if let Some(limit) = order.host_memory.filter(|_| out_of_memory) {
        oom::take_all(limit);
    }
    ExitCode::from(status)
}

/// Lets whoever reads our output see its end now, and not when the host's kernel has taken the VM apart: the caller ends with the
/// report. Whatever is printed from here on goes to `null`.
fn let_go_of_streams(null: Option<&File>) {
    let Some(null) = null else { return };
    // A stream that stays open is seen to end a little later.
    let _ = nix::unistd::dup2_stdin(null);
    let _ = nix::unistd::dup2_stdout(null);
    let _ = nix::unistd::dup2_stderr(null);
}

fn run(
    order: &Order,
    mut lifeline: &UnixStream,
    control: Option<UnixListener>,
    null: Option<&File>,
    timeline: &mut Timeline,
) -> Result<(u8, Want), Error> {
    heap::share();
    // Signals first: every thread that is started later inherits that they are blocked.
    let signals = Signals::take(&[Signal::SIGWINCH])?;
    keep_to_ourselves();
    leave_session()?;
    namespaces::enter(&order.network)?;
    let stdin = std::io::stdin();
    let restore = match order.terminal {
        Terminal::Callers => Some(Restore::later(stdin.as_fd())?),
        Terminal::Own => {
            terminal::control(stdin.as_fd())?;
            None
        }
        Terminal::None => None,
    };
    let (ends, terminal) = streams(order, null)?;
    // No file is opened after the start.
    let seed = seed()?;
    // A caller that is gone is noticed soon enough.
    let _ = lifeline::send(&mut lifeline, &News::Prepared);
    let (booted, endpoints) = boot::boot(order, ends, control, lifeline)?;
    heap::trim();
    restore.as_ref().map_or(Ok(()), Restore::set_raw)?;
    let outside = Outside { order, lifeline, endpoints, terminal, seed, signals: &signals };
    let mut supervisor = Supervisor::new(booted, outside, timeline);
    let result = supervisor.run().map(|status| (status, supervisor.want));
    supervisor.vm.stop();
    let milestones = supervisor.milestones.lock().unwrap_or_else(PoisonError::into_inner);
    supervisor.timeline.marks.extend_from_slice(&milestones.marks);
    drop(milestones);
    // Stopped, but not taken apart: that waits for grace periods of the host's kernel, tens of milliseconds on many hosts. The end
    // of this process does the same, after everybody who waits has got an answer.
    std::mem::forget(supervisor);
    result
}

/// Keeps what the caller gave out of QEMU.
fn keep_to_ourselves() {
    for fd in [LIFELINE_FD, CONTROL_FD, ENDED_FD] {
        // SAFETY: marking a descriptor touches no memory, and one that is not open is refused, which is as good.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

/// Leaves the caller's session: the terminal's Ctrl-C is the caller's business, which passes it on once.
fn leave_session() -> Result<(), Error> {
    match nix::unistd::setsid() {
        Ok(_) | Err(nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(host("leave the session")(error.into())),
    }
}

/// The streams of the guest's first process: our own. Also returns the terminal behind them, if there is one.
fn streams(order: &Order, null: Option<&File>) -> Result<(Ends, Option<OwnedFd>), Error> {
    let keep = |fd: BorrowedFd<'_>| Endpoint::reopen(fd).map_err(host("keep a standard stream"));
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut ends =
        Ends { stdin: Some(keep(stdin.as_fd())?), stdout: Some(keep(stdout.as_fd())?), ..Ends::default() };
    let mut terminal = None;
    if order.terminal == Terminal::None {
        ends.stderr = Some(keep(stderr.as_fd())?);
    } else {
        let seen = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let found = seen.into_iter().find_map(|fd| Some((fd, terminal::size_of(fd)?)));
        ends.terminal = Some(found.map_or(terminal::DEFAULT_SIZE, |(_, size)| size));
        terminal = found.map(|(fd, _)| keep(fd)).transpose()?;
    }
    if order.container {
        // Whoever reads from a container's output sees its end when the container closes it, and not when we end.
        let_go_of_streams(null);
    }
    Ok((ends, terminal))
}

/// What the guest's random numbers begin with.
fn seed() -> Result<[u8; limits::SEED_LEN], Error> {
    use std::io::Read;
    let mut seed = [0; limits::SEED_LEN];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .map_err(host("read /dev/urandom"))?;
    Ok(seed)
}
