//! Threads that may block, for what cannot be done without: descriptors that have no way of not blocking, and bytes whose
//! connection is gone.
//!
//! Rare by design. Each thread ends by itself when its stream does.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{buffer::Buffer, descriptor::Descriptor, endpoint::OnClose};
use crate::virtio::queue::transfer::Vector;

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

/// Writes what a connection left behind, and closes the descriptor. `over` is held until then.
pub(super) fn leave_behind(descriptor: Arc<Descriptor>, mut buffer: Buffer, over: Option<Arc<OnClose>>) {
    let waiting = buffer.len();
    let spawned = spawn(move || {
        // An error means that the bytes cannot be written.
        let _ = write_rest(&descriptor, &mut buffer);
        descriptor.end_output();
        drop(descriptor);
        drop(over);
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "{waiting} bytes of a stream are lost: no thread to write them");
    }
}

fn write_rest(descriptor: &Descriptor, buffer: &mut Buffer) -> io::Result<()> {
    while !buffer.is_empty() {
        let mut vector = Vector::new();
        buffer.gather(&mut vector);
        match descriptor.write(&vector) {
            Ok(written) => buffer.consume(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLOUT)])?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
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

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("vsock-pump".into()).stack_size(STACK).spawn(work).map(drop)
}
