//! The standard streams of the guest's processes: which ports they have, and when the last byte was passed on.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use mote_protocol::{FIRST_STREAM_PORT, Stdio, WindowSize};
use mote_vmm::virtio::vsock::{Endpoint, Ports};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{Error, error::errno};

/// Ports that a process has at most.
const PORTS: u32 = 3;
/// After so many processes, ports are used again: those of the first ones have long been free.
const ROUNDS: u32 = 1 << 24;

/// The host's ends of a process's standard streams.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// The streams are one terminal, which is this large.
    pub(super) terminal: Option<WindowSize>,
}

/// The same, ready for the guest's connections.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    stdin: Option<Endpoint>,
    stdout: Option<Endpoint>,
    stderr: Option<Endpoint>,
    /// As in [`Ends`].
    pub(super) terminal: Option<WindowSize>,
}

impl Ends {
    /// Makes them ready, with new descriptors and threads as it takes.
    pub(super) fn ready(self) -> Endpoints {
        Endpoints {
            stdin: self.stdin.map(Endpoint::input),
            stdout: self.stdout.map(Endpoint::output),
            stderr: self.stderr.map(Endpoint::output),
            terminal: self.terminal,
        }
    }

    /// The same for streams that never block, which takes nothing: they come while the guest runs.
    pub(super) fn ready_as_they_are(self) -> Endpoints {
        Endpoints {
            stdin: self.stdin.map(Endpoint::input_as_it_is),
            stdout: self.stdout.map(Endpoint::output_as_it_is),
            stderr: self.stderr.map(Endpoint::output_as_it_is),
            terminal: self.terminal,
        }
    }
}

/// Hands out ports, and learns when outputs are over.
pub(super) struct Streams {
    ports: Ports,
    /// Readable when an output was closed.
    closed: Arc<EventFd>,
    next: u32,
}

/// The streams of one process, from before the guest connects to them until the last one is over.
pub(super) struct Open {
    outputs: Arc<AtomicU8>,
    ports: [Option<u32>; PORTS as usize],
}

impl Streams {
    pub(super) fn new(ports: Ports) -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let closed = EventFd::from_flags(flags).map_err(errno("create an event descriptor"))?;
        Ok(Self { ports, closed: Arc::new(closed), next: 0 })
    }

    /// Waits for the guest to connect the streams of a process.
    pub(super) fn open(&mut self, endpoints: Endpoints) -> (Stdio, Open) {
        let first = FIRST_STREAM_PORT + (self.next % ROUNDS) * PORTS;
        self.next = self.next.wrapping_add(1);
        let outputs = Arc::new(AtomicU8::new(0));
        let wait_at = |port: u32, endpoint: Option<Endpoint>| {
            self.ports.accept_once(port, endpoint?);
            Some(port)
        };
        let stdin = wait_at(first, endpoints.stdin);
        let stdout = wait_at(first + 1, endpoints.stdout.map(|end| counted(end, &outputs, &self.closed)));
        let stderr = wait_at(first + 2, endpoints.stderr.map(|end| counted(end, &outputs, &self.closed)));
        let stdio = Stdio { stdin, stdout, stderr, terminal: endpoints.terminal };
        (stdio, Open { outputs, ports: [stdin, stdout, stderr] })
    }

    /// The guest will not connect what it has not connected yet.
    pub(super) fn withdraw(&self, open: &Open) {
        for port in open.ports.iter().flatten() {
            self.ports.withdraw(*port);
        }
    }

    /// Takes note that outputs were closed.
    pub(super) fn heard(&self) {
        // Fails only if there was nothing to be heard.
        let _ = self.closed.read();
    }
}

impl AsFd for Streams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.closed.as_fd()
    }
}

impl Open {
    /// Whether all output was passed on, or cannot be.
    pub(super) fn is_over(&self) -> bool {
        self.outputs.load(Ordering::Acquire) == 0
    }
}

/// Counts an endpoint for guest output as open until its last byte was passed on.
fn counted(endpoint: Endpoint, outputs: &Arc<AtomicU8>, closed: &Arc<EventFd>) -> Endpoint {
    outputs.fetch_add(1, Ordering::AcqRel);
    let (outputs, closed) = (Arc::clone(outputs), Arc::clone(closed));
    endpoint.on_close(move || {
        outputs.fetch_sub(1, Ordering::AcqRel);
        // Fails only when the counter is full, and then the descriptor is readable.
        let _ = closed.write(1);
    })
}
