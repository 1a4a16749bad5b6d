//! The sandbox's end of the control socket: connections, and the messages that come over them.
//!
//! Nothing here blocks, and nothing grows without bound: there are at most [`MAX_CLIENTS`] connections, each with at most one
//! message that is not complete, three descriptors, and the answers to what it has asked.

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use nix::{
    cmsg_space,
    errno::Errno,
    poll::PollFlags,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockFlag, accept4, getsockopt, recvmsg, sockopt::PeerCredentials,
    },
    unistd::Uid,
};

use crate::control::{self, Answer, Ask, LENGTH, MAX_DESCRIPTORS, MAX_MESSAGE};

/// How many connections there may be at a time.
const MAX_CLIENTS: usize = 256;
/// How many bytes of answers a client may leave unread.
const MAX_UNREAD: usize = 64 << 10;
/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// The name of a connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientId(u64);

/// Whose connections are taken, by user id. The socket's permissions leave only them in; this is a second look.
pub(super) type Peers = [u32; 2];

/// Root and `user`.
pub(super) fn peers_of(user: Uid) -> Peers {
    [0, user.as_raw()]
}

/// The same two in a user namespace that knows `user` alone, as root: others are nobody there.
pub(super) const PEERS_IN_USER_NAMESPACE: Peers = [0, 65534];

/// All connections.
pub(super) struct Clients {
    listener: Option<UnixListener>,
    peers: Peers,
    clients: BTreeMap<ClientId, Client>,
    next: u64,
}

struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    outbox: Vec<u8>,
}

/// A message, with the descriptors that came before its end.
pub(super) struct Received {
    pub(super) ask: Ask,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// The other side has ended the connection, or has broken its rules.
#[derive(Debug)]
pub(super) struct Gone;

impl Clients {
    /// Serves those of `peers` who connect to `listener`; without one, there is never a client.
    pub(super) fn new(listener: Option<UnixListener>, peers: Peers) -> io::Result<Self> {
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { listener, peers, clients: BTreeMap::new(), next: 0 })
    }

    /// Where connections come in, as long as there is room for more.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().filter(|_| self.clients.len() < MAX_CLIENTS).map(AsFd::as_fd)
    }

    /// What has to be waited for.
    pub(super) fn interests(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().map(|(id, client)| {
            let writing = if client.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            (*id, client.stream.as_fd(), PollFlags::POLLIN | writing)
        })
    }

    /// Takes the next connection, if its other end may ask for anything.
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Whoever is gone again is no client.
        let Ok(fd) = accept4(listener.as_raw_fd(), flags) else { return };
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let peer = match getsockopt(&stream, PeerCredentials) {
            Ok(peer) => peer.uid(),
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials");
                return;
            }
        };
        if !self.peers.contains(&peer) {
            tracing::warn!(uid = peer, "a connection from another user was refused");
            return;
        }
        let client = Client { stream, inbox: Vec::new(), descriptors: Vec::new(), outbox: Vec::new() };
        self.clients.insert(ClientId(self.next), client);
        self.next += 1;
    }

    /// Reads and writes what a connection is ready for; returns the messages that are complete.
    pub(super) fn serve(&mut self, id: ClientId) -> Result<Vec<Received>, Gone> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(Vec::new()) };
        client.flush()?;
        client.read()
    }

    /// Answers, as far as the connection still exists.
    pub(super) fn answer(&mut self, id: ClientId, answer: &Answer) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let told = control::frame(answer).map_err(|_| Gone).and_then(|bytes| {
            client.outbox.extend_from_slice(&bytes);
            client.flush()
        });
        if told.is_err() {
            // Its end is noticed, and acted on, when it is read from.
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
            client.outbox.clear();
        }
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, id: ClientId) {
        self.clients.remove(&id);
    }
}

impl Client {
    fn flush(&mut self) -> Result<(), Gone> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => return Err(Gone),
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Gone),
            }
        }
        // Whoever asks and asks, and never listens.
        if self.outbox.len() > MAX_MESSAGE + MAX_UNREAD { Err(Gone) } else { Ok(()) }
    }

    fn read(&mut self) -> Result<Vec<Received>, Gone> {
        let start = self.inbox.len();
        self.inbox.resize(start + CHUNK, 0);
        let result = receive(&self.stream, &mut self.inbox[start..], &mut self.descriptors);
        let count = match result {
            Ok(0) => return Err(Gone),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(_) => return Err(Gone),
        };
        self.inbox.truncate(start + count);
        let mut messages = Vec::new();
        while let Some(len) = self.message_len()? {
            let body = self.inbox.get(LENGTH..LENGTH + len).unwrap_or_default();
            let ask = serde_json::from_slice(body).map_err(|error| {
                tracing::warn!(%error, "a message that is not the protocol");
                Gone
            })?;
            self.inbox.drain(..LENGTH + len);
            messages.push(Received { ask, descriptors: std::mem::take(&mut self.descriptors) });
        }
        Ok(messages)
    }

    /// The length of the first message, if all of it is there.
    fn message_len(&self) -> Result<Option<usize>, Gone> {
        let Some((len, rest)) = self.inbox.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| Gone)?;
        if len > MAX_MESSAGE {
            return Err(Gone);
        }
        Ok((rest.len() >= len).then_some(len))
    }
}

/// Reads bytes, and the descriptors that come with them.
fn receive(stream: &UnixStream, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut room = cmsg_space!([i32; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(into)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut room), flags)?;
    let mut too_many = message.flags.contains(MsgFlags::MSG_CTRUNC);
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            for fd in fds {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    too_many |= descriptors.len() > MAX_DESCRIPTORS;
    if too_many { Err(Errno::EMSGSIZE) } else { Ok(message.bytes) }
}

#[cfg(test)]
mod tests;
