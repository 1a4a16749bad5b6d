//! What goes along with everything that takes long: limits, progress, and a way to stop it.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::layer::Limits;

/// Shows how far a step is.
pub trait Step: Send + Sync {
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
}

/// Shows what is being done.
pub trait Progress: Sync {
    /// Starts a step, such as `Copying blob 0123456789ab`, which has so many bytes to go through. It is over when the value is dropped.
    fn step(&self, what: &str, bytes: u64) -> Box<dyn Step>;
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Step for Silent {
    fn advance(&self, _bytes: u64) {}
}

impl Progress for Silent {
    fn step(&self, _what: &str, _bytes: u64) -> Box<dyn Step> {
        Box::new(Self)
    }
}

/// What goes along with everything that takes long.
#[derive(Clone, Copy)]
pub struct Job<'j> {
    /// How much an image may unpack to.
    pub limits: Limits,
    /// Where progress is shown.
    pub progress: &'j dyn Progress,
    /// The reading end of a pipe: everything stops with [`Error::Interrupted`](crate::Error::Interrupted) once there is something to read
    /// from it.
    pub stop: Option<BorrowedFd<'j>>,
}

impl Job<'static> {
    /// With the usual limits, nothing shown, not to be stopped.
    #[must_use]
    pub fn quiet() -> Self {
        Self { limits: Limits::default(), progress: &Silent, stop: None }
    }
}

impl<'j> Job<'j> {
    /// Whether to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| {
            let mut stop = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
            poll(&mut stop, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        })
    }

    /// Fails if it is time to stop.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_stopped() { Err(io::Error::other("interrupted")) } else { Ok(()) }
    }

    /// Reads from `source` and says so to `step`, until it is time to stop.
    pub(crate) fn watch<R: Read>(&self, source: R, step: Box<dyn Step>) -> Watched<'j, R> {
        Watched { source, step, job: *self }
    }
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("limits", &self.limits).field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// See [`Job::watch`].
pub(crate) struct Watched<'j, R> {
    source: R,
    step: Box<dyn Step>,
    job: Job<'j>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.job.check()?;
        let length = self.source.read(bytes)?;
        self.step.advance(length as u64);
        Ok(length)
    }
}
