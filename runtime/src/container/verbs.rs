//! `start`, `state`, `list`, `kill`, `delete`, `pause` and `resume`: short conversations with the sandbox process.

use std::{io, path::Path};

use super::{
    create::run_poststop,
    folder::{self, Folder},
    hooks,
    id::ContainerId,
    state::{Container, State, View},
};
use crate::{
    Error,
    cgroup::HostCgroup,
    control::{Ask, Status},
    error::Kind,
    oci,
};

const SIGKILL: u8 = 9;

/// Lets a created container's program begin.
///
/// # Errors
/// The container is not one that waits for its start, its program cannot be executed after all, or a hook fails.
pub fn start(root: &Path, id: &ContainerId) -> Result<(), Error> {
    let container = Container::find(root, id)?;
    container.ask(&Ask::Start, "cannot start a container that has stopped")?;
    let hooks = container.state.hooks.as_ref().and_then(|hooks| hooks.poststart().as_ref());
    let view = container.state.view(Status::Running, None);
    hooks::run("poststart", hooks, &view).inspect_err(|_| container.state.sandbox.kill())
}

/// How a container is.
///
/// # Errors
/// There is none of this id.
pub fn state(root: &Path, id: &ContainerId) -> Result<View, Error> {
    Ok(Container::find(root, id)?.view())
}

/// All containers below `root`, in the order of their ids.
///
/// # Errors
/// The folder cannot be read. Containers that come and go meanwhile are no error.
pub fn list(root: &Path) -> Result<Vec<View>, Error> {
    let ids = match folder::list(root) {
        Ok(ids) => ids,
        Err(error) => {
            return Err(Error::because(Kind::NoContainer, format!("cannot read {}", root.display()), &error));
        }
    };
    let mut views = Vec::new();
    for id in ids {
        match Container::find(root, &id) {
            Ok(container) => {
                let owner = nix::unistd::User::from_uid(container.state.owner.into()).ok().flatten();
                let owner = owner.map_or_else(|| format!("#{}", container.state.owner), |user| user.name);
                let mut view = container.view();
                view.owner = owner;
                views.push(view);
            }
            Err(error) if error.0.kind == Kind::NoContainer => {}
            Err(error) => tracing::error!("load container {id}: {error}"),
        }
    }
    Ok(views)
}

/// Sends a signal to a container's first process, or to `all` of its processes. Signal 0 only asks whether there is one.
///
/// # Errors
/// There is no such container, or none that runs.
pub fn kill(root: &Path, id: &ContainerId, signal: u8, all: bool) -> Result<(), Error> {
    let container = Container::find(root, id)?;
    if all {
        if container.status() == Status::Stopped {
            return Ok(());
        }
        let processes = format!("{}/cgroup.procs", oci::GUEST_CGROUP);
        let killed = container.ask(&Ask::KillGroup { processes, signal }, "container not running");
        // The first process takes the others along.
        return if signal == SIGKILL { kill_init(&container, signal) } else { killed.map(drop) };
    }
    kill_init(&container, signal)
}

fn kill_init(container: &Container, signal: u8) -> Result<(), Error> {
    const GONE: &str = "container not running";
    if signal == SIGKILL && container.state.sandbox.stands_still() {
        // It passes nothing on.
        container.state.sandbox.kill();
        Ok(())
    } else if container.state.sandbox.is_alive() {
        container.ask(&Ask::Kill { signal }, GONE).map(drop)
    } else {
        Err(Error::new(Kind::Container, GONE))
    }
}

/// Removes a container that has stopped, or that was never started; with `force`, any.
///
/// # Errors
/// There is none, or it runs.
pub fn delete(root: &Path, id: &ContainerId, force: bool) -> Result<(), Error> {
    let mut folder = match Folder::open(root, id) {
        Err(error) if force && error.0.kind == Kind::NoContainer => return Ok(()),
        result => result?,
    };
    match folder.lock() {
        Err(error) if force && error.0.kind == Kind::NoContainer => return Ok(()),
        result => result?,
    }
    let state: State = match folder.read_state() {
        Ok(Some(state)) => state,
        Ok(None) if !force => return Err(folder::does_not_exist()),
        Err(error) if !force => return Err(error),
        // What a `create` has left that was killed, or whatever has become of the state.
        unreadable => {
            unreadable.err().inspect(|error| tracing::warn!("{error}"));
            folder.read_cgroup::<HostCgroup>().unwrap_or_default().remove();
            return folder.remove();
        }
    };
    let container = Container { folder, state };
    match container.status() {
        // Its output may still be on its way.
        Status::Stopped if !force => container.state.sandbox.wait(),
        Status::Stopped | Status::Created => container.state.sandbox.kill(),
        _ if force => container.state.sandbox.kill(),
        status => {
            return Err(Error::new(
                Kind::Container,
                format!("cannot delete container {id} that is not stopped: {}", status.as_str()),
            ));
        }
    }
    container.state.cgroup.remove();
    run_poststop(&container.state);
    container.folder.remove()
}

/// Has all processes of a container stand still, or go on.
///
/// # Errors
/// There is no such container, or it is not in a state for that.
pub fn freeze(root: &Path, id: &ContainerId, frozen: bool) -> Result<(), Error> {
    let container = Container::find(root, id)?;
    let gone = if frozen { "container not running" } else { "container not paused" };
    match (container.status(), frozen) {
        (Status::Running, true) | (Status::Paused, false) => {}
        _ => return Err(Error::new(Kind::Container, gone)),
    }
    let mut guest = super::guest::Files::open(&container)?;
    guest.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
    guest.wait_until("cgroup.events", if frozen { "frozen 1" } else { "frozen 0" })?;
    container.ask(&Ask::Frozen { frozen }, gone).map(drop)
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::because(Kind::Container, "the sandbox process is gone", &error)
    }
}
