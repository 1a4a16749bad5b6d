//! The thread that starts QEMU and stays with it until its end: it reads what QEMU says, kills it when asked, and reaps it.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::Child,
    sync::{Arc, mpsc},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::SigSet,
};

use super::{
    command::Machine,
    ending::{Ending, Request},
    process,
    streams::{Stream, Streams},
};
use crate::{Error, Exit, KernelLog, Milestone, Milestones};

pub(super) struct Supervisor {
    pub(super) program: PathBuf,
    pub(super) streams: Streams,
    pub(super) request: Arc<Request>,
    pub(super) log: KernelLog,
    pub(super) milestones: Milestones,
    /// Is told whether the VM started.
    pub(super) started: mpsc::Sender<Result<(), Error>>,
    /// Closed when all is done.
    pub(super) _end: UnixStream,
}

impl Supervisor {
    /// Returns how the VM ended.
    pub(super) fn run(mut self, machine: Machine) -> Exit {
        // Signals are for the caller's own threads.
        if let Err(error) = SigSet::all().thread_block() {
            tracing::warn!(%error, "signals cannot be blocked");
        }
        self.supervise(machine).unwrap_or_else(|error| {
            let exit = Exit::Failed(error.to_string());
            // Nobody listens if the caller is gone, or was told before that the VM started.
            let _ = self.started.send(Err(error));
            exit
        })
    }

    fn supervise(&mut self, machine: Machine) -> Result<Exit, Error> {
        let memory = machine.memory;
        let mut child = process::spawn(&self.program, machine)?;
        self.milestones.reached(Milestone::VmCreated);
        let attended = self.attend(&mut child);
        if attended.is_err() {
            // Fails only if it has been reaped.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| Error::Host("wait for QEMU", error))?;
        let Attended { announced, killed } =
            attended.map_err(|error| Error::Host("supervise QEMU", error))?;
        self.streams.drain();
        let ending = Ending {
            status,
            killed,
            halted: self.request.has_halted(),
            last_words: self.log.last_words(),
            complaint: self.streams.last_complaint(),
        };
        // A guest may end before QEMU answers: it halted (nobody else can have asked for the end yet), or it was reset (which
        // is the only way for QEMU to succeed).
        if !announced && (killed || status.success()) {
            self.announce();
        } else if !announced {
            return Err(refusal(ending.reason(), memory));
        }
        Ok(ending.exit())
    }

    /// Says that the VM runs.
    fn announce(&self) {
        self.milestones.reached(Milestone::FirstEntry);
        // Nobody listens if the caller is gone.
        let _ = self.started.send(Ok(()));
    }

    /// Serves `child` until it has ended, and leaves it to be reaped.
    fn attend(&mut self, child: &mut Child) -> io::Result<Attended> {
        let pidfd = process::pidfd(child)?;
        let mut attended = Attended { announced: false, killed: false };
        loop {
            let request = (!attended.killed).then_some(self.request.as_ref());
            let ready = wait(&pidfd, request, &self.streams)?;
            for event in ready {
                match event {
                    Event::Said(stream) => self.streams.read(stream),
                    Event::KillRequest => {
                        child.kill()?;
                        attended.killed = true;
                    }
                    // The last, so that everything else of this round has been looked at.
                    Event::Ended => return Ok(attended),
                }
            }
            if self.streams.answered() && !attended.announced {
                attended.announced = true;
                self.announce();
            }
        }
    }
}

struct Attended {
    /// The caller was told that the VM runs.
    announced: bool,
    /// It was asked to end.
    killed: bool,
}

enum Event {
    Said(Stream),
    KillRequest,
    Ended,
}

fn wait(pidfd: &OwnedFd, request: Option<&Request>, streams: &Streams) -> io::Result<Vec<Event>> {
    let mut sources: Vec<(Event, BorrowedFd<'_>)> = Vec::new();
    sources.extend(streams.open().map(|(stream, fd)| (Event::Said(stream), fd)));
    sources.extend(request.map(|request| (Event::KillRequest, request.as_fd())));
    sources.push((Event::Ended, pidfd.as_fd()));
    let mut polled: Vec<_> = sources.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let ready = |polled: &PollFd<'_>| polled.any().unwrap_or(true);
    Ok(sources
        .into_iter()
        .zip(&polled)
        .filter(|(_, polled)| ready(polled))
        .map(|((event, _), _)| event)
        .collect())
}

/// Why QEMU did not start the VM.
fn refusal(reason: String, memory: u64) -> Error {
    if reason.contains("Cannot allocate memory") {
        Error::HostMemory(memory, Errno::ENOMEM.into())
    } else {
        Error::Qemu(reason)
    }
}
