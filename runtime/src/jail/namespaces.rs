//! Namespaces: a view of the host with nothing in it.
//!
//! Root makes them directly. An ordinary user first makes a user namespace, in which he is root, and loses that again with the
//! capabilities. Of the network's, see [`network`]; of PID namespaces, see [`spawn`](crate::spawn): a process cannot move into one, it must
//! be born there.

use std::fs;

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid},
};

use super::{Layer, LayerState, Layers, Network, network, refused};
use crate::{Error, error::host};

const USER: &str = "user namespace";
const MOUNT: &str = "mount namespace";
/// How often to let other threads run first.
const PATIENCE: usize = 10_000;

/// Enters namespaces of its own. `false` if this user gets none.
pub(super) fn enter(network: Network, admin: bool, layers: &mut Layers) -> Result<bool, Error> {
    if !admin && let Some(why) = user_namespace()? {
        for name in [USER, MOUNT, "IPC namespace", "network namespace"] {
            layers.not_granted(name, why);
        }
        return Ok(false);
    }
    if admin {
        layers.not_granted(USER, "root needs none: it becomes another user");
    } else {
        layers.in_force(USER, "with this user alone");
    }
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    let form = match network {
        Network::Common(mark) if network::is_here_and_empty(mark) => {
            Some("without a network, in common with other sandboxes")
        }
        Network::Own | Network::Common(_) => {
            flags |= CloneFlags::CLONE_NEWNET;
            Some("its own, without a network")
        }
        Network::Keep => None,
    };
    unshare(flags).map_err(refused("no namespaces"))?;
    // What is mounted here must not show on the host, but what the host unmounts must not stay here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(refused("its mounts cannot be told from the host's"))?;
    layers.in_force(MOUNT, "its own");
    layers.in_force("IPC namespace", "its own");
    match form {
        Some(form) => layers.in_force("network namespace", form),
        None => layers.not_granted("network namespace", "it has the container's"),
    }
    Ok(true)
}

/// Whether the process is in a user namespace of its own: it sees other users than before.
pub(crate) fn in_user_namespace(layers: &[Layer]) -> bool {
    layers.iter().any(|layer| layer.name == USER && matches!(layer.state, LayerState::InForce(_)))
}

/// Waits until joined threads are gone: to be joined comes before the kernel has let go of a thread, and it makes no user namespace for
/// a process with two. Whoever has a second thread that stays is told so by the kernel.
fn until_alone() {
    for _ in 0..PATIENCE {
        if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
            return;
        }
        // The thread is on its way out; it needs the processor and nothing else.
        std::thread::yield_now();
    }
}

/// Enters a user namespace with the caller in it, as root. If there are none for him, says why.
fn user_namespace() -> Result<Option<&'static str>, Error> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    until_alone();
    match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {}
        Err(Errno::EPERM | Errno::EACCES) => {
            return Ok(Some("user namespaces are not for ordinary users here"));
        }
        Err(Errno::ENOSPC | Errno::EUSERS) => {
            return Ok(Some("user namespaces are turned off, or all in use"));
        }
        Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(Some("this kernel has no user namespaces")),
        Err(error) => return Err(refused("no user namespace")(error)),
    }
    let write =
        |path: &str, text: String| fs::write(path, text).map_err(host("map the user of the sandbox process"));
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    Ok(None)
}
