//! The signals that mean the command, not `mote`.

use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};

use crate::{Error, error::errno};

/// Those that reach the command.
pub(crate) const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Signals taken from their usual delivery and read from a descriptor instead.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Takes the forwarded signals and `more` for the whole process: call it before any thread is started.
    pub(crate) fn take(more: &[Signal]) -> Result<Self, Error> {
        let mask = mask(more);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).map_err(errno("block signals"))?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(errno("watch for signals"))?;
        Ok(Self(fd))
    }

    /// The next signal that has arrived.
    pub(crate) fn next(&self) -> Option<Signal> {
        let info = self.0.read_signal().ok()??;
        i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
    }
}

impl std::os::fd::AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn mask(more: &[Signal]) -> SigSet {
    FORWARDED.iter().chain(more).copied().collect()
}
