//! The host's side of streams: what a guest's connection is joined with, and which ports wait for one.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::descriptor::{self, Descriptor};

/// The host's end of one stream.
///
/// Made ready when it is created, while files may still be opened and threads started. If that fails, the guest's connection is
/// refused. Descriptors may be shared with other processes: nothing about them is changed that others could notice. A one-way
/// endpoint tells the guest that the other direction is shut down.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) direction: Direction,
    pub(super) descriptor: io::Result<Descriptor>,
    pub(super) over: Arc<OnClose>,
}

/// Where bytes go, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Input,
    Output,
    Both,
}

impl Endpoint {
    /// Another descriptor for what `fd` refers to, which can be read and written without blocking where there is a way to have that.
    /// Needs `/proc`: for those who make endpoints when they can no longer open files.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn reopen(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        descriptor::reopen(fd)
    }

    /// Whether reading from `fd` or writing to it may block, so that an endpoint of it takes opening it once more, or a thread.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn may_block(fd: BorrowedFd<'_>) -> io::Result<bool> {
        descriptor::may_block(fd)
    }

    /// What can be read from `fd` goes to the guest; its end shuts the stream down for sending.
    #[must_use]
    pub fn input(fd: OwnedFd) -> Self {
        let over = Arc::default();
        Self { direction: Direction::Input, descriptor: Descriptor::input(fd), over }
    }

    /// What the guest sends is written to `fd`, which is closed after the last byte.
    #[must_use]
    pub fn output(fd: OwnedFd) -> Self {
        let over = Arc::default();
        Self { direction: Direction::Output, descriptor: Descriptor::output(fd, &over), over }
    }

    /// As [`input`](Self::input), where files can no longer be opened and threads no longer be started: of what [may
    /// block](Self::may_block) the guest gets nothing.
    #[must_use]
    pub fn input_as_it_is(fd: OwnedFd) -> Self {
        Self { direction: Direction::Input, descriptor: Descriptor::as_it_is(fd), over: Arc::default() }
    }

    /// As [`output`](Self::output), with the same restriction.
    #[must_use]
    pub fn output_as_it_is(fd: OwnedFd) -> Self {
        Self { direction: Direction::Output, descriptor: Descriptor::as_it_is(fd), over: Arc::default() }
    }

    /// Both directions. The socket is the endpoint's alone: where a direction ends, it is shut down.
    #[must_use]
    pub fn socket(socket: UnixStream) -> Self {
        let over = Arc::default();
        Self { direction: Direction::Both, descriptor: Ok(Descriptor::socket(socket)), over }
    }

    /// Has `f` called exactly once, when the stream is completely over: both directions are done or were reset, and all
    /// bytes that the guest sent were written, or cannot be. An endpoint that never gets a connection is over when it is
    /// withdrawn, or when the device goes. `f` runs on whichever thread finds out, and must neither block nor panic.
    #[must_use]
    pub fn on_close(self, f: impl FnOnce() + Send + 'static) -> Self {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(f));
        self
    }
}

/// Calls a function when the last one who holds it lets go: all who still have bytes to pass on hold it.
#[derive(Default)]
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
