//! The host's side of streams: what a guest's connection is joined with, and which ports wait for one.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The host's end of one stream.
///
/// Descriptors may be shared with other processes: nothing about them is changed that others could notice. A one-way
/// endpoint tells the guest that the other direction is shut down.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) kind: Kind,
    pub(super) over: Arc<OnClose>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Input(OwnedFd),
    Output(OwnedFd),
    Socket(OwnedFd),
}

impl Endpoint {
    /// What can be read from `fd` goes to the guest; its end shuts the stream down for sending.
    #[must_use]
    pub fn input(fd: OwnedFd) -> Self {
        Self::new(Kind::Input(fd))
    }

    /// What the guest sends is written to `fd`, which is closed after the last byte.
    #[must_use]
    pub fn output(fd: OwnedFd) -> Self {
        Self::new(Kind::Output(fd))
    }

    /// Both directions. The socket is the endpoint's alone: where a direction ends, it is shut down.
    #[must_use]
    pub fn socket(socket: UnixStream) -> Self {
        Self::new(Kind::Socket(socket.into()))
    }

    /// Has `f` called exactly once, when the stream is completely over: both directions are done or were reset, and all
    /// bytes that the guest sent were written, or cannot be. An endpoint that never gets a connection is over when it is
    /// withdrawn, or when the device goes. `f` runs on whichever thread finds out, and must neither block nor panic.
    #[must_use]
    pub fn on_close(mut self, f: impl FnOnce() + Send + 'static) -> Self {
        self.over = Arc::new(OnClose(Mutex::new(Some(Box::new(f)))));
        self
    }

    fn new(kind: Kind) -> Self {
        Self { kind, over: Arc::new(OnClose(Mutex::new(None))) }
    }
}

/// Calls a function when the last one who holds it lets go: all who still have bytes to pass on hold it.
pub(super) struct OnClose(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Drop for OnClose {
    fn drop(&mut self) {
        if let Some(f) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            f();
        }
    }
}

impl fmt::Debug for OnClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnClose")
    }
}

/// The ports of the host that wait for the guest to connect. Clones are the same ports.
#[derive(Debug, Clone)]
pub struct Ports {
    /// None once the device is gone.
    waiting: Arc<Mutex<Option<Waiting>>>,
}

type Waiting = HashMap<u32, VecDeque<Endpoint>>;

impl Ports {
    pub(super) fn new() -> Self {
        Self { waiting: Arc::new(Mutex::new(Some(HashMap::new()))) }
    }

    /// Joins the next connection of the guest's to `port` of the host (context identifier 2) with `endpoint`. Every call
    /// serves one connection, in the order of the calls. Connections to a port that nobody waits at are refused.
    pub fn accept_once(&self, port: u32, endpoint: Endpoint) {
        if let Some(waiting) = self.waiting().as_mut() {
            waiting.entry(port).or_default().push_back(endpoint);
        }
    }

    /// No longer waits for connections to `port`. Those that were made already go on.
    pub fn withdraw(&self, port: u32) {
        // Not dropped while locked: what an endpoint calls when it is over may come back here.
        let withdrawn = self.waiting().as_mut().and_then(|waiting| waiting.remove(&port));
        drop(withdrawn);
    }

    pub(super) fn take(&self, port: u32) -> Option<Endpoint> {
        let mut guard = self.waiting();
        let waiting = guard.as_mut()?;
        let queue = waiting.get_mut(&port)?;
        let endpoint = queue.pop_front();
        if queue.is_empty() {
            waiting.remove(&port);
        }
        endpoint
    }

    /// Nobody will ever connect any more.
    pub(super) fn close(&self) {
        let withdrawn = self.waiting().take();
        drop(withdrawn);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
