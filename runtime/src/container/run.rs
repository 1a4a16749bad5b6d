//! `run`: `create` and `start` in one; in the foreground, until the end and with `delete`.

use std::path::Path;

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    create::{CreateOptions, create_child},
    verbs,
};
use crate::{
    Error,
    error::{errno, host},
    signals::Signals,
    spawn::Child,
    terminal::Restore,
};

/// Runs a container. In the foreground returns the status that it ended with, after it was removed unless `keep`; else 0, once it
/// runs.
///
/// # Errors
/// Those of [`create`](super::create::create) and [`start`](verbs::start); nothing is left of a container that did not start.
pub fn run(options: &CreateOptions<'_>, keep: bool) -> Result<u8, Error> {
    let signals =
        if options.foreground { Some(Signals::take(&[Signal::SIGWINCH, Signal::SIGCHLD])?) } else { None };
    let stdin = std::io::stdin();
    let restore = match options.foreground {
        true => Restore::later(std::os::fd::AsFd::as_fd(&stdin)).ok(),
        false => None,
    };
    let mut created = create_child(options)?;
    let remove = |root: &Path| verbs::delete(root, options.id, true);
    if let Err(error) = verbs::start(options.root, options.id) {
        created.child.kill();
        let _ = created.child.wait();
        remove(options.root)?;
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    let status = attend(&mut created.child, &signals);
    drop(restore);
    if !keep {
        remove(options.root)?;
    }
    status
}

/// Passes signals on until the sandbox process has ended.
fn attend(child: &mut Child, signals: &Signals) -> Result<u8, Error> {
    use std::os::{fd::AsFd, unix::process::ExitStatusExt};
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    loop {
        if let Some(status) = child.try_wait().map_err(host("wait for the sandbox process"))? {
            let code = status.code().or_else(|| Some(128 + status.signal()?));
            return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX));
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(errno("wait for the sandbox process")(error)),
        }
        while let Some(signal) = signals.next() {
            if signal != Signal::SIGCHLD {
                // The child has not been waited for, so the process id is its own.
                let _ = pid.map(|pid| kill(pid, signal));
            }
        }
    }
}
