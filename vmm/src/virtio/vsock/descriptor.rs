//! A descriptor of the host's that is read and written without ever blocking the device.
//!
//! The descriptors come from outside, and others may share what they refer to: `O_NONBLOCK` on such a description would
//! break a shell that shares its terminal with us. So each kind of file has its own way:
//!
//! | what it is | how it does not block |
//! |---|---|
//! | regular file, block device | is always ready |
//! | socket | `MSG_DONTWAIT` with each call |
//! | what has `O_NONBLOCK` already | as it is |
//! | FIFO, character device | opened once more through `/proc`, which gives a description of our own |
//! | anything else, or what cannot be opened once more | a thread in between ([`pump`](super::pump)) |

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
            net::UnixStream,
        },
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    sys::{
        epoll::{Epoll, EpollEvent, EpollFlags},
        socket::{Shutdown, shutdown},
    },
};

use super::{endpoint::OnClose, pump};
use crate::virtio::queue::transfer::{self, Vector};

/// `/dev/ptmx`: opening it once more makes another terminal.
const PTMX: (u64, u64) = (5, 2);

#[derive(Debug)]
pub(super) struct Descriptor {
    fd: OwnedFd,
    socket: bool,
    /// Nobody else uses the socket: ends of directions are passed on by shutting it down.
    exclusive: bool,
}

impl Descriptor {
    /// A socket of ours alone, for both directions.
    pub(super) fn socket(socket: UnixStream) -> Self {
        Self { fd: socket.into(), socket: true, exclusive: true }
    }

    /// What can be read from `fd`.
    pub(super) fn input(fd: OwnedFd) -> io::Result<Self> {
        Self::prepare(fd, pump::input)
    }

    /// What is written to `fd`. `over` is held for as long as bytes are on their way to it elsewhere.
    pub(super) fn output(fd: OwnedFd, over: &Arc<OnClose>) -> io::Result<Self> {
        Self::prepare(fd, |fd| pump::output(fd, Arc::clone(over)))
    }

    /// What does not block as it is, for either direction: no file is opened for it, and no thread is started.
    pub(super) fn as_it_is(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let metadata = file.metadata()?;
        if !does_not_block(&file, &metadata)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor may block"));
        }
        Ok(Self { fd: file.into(), socket: metadata.file_type().is_socket(), exclusive: false })
    }

    fn prepare(fd: OwnedFd, pump: impl FnOnce(OwnedFd) -> io::Result<UnixStream>) -> io::Result<Self> {
        let file = File::from(fd);
        let metadata = file.metadata()?;
        if does_not_block(&file, &metadata)? {
            let socket = metadata.file_type().is_socket();
            return Ok(Self { fd: file.into(), socket, exclusive: false });
        }
        if can_be_opened_again(&metadata)
            && let Ok(own) = open_again(&file)
        {
            return Ok(Self { fd: own.into(), socket: false, exclusive: false });
        }
        Ok(Self::socket(pump(file.into())?))
    }

    /// Reads what there is; 0 is the end.
    pub(super) fn read(&self, into: &Vector<'_>) -> io::Result<usize> {
        if self.socket {
            transfer::receive(self.fd.as_fd(), into)
        } else {
            transfer::read(self.fd.as_fd(), into)
        }
    }

    /// Writes what there is room for.
    pub(super) fn write(&self, from: &Vector<'_>) -> io::Result<usize> {
        if self.socket {
            transfer::send(self.fd.as_fd(), from)
        } else {
            transfer::write(self.fd.as_fd(), from)
        }
    }

    /// Nothing will be read any more.
    pub(super) fn end_input(&self) {
        self.shut_down(Shutdown::Read);
    }

    /// Nothing will be written any more.
    pub(super) fn end_output(&self) {
        self.shut_down(Shutdown::Write);
    }

    fn shut_down(&self, how: Shutdown) {
        if self.exclusive {
            // The other end may be gone already, which is as good.
            let _ = shutdown(self.fd.as_raw_fd(), how);
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// See [`Endpoint::reopen`](super::Endpoint::reopen).
pub(super) fn reopen(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let file = File::from(fd.try_clone_to_owned()?);
    let metadata = file.metadata()?;
    if can_be_opened_again(&metadata)
        && !does_not_block(&file, &metadata)?
        && let Ok(own) = open_again(&file)
    {
        return Ok(own.into());
    }
    Ok(file.into())
}

/// See [`Endpoint::may_block`](super::Endpoint::may_block).
pub(super) fn may_block(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let file = File::from(fd.try_clone_to_owned()?);
    let metadata = file.metadata()?;
    Ok(!does_not_block(&file, &metadata)?)
}

/// Whether reading and writing it as it is never blocks.
fn does_not_block(file: &File, metadata: &Metadata) -> io::Result<bool> {
    let file_type = metadata.file_type();
    if file_type.is_file() || file_type.is_block_device() || file_type.is_socket() {
        return Ok(true);
    }
    // What does not block stays as it is: the description is our own, or its owners have agreed on it.
    is_non_blocking(file)
}

/// Whether opening it once more gives the same thing.
fn can_be_opened_again(metadata: &Metadata) -> bool {
    let device = (libc::major(metadata.rdev()).into(), libc::minor(metadata.rdev()).into());
    metadata.file_type().is_fifo() || metadata.file_type().is_char_device() && device != PTMX
}

fn is_non_blocking(file: &File) -> io::Result<bool> {
    Ok(fcntl(file, FcntlArg::F_GETFL)? & libc::O_NONBLOCK != 0)
}

/// Opens what `file` refers to once more, with the same access.
fn open_again(file: &File) -> io::Result<File> {
    let access = fcntl(file, FcntlArg::F_GETFL)? & OFlag::O_ACCMODE.bits();
    OpenOptions::new()
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A descriptor in a device's epoll instance, for as long as this lives.
///
/// Edge-triggered: an event says that it is worth trying again what would have blocked. So a descriptor that is ready, while
/// the guest has no room or no wish, wakes nobody. Nor does a reader that makes room which nobody waits for: it does so with every read.
#[derive(Debug)]
pub(super) struct Watch {
    descriptor: Arc<Descriptor>,
    epoll: Arc<Epoll>,
    token: u64,
    /// What is always reported, besides errors.
    interest: EpollFlags,
    /// Whether room to write is reported, too.
    room: AtomicBool,
    /// Files that are always ready cannot be watched.
    watched: bool,
}

impl Watch {
    /// Reports `interest` under `token`, and room to write [when it is wanted](Self::want_room).
    pub(super) fn new(
        descriptor: Descriptor,
        epoll: &Arc<Epoll>,
        interest: EpollFlags,
        token: u64,
    ) -> io::Result<Self> {
        let event = EpollEvent::new(interest | EpollFlags::EPOLLET, token);
        let watched = match epoll.add(&descriptor, event) {
            Ok(()) => true,
            Err(Errno::EPERM) => false,
            Err(error) => return Err(error.into()),
        };
        let (descriptor, epoll) = (Arc::new(descriptor), Arc::clone(epoll));
        Ok(Self { descriptor, epoll, token, interest, room: AtomicBool::new(false), watched })
    }

    /// Has room to write reported, also if it is there by now, or no longer.
    pub(super) fn want_room(&self, wanted: bool) {
        if self.watched && self.room.swap(wanted, Ordering::Relaxed) != wanted {
            let room = if wanted { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            let mut event = EpollEvent::new(self.interest | room | EpollFlags::EPOLLET, self.token);
            // Cannot fail for what was added.
            let _ = self.epoll.modify(&*self.descriptor, &mut event);
        }
    }

    pub(super) fn descriptor(&self) -> &Arc<Descriptor> {
        &self.descriptor
    }

    /// Whether an event will tell when to try again.
    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.watched {
            // Closing would not do: others may hold what the descriptor refers to open. Cannot fail for what was added.
            let _ = self.epoll.delete(&*self.descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_block_is_used_as_it_is_only_after_it_was_opened_once_more() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        for end in [reader, writer] {
            assert!(may_block(end.as_fd()).unwrap());
            let own = reopen(end.as_fd()).unwrap();
            assert!(!may_block(own.as_fd()).unwrap());
            assert!(Descriptor::as_it_is(own).is_ok());
            assert!(may_block(end.as_fd()).unwrap(), "what others share has not changed");
            assert!(Descriptor::as_it_is(end).is_err());
        }
    }

    #[test]
    fn a_terminals_other_end_stays_one_that_may_block() {
        let ptmx = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        let same = reopen(ptmx.as_fd()).unwrap();
        assert!(may_block(same.as_fd()).unwrap());
    }

    #[test]
    fn files_and_sockets_never_block() {
        let (socket, _other) = UnixStream::pair().unwrap();
        assert!(!may_block(socket.as_fd()).unwrap());
        assert!(Descriptor::as_it_is(socket.into()).unwrap().socket);
        let file = File::open("/proc/self/exe").unwrap();
        assert!(!Descriptor::as_it_is(file.into()).unwrap().socket);
    }
}
