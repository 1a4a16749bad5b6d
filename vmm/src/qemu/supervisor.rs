//! The thread that starts QEMU and stays with it until its end: it reads what QEMU says, kills it when asked, and reaps it.

use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
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
use crate::{Error, Exit, KernelLog, Milestone, Milestones, seccomp::Filter};

/// What the monitor is told: greeting, and go. Answered once the machine is complete.
const COMMANDS: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"cont\"}\n";

pub(super) struct Supervisor {
    pub(super) program: PathBuf,
    pub(super) streams: Streams,
    pub(super) request: Arc<Request>,
    pub(super) log: KernelLog,
    pub(super) milestones: Milestones,
    /// What this thread may do once QEMU is there.
    pub(super) filter: Filter,
    /// Tells that the guest may run.
    pub(super) going: mpsc::Receiver<()>,
    /// Is told twice that all is well, or else why not: QEMU is there and this thread restricted; the guest runs.
    pub(super) started: mpsc::Sender<Result<(), Error>>,
    /// Where QEMU takes commands.
    pub(super) monitor: UnixStream,
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
        let pidfd = match process::pidfd(&child) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Both fail only if it has been reaped.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Host("watch QEMU", error));
            }
        };
        let attended = self.filter.install().map_err(Error::from).and_then(|()| {
            self.let_go();
            self.attend(&pidfd).map_err(|error| Error::Host("supervise QEMU", error))
        });
        if attended.is_err() {
            // Fails only if it has been reaped.
            let _ = process::kill(&pidfd);
        }
        let status = child.wait().map_err(|error| Error::Host("wait for QEMU", error))?;
        let Attended { announced, killed } = attended?;
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

    /// Has QEMU run the guest, as soon as the caller says so.
    fn let_go(&mut self) {
        // Nobody listens if the caller is gone.
        let _ = self.started.send(Ok(()));
        if self.going.recv().is_ok() {
            // Fails only if QEMU is gone, which is noticed.
            let _ = self.monitor.write_all(COMMANDS);
        }
    }

    /// Serves QEMU until it has ended, and leaves it to be reaped.
    fn attend(&mut self, pidfd: &OwnedFd) -> io::Result<Attended> {
        let mut attended = Attended { announced: false, killed: false };
        loop {
            let request = (!attended.killed).then_some(self.request.as_ref());
            let ready = wait(pidfd, request, &self.streams)?;
            for event in ready {
                match event {
                    Event::Said(stream) => self.streams.read(stream),
                    Event::KillRequest => {
                        process::kill(pidfd)?;
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
