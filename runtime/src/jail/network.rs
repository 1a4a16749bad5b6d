//! The network namespace of sandboxes that have no network: an empty one that all of root's have in common.
//!
//! To have a namespace of its own for nothing costs the host 190 KiB and a millisecond a sandbox. It is empty, no sandbox process can put
//! anything into it, and the filters allow none of the calls by which two in it could meet. So the first makes it, those that come find it
//! at one that runs, and it goes with the last: it has no name, and nothing has to be removed. Containers have their own, where engines put
//! interfaces; so has a sandbox with QEMU, whose own filter allows sockets, and an ordinary user's, which is root in a user namespace that
//! nobody else is in.
//!
//! **Callers:** `mote run` finds it; the jail looks whether the process is there, and that it is empty.
//!
//! # What can go wrong
//!
//! Nothing that stops a start: where there is no neighbour, or it cannot be joined, a sandbox makes a namespace.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
};

use super::credentials;
use crate::cgroup::Neighbour;

/// Where a process's network namespace is.
const OURS: &str = "/proc/self/ns/net";

/// A network namespace that sandboxes are in.
#[derive(Debug)]
pub(crate) struct EmptyNetwork {
    file: File,
    mark: u64,
}

impl EmptyNetwork {
    /// The one of a neighbour that is in its jail. None if there is no such.
    pub(crate) fn of_a_neighbour<'a>(neighbours: impl Iterator<Item = Neighbour<'a>>) -> Option<Self> {
        if !credentials::is_admin() {
            return None;
        }
        let ours = fs::metadata(OURS).ok()?.ino();
        neighbours.into_iter().find_map(|neighbour| {
            let found = Self::of(neighbour.pid).filter(|found| found.mark != ours)?;
            let runs_the_vm = is_jailed(neighbour.pid) && has_no_children(neighbour.pid);
            (runs_the_vm && neighbour.is_there()).then_some(found)
        })
    }

    fn of(pid: u32) -> Option<Self> {
        let file = File::open(format!("/proc/{pid}/ns/net")).ok()?;
        let mark = file.metadata().ok()?.ino();
        Some(Self { file, mark })
    }

    /// Its inode number, which no other has for as long as this is open.
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }
}

impl From<EmptyNetwork> for OwnedFd {
    fn from(network: EmptyNetwork) -> Self {
        network.file.into()
    }
}

/// Whether a process is in its jail: it has become somebody else than root, and has filters, both of which come after the namespaces.
fn is_jailed(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
    value("Uid:").is_some_and(|uid| uid != "0") && value("Seccomp:") == Some("2")
}

/// Whether a process has started no other, as one with QEMU has. Once it is in its jail, it starts none.
fn has_no_children(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .is_ok_and(|children| children.trim().is_empty())
}

/// Whether the calling process is in the namespace with this inode number, and nothing is there but a loopback interface.
pub(super) fn is_here_and_empty(mark: u64) -> bool {
    let here = fs::metadata(OURS).is_ok_and(|ours| ours.ino() == mark);
    let interfaces = || fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    here && only_loopback(&interfaces())
}

/// Whether what `/proc/net/dev` lists after its two headings is the loopback interface.
fn only_loopback(listed: &str) -> bool {
    let mut names =
        listed.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.next() == Some("lo") && names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADINGS: &str = "Inter-|   Receive  |  Transmit\n face |bytes |bytes\n";

    #[test]
    fn is_empty_with_a_loopback_interface_alone() {
        assert!(only_loopback(&format!("{HEADINGS}    lo:       0       0\n")));
        assert!(!only_loopback(HEADINGS), "nothing could be read");
        assert!(!only_loopback(""));
        assert!(!only_loopback(&format!("{HEADINGS}    lo: 0\n  eth0: 0\n")));
        assert!(!only_loopback(&format!("{HEADINGS}  eth0: 0\n")));
    }

    #[test]
    fn who_has_no_filters_or_is_gone_is_not_in_its_jail() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!is_jailed(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_jailed(child.id()), "it is gone");
    }

    #[test]
    fn who_has_started_another_process_is_known() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(has_no_children(child.id()));
        let me = std::process::id();
        let mine = std::fs::read_dir("/proc/self/task").unwrap().flatten().any(|thread| {
            std::fs::read_to_string(thread.path().join("children")).is_ok_and(|list| !list.trim().is_empty())
        });
        assert!(mine, "{me} has a child");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!has_no_children(child.id()), "it is gone");
    }

    #[test]
    fn here_is_where_the_number_says() {
        let here = EmptyNetwork::of(std::process::id()).unwrap().mark();
        assert!(!is_here_and_empty(here + 1));
    }
}
