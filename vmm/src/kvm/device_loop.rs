//! A thread that works for devices: it waits for notified queues and for the devices' own descriptors. One of them works for all
//! devices but those that need a thread of their own.

use std::{os::fd::AsRawFd, sync::Arc, thread::JoinHandle};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vmm_sys_util::eventfd::EventFd;

use super::{gate::Gate, host};
use crate::{
    Error,
    seccomp::Filter,
    virtio::{Wake, mmio::MmioDevice},
};

/// Its deepest call is a device that gathers descriptors: 64 KiB would do.
const STACK: usize = 256 * 1024;
/// One event for each write to an event descriptor, with nothing to be read: that saves a system call for every notification.
const EACH_WRITE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);
/// How many ready descriptors are taken at a time.
const BATCH: usize = 16;

struct Source {
    device: Arc<MmioDevice>,
    wake: Wake,
    /// The event descriptor that the guest's notifications arrive at, which is never read; none for the device's own.
    _kick: Option<EventFd>,
}

pub(super) struct DeviceLoop {
    epoll: Epoll,
    sources: Vec<Source>,
}

impl DeviceLoop {
    pub(super) fn new() -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|e| host("create an epoll instance")(e.into()))?;
        Ok(Self { epoll, sources: Vec::new() })
    }

    /// Watches a queue of a device.
    pub(super) fn add_queue(
        &mut self,
        device: Arc<MmioDevice>,
        queue: usize,
        kick: EventFd,
    ) -> Result<(), Error> {
        // SAFETY: the eventfd is open and owned by `sources`, which lives as long as the epoll instance.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(kick.as_raw_fd()) };
        self.watch(fd, EACH_WRITE)?;
        self.sources.push(Source { device, wake: Wake::Queue(queue), _kick: Some(kick) });
        Ok(())
    }

    /// Watches a device's own descriptor, if it has one, and has the device's work done by this thread alone.
    pub(super) fn add_events(&mut self, device: &Arc<MmioDevice>) -> Result<(), Error> {
        // Also where a vCPU thread leaves its work for the device: it has neither the time nor the right to do it.
        let flags = nix::sys::eventfd::EfdFlags::EFD_NONBLOCK | nix::sys::eventfd::EfdFlags::EFD_CLOEXEC;
        let deferred = EventFd::new(flags.bits()).map_err(host("create an event descriptor"))?;
        device.defer_to(deferred.try_clone().map_err(host("create an event descriptor"))?);
        // SAFETY: the eventfd is open and owned by `sources`, which lives as long as the epoll instance.
        self.watch(unsafe { std::os::fd::BorrowedFd::borrow_raw(deferred.as_raw_fd()) }, EACH_WRITE)?;
        self.sources.push(Source { device: Arc::clone(device), wake: Wake::Events, _kick: Some(deferred) });
        let watched =
            device.with_device(|inner| inner.event_fd().map(|fd| self.watch(fd, EpollFlags::EPOLLIN)));
        if let Some(result) = watched {
            result?;
            self.sources.push(Source { device: Arc::clone(device), wake: Wake::Events, _kick: None });
        }
        Ok(())
    }

    fn watch(&self, fd: std::os::fd::BorrowedFd<'_>, flags: EpollFlags) -> Result<(), Error> {
        let event = EpollEvent::new(flags, self.sources.len() as u64);
        self.epoll.add(fd, event).map_err(|e| host("watch a descriptor")(e.into()))
    }

    /// Starts the thread, with this name, which installs `filter` and waits at `gate`. Writing to the returned descriptor ends it.
    pub(super) fn spawn(
        self,
        name: &str,
        filter: Filter,
        gate: Arc<Gate>,
    ) -> Result<(EventFd, JoinHandle<()>), Error> {
        let stop = EventFd::new(nix::sys::eventfd::EfdFlags::EFD_CLOEXEC.bits())
            .map_err(host("create an event descriptor"))?;
        let stopped = stop.try_clone().map_err(host("create an event descriptor"))?;
        // SAFETY: the eventfd is open, and moves into the thread together with the epoll instance.
        self.watch(unsafe { std::os::fd::BorrowedFd::borrow_raw(stopped.as_raw_fd()) }, EpollFlags::EPOLLIN)?;
        let thread = std::thread::Builder::new()
            .name(name.into())
            .stack_size(STACK)
            .spawn(move || {
                if gate.arrive(self.enter_thread().and_then(|()| Ok(filter.install()?))) {
                    self.run();
                }
                drop(stopped);
            })
            .map_err(host("start the device thread"))?;
        Ok((stop, thread))
    }

    /// Has a device that needs this thread for itself set it up.
    fn enter_thread(&self) -> Result<(), Error> {
        let first = |source: &&Source| source.wake == Wake::Queue(0);
        for source in self.sources.iter().filter(first) {
            source
                .device
                .with_device(|device| device.enter_thread())
                .map_err(host("set up a device's thread"))?;
        }
        Ok(())
    }

    fn run(&self) {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the device loop cannot wait");
                    return;
                }
            };
            for event in &events[..ready] {
                let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
                let Some(source) = self.sources.get(index) else { return };
                source.device.process(source.wake);
            }
        }
    }
}
