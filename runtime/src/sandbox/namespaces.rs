//! The namespaces of the host that a sandbox process lives in.
//!
//! Of them, only the network's is of any use to a VM: engines and hooks put a container's interfaces into it, and look for them at
//! `/proc/PID/ns/net` of the sandbox process. Of the mount namespace, see [`View`](crate::jail::View).

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
};

use crate::{Error, error::Kind, spec::Network};

/// Moves this process, which has no other threads yet, to where it is to live.
pub(super) fn enter(network: &Network) -> Result<(), Error> {
    match network {
        Network::Callers => Ok(()),
        Network::New => unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::because(Kind::Host, "cannot make a network namespace", &error)),
        Network::Path(path) => {
            // Not to wait for anybody: what is no namespace is refused by the kernel.
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
            file.and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?)).map_err(|error| {
                Error::because(Kind::Host, format!("network namespace {}", path.display()), &error)
            })
        }
    }
}
