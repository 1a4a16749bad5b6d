//! The vhost-user transport: carries a device to another process, QEMU, which plays the rest of the virtual machine.
//!
//! **Owns** one thread a device, which answers the frontend's requests, waits for the queues' notifications and for the
//! device's own descriptor, and lets the device work. Nothing is shared with another thread.
//!
//! **Callers:** [`qemu`](crate::qemu), which hands the other end of the socket to QEMU. The two ends are a socket pair: the
//! connection has no name that another process could find, and no file that a killed process could leave behind.
//!
//! # What can go wrong
//!
//! The rings are the guest's, and hostile: see [`VirtQueue`](super::VirtQueue). The requests come from QEMU: one that cannot be
//! honoured ends the connection with one log line; the guest's driver then waits for ever. The thread ends when the
//! frontend's end of the socket is closed, which QEMU's end does in any case.
//!
//! # Queues that stay in the frontend
//!
//! Some frontends keep a queue for themselves: QEMU's `vhost-user-vsock-device` hands over the receive and the transmit queue,
//! and serves the event queue itself (migration is the only event there is). The device still sees all its queues; those
//! that were not handed over are empty for ever and not [`ready`](virtio_queue::QueueT::ready).

mod backend;
mod requests;

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::SigSet,
};
use vhost::vhost_user::{BackendReqHandler, Error as VhostUserError};

use self::backend::Backend;
use super::{Device, DeviceType, Wake};
use crate::seccomp::{self, Filter};

/// As much as the device loop of KVM has: devices do the same there.
const STACK: usize = 256 * 1024;

/// How many of its queues a device hands to the backend when QEMU is the frontend: all, but for vsock's event queue.
#[must_use]
pub fn backend_queues(device: &dyn Device) -> usize {
    let queues = device.queue_sizes().len();
    match device.device_type() {
        DeviceType::Vsock => queues.min(2),
        DeviceType::Block | DeviceType::Fs => queues,
    }
}

/// Starts the thread that works for `device`, restricted to its system calls; returns the frontend's end of the connection. The thread drops the device and
/// ends once that end is closed in every process that has it.
///
/// # Errors
/// No socket pair, no thread, or one that cannot be set up and restricted, or a queue size that is no power of two.
pub fn serve(mut device: Box<dyn Device>, mode: seccomp::Mode) -> io::Result<(UnixStream, JoinHandle<()>)> {
    device.prepare()?;
    let filter =
        Filter::compile(seccomp::of_device(device.device_type(), true), mode).map_err(io::Error::other)?;
    let (sender, installed) = mpsc::sync_channel(1);
    let (frontend, socket) = UnixStream::pair()?;
    let watched = socket.try_clone()?;
    let backend = Arc::new(Mutex::new(Backend::new(device).map_err(io::Error::other)?));
    let name = lock(&backend).name();
    let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
        // A signal in the middle of a message would lose the rest of it.
        if let Err(error) = SigSet::all().thread_block() {
            tracing::warn!(device = name, %error, "signals cannot be blocked");
        }
        let entered = lock(&backend).device.enter_thread();
        let result = entered.and_then(|()| filter.install().map_err(io::Error::other));
        let good = result.is_ok();
        // It is waited for.
        let _ = sender.send(result);
        if !good {
            return;
        }
        if let Err(error) =
            run(&watched, BackendReqHandler::from_stream(socket, Arc::clone(&backend)), &backend)
        {
            tracing::error!(device = name, %error, "the connection to the hypervisor ends");
        }
    })?;
    installed.recv().map_err(io::Error::other)??;
    Ok((frontend, thread))
}

/// What can be ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Requests,
    Device(Wake),
}

fn run(
    socket: &UnixStream,
    mut requests: BackendReqHandler<Mutex<Backend>>,
    backend: &Mutex<Backend>,
) -> Result<(), VhostUserError> {
    loop {
        // The lock is given back here: handling a request takes it again.
        let ready = wait(socket, &lock(backend)).map_err(VhostUserError::SocketError)?;
        for source in ready {
            match source {
                Source::Requests => match requests.handle_request() {
                    Ok(()) => {}
                    Err(
                        VhostUserError::Disconnected
                        | VhostUserError::PartialMessage
                        | VhostUserError::SocketBroken(_),
                    ) => return Ok(()),
                    Err(error) => return Err(error),
                },
                // A request of the same round may have stopped the queue: nothing happens then.
                Source::Device(wake) => lock(backend).wake(wake),
            }
        }
    }
}

/// Waits until something is ready. Notifications are looked for only while all queues run: until then they stay in their event
/// descriptors and are not lost.
fn wait(socket: &UnixStream, backend: &Backend) -> io::Result<Vec<Source>> {
    let mut sources = vec![Source::Requests];
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![socket.as_fd()];
    for (wake, descriptor) in backend.wakers() {
        sources.push(Source::Device(wake));
        descriptors.push(descriptor);
    }
    let mut polled: Vec<_> = descriptors.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
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
        .map(|(source, _)| source)
        .collect())
}

fn lock(backend: &Mutex<Backend>) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
