//! The sandbox process: VMM and supervisor of one VM.
//!
//! Its main thread waits for five things at once, and for nothing else: the agent, the end of the VM, signals, the
//! lifeline to its caller, and streams that are done. There is no timer: whatever happens, one of them tells.

mod boot;
mod supervisor;

use std::{
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
};

use crate::{
    Error,
    error::{Kind, host},
    lifeline::{self, Report},
    spec::Spec,
    timeline::{Mark, Timeline},
};

/// The descriptor at which a sandbox process finds its lifeline.
pub const LIFELINE_FD: i32 = 3;

/// Runs a sandbox process to its end; its exit status is the command's, or that of the failure.
///
/// Call it from `main` of the hidden verb, before any thread is started.
#[must_use]
pub fn main() -> ExitCode {
    let mut timeline = Timeline::default();
    timeline.reached(Mark::SandboxStarted);
    // SAFETY: the caller of this process put the lifeline there, and nothing else in this process has touched it. If it is not
    // open, or not a socket, the first read fails.
    let mut lifeline = UnixStream::from(unsafe { OwnedFd::from_raw_fd(LIFELINE_FD) });
    let spec: Spec = match lifeline::receive(&mut lifeline) {
        Ok(spec) => spec,
        Err(error) => {
            tracing::error!(%error, "this is a sandbox process of mote's own; it is not started by hand");
            return ExitCode::from(125);
        }
    };
    let result = prepare().and_then(|()| supervisor::run(&spec, &lifeline, &mut timeline));
    let status = match &result {
        Ok(status) => *status,
        Err(error) => error.exit_status(),
    };
    let report = Report { result: result.map_err(|error| *error.0), timeline };
    close_standard_streams();
    // A caller that is gone does not need the report.
    let _ = lifeline::send(&mut lifeline, &report);
    ExitCode::from(status)
}

/// Lets whoever reads our output see its end now, and not when the host's kernel has taken the VM apart: the caller ends with the
/// report. Whatever is printed from here on goes nowhere.
fn close_standard_streams() {
    let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    // A stream that stays open is seen to end a little later.
    let _ = nix::unistd::dup2_stdin(&null);
    let _ = nix::unistd::dup2_stdout(&null);
    let _ = nix::unistd::dup2_stderr(&null);
}

/// Leaves the caller's session: the terminal's Ctrl-C is the caller's business, which passes it on once.
fn prepare() -> Result<(), Error> {
    match nix::unistd::setsid() {
        Ok(_) | Err(nix::errno::Errno::EPERM) => {}
        Err(error) => return Err(host("leave the session")(error.into())),
    }
    // SAFETY: the lifeline is open; marking it keeps it out of QEMU.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(LIFELINE_FD) };
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map_err(|error| Error::because(Kind::Host, "cannot keep the lifeline", &error))?;
    Ok(())
}
