//! Out of memory: a container whose first process was killed by the guest for want of memory dies of the same on the host.
//!
//! Engines learn that a container ran out of memory from the host's cgroup of the process that stands for it: conmon, containerd's shim and
//! the kubelet count what the host's kernel kills there. Nothing happens there when the guest's kernel kills. So the sandbox process, which
//! has nothing left to do, takes memory until its cgroup has no more, and is killed as the container's process would have been. It takes
//! no more than the cgroup's limit; where there is none, the status, 137, has to do.
//!
//! **Callers:** the supervisor, when the first process was killed; the sandbox's main, at the very end.

use std::ffi::CString;

use mote_protocol::{ExitStatus, ReadFile, Request};

use super::{
    events::Heard,
    supervisor::{Pending, Supervisor},
};
use crate::oci::GUEST_CGROUP;

/// The signal of the guest's kernel.
const SIGKILL: u8 = 9;
/// How much is taken at a time, in bytes.
const PIECE: usize = 4 << 20;

/// Why the first process was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Want {
    /// Not for want of memory, as far as is known.
    #[default]
    None,
    /// The guest was asked.
    Asked,
    /// For want of memory.
    OfMemory,
}

impl Supervisor<'_> {
    /// Asks the guest why its first process was killed, if it was, and if it makes a difference.
    pub(super) fn ask_about_memory(&mut self, status: ExitStatus) {
        if status != ExitStatus::Signal(SIGKILL) || !self.is_container_with_limited_memory() {
            return;
        }
        let Ok(path) = CString::new(format!("{GUEST_CGROUP}/memory.events")) else { return };
        let read = ReadFile { path: path.as_c_str().into(), offset: 0 };
        if let Ok(request) = self.agent.send(&[Request::ReadFile(read)]) {
            self.pending.insert(request, Pending::Memory);
            self.want = Want::Asked;
        }
    }

    /// The guest's answer.
    pub(super) fn heard_about_memory(&mut self, event: &Heard) {
        let is_want = matches!(event, Heard::File { content, .. } if killed(content) > 0);
        self.want = if is_want { Want::OfMemory } else { Want::None };
    }
}

/// How many processes a cgroup's `memory.events` says were killed for want of memory.
pub(crate) fn killed(events: &str) -> u64 {
    let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Takes memory until this process is killed, or until it has taken `limit` bytes, which its cgroup then does not enforce.
pub(super) fn take_all(limit: u64) {
    let pieces = usize::try_from(limit).unwrap_or(usize::MAX) / PIECE + 1;
    let mut taken = Vec::new();
    for _ in 0..pieces {
        let mut piece: Vec<u8> = Vec::new();
        if piece.try_reserve_exact(PIECE).is_err() {
            return;
        }
        // Memory that is not written to is not taken.
        piece.resize(PIECE, 1);
        taken.push(std::hint::black_box(piece));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_is_counted() {
        assert_eq!(killed("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(killed("oom_kill 0\n"), 0);
        assert_eq!(killed("oom_kill x\noom 4\n"), 0);
        assert_eq!(killed(""), 0);
    }

    #[test]
    fn what_was_taken_is_given_back_by_who_lives_on() {
        take_all(1);
    }
}
