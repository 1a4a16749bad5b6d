//! The namespaces of the host that a sandbox process lives in.
//!
//! Of them, only the network's is of any use to a VM: engines and hooks put a container's interfaces into it, and look for them at
//! `/proc/PID/ns/net` of the sandbox process. Of the mount namespace, see [`View`](crate::jail::View).

use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, error::Kind, named_file, spec::Network};

/// Moves this process, which has no other threads yet, to where it is to live.
pub(super) fn enter(network: &Network) -> Result<(), Error> {
    match network {
        Network::Callers | Network::Empty(_) => Ok(()),
        Network::New => unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::because(Kind::Host, "cannot make a network namespace", &error)),
        Network::Path(path) => {
            // To those who look, a namespace is a regular file.
            let file = named_file::open(path);
            file.and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?)).map_err(|error| {
                Error::because(Kind::Host, format!("network namespace {}", path.display()), &error)
            })
        }
    }
}
