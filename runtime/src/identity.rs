//! Which process a number means: numbers are given again, and after a restart of the host all of them are.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};

/// A process of this host, and no other that has its number later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// When it was started, in clock ticks since the host was.
    start_time: u64,
    /// Which start of the host that was.
    boot: String,
}

impl Identity {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let (_, start_time) = stat(pid)?;
        Ok(Self { pid, start_time, boot: boot_id() })
    }

    /// Whether it still runs. A process that nobody has waited for yet runs no more.
    pub(crate) fn is_alive(&self) -> bool {
        let same = |(state, start): (char, u64)| start == self.start_time && !matches!(state, 'Z' | 'X');
        stat(self.pid).is_ok_and(same) && boot_id() == self.boot
    }

    /// Whether a signal has it stand still, so that it answers nobody.
    pub(super) fn stands_still(&self) -> bool {
        stat(self.pid).is_ok_and(|(state, start)| start == self.start_time && state == 'T')
    }

    /// A descriptor of the process, if it still runs.
    fn open(&self) -> Option<OwnedFd> {
        // SAFETY: makes a new descriptor (with `FD_CLOEXEC`, as all of this kind); touches no memory.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) }).ok()?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).ok()?) };
        // Only now is it sure that the descriptor means the process that was looked at.
        self.is_alive().then_some(fd)
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(&self) {
        let Some(fd) = self.open() else { return };
        // SAFETY: the descriptor is open; the call takes no pointer but a null one.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), libc::SIGKILL, 0, 0) };
        wait(&fd);
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) {
        if let Some(fd) = self.open() {
            wait(&fd);
        }
    }
}

fn wait(fd: &OwnedFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
}

/// A process's state and start time (`proc_pid_stat(5)`, fields 3 and 22).
fn stat(pid: u32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything.
    let fields = || {
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        Some((state, fields.nth(18)?.parse().ok()?))
    };
    fields().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_is_not_enough() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Identity { start_time: me.start_time + 1, ..me.clone() }.is_alive());
        assert!(!Identity { boot: "another".into(), ..me }.is_alive());
    }

    #[test]
    fn who_stands_still_is_alive() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(!identity.stands_still());
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        assert!(identity.stands_still() && identity.is_alive());
        identity.kill();
        child.wait().unwrap();
    }

    #[test]
    fn who_is_dead_is_not_alive_even_before_it_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        identity.kill();
        assert!(!identity.is_alive());
        assert!(identity.open().is_none() && !identity.stands_still());
        child.wait().unwrap();
        identity.kill();
    }
}
