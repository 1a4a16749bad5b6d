//! Threads that may block, for what cannot be done without: descriptors that have no way of not blocking, and bytes whose
//! connection is gone.
//!
//! Rare by design. The thread of a descriptor ends by itself when its stream does; what lost connections leave behind has one for all.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{buffer::Buffer, connection::report_loss, descriptor::Descriptor, endpoint::OnClose};
use crate::{
    seccomp::{self, Filter},
    virtio::queue::transfer::Vector,
};

const CHUNK: usize = 16 << 10;
const STACK: usize = CHUNK + (64 << 10);

/// A socket that passes on what can be read from `fd`.
pub(super) fn input(fd: OwnedFd) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    spawn(move || {
        // An error ends the stream, as the end of the file does.
        let _ = pass_input(&fd, &ours);
    })?;
    Ok(theirs)
}

fn pass_input(fd: &OwnedFd, mut socket: &UnixStream) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    loop {
        // Waits for both: a hang-up is always reported, and nothing is read for a guest that has gone.
        let mut ready =
            [PollFd::new(fd.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::empty())];
        wait(&mut ready)?;
        if ready[1].revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
        match nix::unistd::read(fd, &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => socket.write_all(&chunk[..len])?,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A socket whose bytes are written to `fd`. `over` is held until the last one was.
pub(super) fn output(fd: OwnedFd, over: Arc<OnClose>) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    spawn(move || {
        // An error closes the socket, which is how the device learns of it.
        let _ = pass_output(&fd, &ours);
        let _ = ours.shutdown(Shutdown::Both);
        drop(fd);
        drop(over);
    })?;
    Ok(theirs)
}

fn pass_output(fd: &OwnedFd, mut socket: &UnixStream) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    loop {
        let len = match socket.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &chunk[..len];
        while !rest.is_empty() {
            match nix::unistd::write(fd, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => wait(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)])?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Writes what connections left behind that are gone, and closes their descriptors: on one thread, for all of them.
///
/// The thread is there from [`start`](Self::start) on, or else from the first time that it is needed. It ends when nothing is
/// left to write and the device is gone.
#[derive(Debug, Default)]
pub(super) struct Pump(Mutex<Option<Arc<Work>>>);

/// What is to be written, on its way to the thread.
#[derive(Debug)]
struct Work {
    arrived: Mutex<Vec<Rest>>,
    /// No more will come.
    closed: AtomicBool,
    changed: EventFd,
}

#[derive(Debug)]
struct Rest {
    descriptor: Arc<Descriptor>,
    buffer: Buffer,
    /// Held until all was written.
    _over: Option<Arc<OnClose>>,
}

impl Pump {
    /// Has the thread there.
    pub(super) fn start(&self) -> io::Result<()> {
        *self.work() = Some(start()?);
        Ok(())
    }

    /// Writes the buffer to the descriptor, however long that takes, and then ends that direction. `over` is held until then.
    pub(super) fn write(&self, descriptor: Arc<Descriptor>, buffer: Buffer, over: Option<Arc<OnClose>>) {
        let waiting = buffer.len();
        let mut work = self.work();
        let work = match &*work {
            Some(work) => work,
            None => match start() {
                Ok(started) => work.insert(started),
                Err(error) => {
                    tracing::warn!(%error, "{waiting} bytes of a stream are lost: no thread to write them");
                    return;
                }
            },
        };
        work.arrived().push(Rest { descriptor, buffer, _over: over });
        work.announce();
    }

    fn work(&self) -> MutexGuard<'_, Option<Arc<Work>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Some(work) = self.work().take() {
            work.closed.store(true, Ordering::SeqCst);
            work.announce();
        }
    }
}

impl Work {
    fn arrived(&self) -> MutexGuard<'_, Vec<Rest>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        // Fails only when the counter is full, and then the descriptor is readable.
        let _ = self.changed.write(1);
    }

    fn run(&self) -> io::Result<()> {
        let mut rests = Vec::new();
        loop {
            let closed = self.closed.load(Ordering::SeqCst);
            rests.append(&mut self.arrived());
            rests.retain_mut(|rest: &mut Rest| !rest.write());
            if closed && rests.is_empty() {
                return Ok(());
            }
            let mut ready = vec![PollFd::new(self.changed.as_fd(), PollFlags::POLLIN)];
            ready.extend(rests.iter().map(|rest| PollFd::new(rest.descriptor.as_fd(), PollFlags::POLLOUT)));
            wait(&mut ready)?;
            // Nothing to read means that only descriptors are ready.
            let _ = self.changed.read();
        }
    }
}

impl Rest {
    /// Writes what there is room for. `true` when it is done: all was written, or cannot be.
    fn write(&mut self) -> bool {
        while !self.buffer.is_empty() {
            let mut vector = Vector::new();
            self.buffer.gather(&mut vector);
            match self.descriptor.write(&vector) {
                Ok(written) => self.buffer.consume(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    report_loss(&error);
                    break;
                }
            }
        }
        self.descriptor.end_output();
        true
    }
}

/// Starts the thread of a pump.
fn start() -> io::Result<Arc<Work>> {
    let changed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let work = Arc::new(Work { arrived: Mutex::default(), closed: AtomicBool::new(false), changed });
    let shared = Arc::clone(&work);
    spawn(move || {
        if let Err(error) = shared.run() {
            tracing::warn!(%error, "what streams left behind is lost");
        }
    })?;
    Ok(work)
}

fn wait(ready: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(ready, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Starts a thread that can do nothing but pump, whatever others may do: returns once it is restricted.
fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let filter = Filter::compile(&seccomp::PUMP, seccomp::Mode::Enforce).map_err(io::Error::other)?;
    let (sender, installed) = mpsc::sync_channel(1);
    thread::Builder::new().name("vsock-pump".into()).stack_size(STACK).spawn(move || {
        let result = filter.install();
        let good = result.is_ok();
        // It is waited for.
        let _ = sender.send(result);
        if good {
            work();
        }
    })?;
    installed.recv().map_err(io::Error::other)?.map_err(io::Error::other)
}
