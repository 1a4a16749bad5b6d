//! What the sandbox process's main thread waits for: all of it at once.

use std::os::fd::AsFd;

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{clients::ClientId, supervisor::Supervisor};
use crate::{Error, error::errno};

/// What the main thread was woken for.
pub(super) struct Ready {
    pub(super) signals: bool,
    pub(super) ended: bool,
    pub(super) outputs: bool,
    pub(super) agent: bool,
    pub(super) lifeline: bool,
    pub(super) listener: bool,
    pub(super) clients: Vec<ClientId>,
}

impl Supervisor<'_> {
    /// Waits until there is something to do.
    pub(super) fn wait(&self) -> Result<Ready, Error> {
        let input = PollFlags::POLLIN;
        let agent = if self.agent.has_unsent() { input | PollFlags::POLLOUT } else { input };
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), input),
            PollFd::new(self.vm.ended_fd(), input),
            PollFd::new(self.streams.as_fd(), input),
        ];
        let mut add = |fd| {
            fds.push(fd);
            fds.len() - 1
        };
        // Nothing more comes from an agent that is gone, but its descriptor would stay ready.
        let agent = (!self.agent_gone).then(|| add(PollFd::new(self.agent.as_fd(), agent)));
        let lifeline = self.lifeline.map(|lifeline| add(PollFd::new(lifeline.as_fd(), input)));
        let listener = self.clients.listener().map(|listener| add(PollFd::new(listener, input)));
        let clients: Vec<(ClientId, usize)> =
            self.clients.interests().map(|(id, fd, events)| (id, add(PollFd::new(fd, events)))).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(errno("wait for the sandbox")(error)),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(false));
        Ok(Ready {
            signals: ready(0),
            ended: ready(1),
            outputs: ready(2),
            agent: agent.is_some_and(ready),
            lifeline: lifeline.is_some_and(ready),
            listener: listener.is_some_and(ready),
            clients: clients.into_iter().filter(|(_, index)| ready(*index)).map(|(id, _)| id).collect(),
        })
    }
}
