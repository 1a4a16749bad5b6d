//! The caller's side of a sandbox: starts its process, forwards signals, keeps the terminal, waits.

use std::{
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitStatus},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Error,
    error::{Kind, errno, host},
    lifeline::{self, Report},
    sandbox::LIFELINE_FD,
    signals::Signals,
    spec::{Spec, Streams},
    terminal::Restore,
    timeline::Timeline,
};

/// How a sandbox ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command's status, or why there is none.
    pub result: Result<u8, Error>,
    /// What was reached when, as far as it came.
    pub timeline: Timeline,
    /// The sandbox process, if it was not waited for: it has said all it had to say and has closed its streams, and the host's
    /// kernel takes its VM apart, which can be tens of milliseconds of waiting for grace periods. A caller that ends at once can
    /// leave that to the kernel; one that lives on has to [`wait`](Child::wait) for it at some time.
    pub leaving: Option<Child>,
}

/// Runs `spec` in a sandbox process of its own: this program, called with `arguments`, which must lead it to
/// [`sandbox_main`](crate::sandbox_main). Standard streams are the caller's. Returns when the command has ended.
///
/// Call it from a program without other threads: it takes signals for the whole process.
#[must_use]
pub fn run(spec: &Spec, arguments: &[std::ffi::OsString], mut timeline: Timeline) -> Outcome {
    let mut leaving = None;
    let result = run_inner(spec, arguments, &mut timeline, &mut leaving);
    Outcome { result, timeline, leaving }
}

fn run_inner(
    spec: &Spec,
    arguments: &[std::ffi::OsString],
    timeline: &mut Timeline,
    leaving: &mut Option<Child>,
) -> Result<u8, Error> {
    let signals = Signals::take(&[Signal::SIGWINCH])?;
    let stdin = std::io::stdin();
    let terminal = match spec.process.streams {
        Streams::Terminal => Some(Restore::later(stdin.as_fd())?),
        Streams::Pipes => None,
    };
    let (mut lifeline, theirs) = UnixStream::pair().map_err(host("create a socket pair"))?;
    let mut child = spawn(arguments, theirs)?;
    // A sandbox process that dies at once is told by its status, not by this.
    let _ = lifeline::send(&mut lifeline, spec);
    let report = supervise(&mut child, &mut lifeline, &signals)?;
    drop(terminal);
    match report {
        Some(report) => {
            *leaving = Some(child);
            timeline.marks.extend(report.timeline.marks);
            report.result.map_err(|failure| Error(Box::new(failure)))
        }
        None => Err(died(child.wait().map_err(host("wait for the sandbox process"))?)),
    }
}

fn died(status: ExitStatus) -> Error {
    match status.signal() {
        Some(signal) => {
            let name = Signal::try_from(signal).map_or("an unknown signal", Signal::as_str);
            Error::new(Kind::Interrupted(signal), format!("the sandbox process was ended by {name}"))
        }
        None => Error::new(Kind::Host, format!("the sandbox process ended without a word ({status})")),
    }
}

fn spawn(arguments: &[std::ffi::OsString], lifeline: UnixStream) -> Result<Child, Error> {
    let fd = OwnedFd::from(lifeline);
    let raw = fd.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("mote-sandbox").args(arguments);
    // SAFETY: the closure runs between fork and exec in a process with one thread, and calls only `dup2` and `fcntl`, which are
    // async-signal-safe. `raw` is open: the parent keeps `fd` until after the spawn.
    unsafe {
        command.pre_exec(move || {
            if raw == LIFELINE_FD {
                let flags = nix::libc::fcntl(raw, nix::libc::F_SETFD, 0);
                return if flags < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
            }
            let result = nix::libc::dup2(raw, LIFELINE_FD);
            if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let child = command.spawn().map_err(host("start the sandbox process"))?;
    drop(fd);
    Ok(child)
}

/// Forwards signals until the sandbox has sent its report, or has died without one.
fn supervise(
    child: &mut Child,
    lifeline: &mut UnixStream,
    signals: &Signals,
) -> Result<Option<Report>, Error> {
    let pid = Pid::from_raw(
        i32::try_from(child.id()).map_err(|_| Error::new(Kind::Host, "impossible process id"))?,
    );
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(lifeline.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(errno("wait for the sandbox process")(error)),
        }
        let [_, spoke] = fds.map(|fd| fd.any().unwrap_or(false));
        while let Some(signal) = signals.next() {
            // The child has not been waited for, so the process id is its own.
            let _ = kill(pid, signal);
        }
        if spoke {
            return Ok(lifeline::receive(lifeline).ok());
        }
    }
}
