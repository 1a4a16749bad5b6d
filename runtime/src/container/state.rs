//! What is known of a container: the part that `create` writes down, and the view that `state`, `list` and hooks get.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Hooks;
use serde::{Deserialize, Serialize};

use super::{
    folder::{self, CONTROL, Folder},
    id::ContainerId,
};
use crate::{
    Error,
    cgroup::HostCgroup,
    control::{Answer, Ask, Connection, Status},
    error::Kind,
    identity::Identity,
    sandbox::Ended,
};

/// What `create` writes down, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub(super) created: String,
    pub(super) annotations: BTreeMap<String, String>,
    /// What it is called in its network, if anything is said.
    pub(super) hostname: Option<String>,
    /// The user that has created it.
    pub(super) owner: u32,
    /// The sandbox process.
    pub(super) sandbox: Identity,
    pub(super) cgroup: HostCgroup,
    pub(super) size: Size,
    pub(super) hooks: Option<Hooks>,
}

/// How large a container's sandbox is made.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Size {
    /// The memory of its machine, in bytes.
    pub(super) memory: u64,
    /// What it may take of the host beyond that, in bytes.
    pub(super) overhead: u64,
}

/// What people, engines and hooks see of a container (runtime-spec, "State").
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    oci_version: String,
    /// The container's id.
    pub id: String,
    /// The sandbox process; 0 if the container has stopped.
    pub pid: u32,
    /// How it is.
    pub status: Status,
    /// The bundle's folder.
    pub bundle: PathBuf,
    rootfs: PathBuf,
    /// When it was created: RFC 3339, UTC.
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    /// The name of the user that has created it; `list` fills it.
    pub owner: String,
    /// The status that it has ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u8>,
}

impl State {
    pub(super) fn view(&self, status: Status, ended: Option<&Ended>) -> View {
        let stopped = status == Status::Stopped;
        View {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            pid: if stopped { 0 } else { self.sandbox.pid },
            status,
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            annotations: self.annotations.clone(),
            owner: String::new(),
            exit_status: ended.filter(|_| stopped).map(|ended| ended.status),
        }
    }
}

/// A container as it is found.
pub(super) struct Container {
    pub(super) folder: Folder,
    pub(super) state: State,
}

impl Container {
    /// Finds a container that was created, or is being created.
    pub(super) fn find(root: &Path, id: &ContainerId) -> Result<Self, Error> {
        let folder = Folder::open(root, id)?;
        match folder.read_state()? {
            Some(state) => Ok(Self { folder, state }),
            None => Err(folder::does_not_exist()),
        }
    }

    /// How it is. The sandbox process knows; without one, the container has stopped.
    pub(super) fn status(&self) -> Status {
        if !self.state.sandbox.is_alive() {
            return Status::Stopped;
        }
        if self.state.sandbox.stands_still() {
            return Status::Paused;
        }
        match self.ask(&Ask::Status, "") {
            Ok(Answer::Status(status)) => status,
            _ => Status::Stopped,
        }
    }

    pub(super) fn view(&self) -> View {
        self.state.view(self.status(), self.folder.read_ended().as_ref())
    }

    /// Connects to the sandbox process; `gone` is what it means if there is none.
    pub(super) fn connect(&self, gone: &str) -> Result<Connection, Error> {
        // One that a signal has stopped would be waited for until another one has it go on.
        if self.state.sandbox.stands_still() {
            let pid = self.state.sandbox.pid;
            let what = format!("the sandbox process {pid} was stopped by a signal: SIGCONT has it go on");
            return Err(Error::new(Kind::Container, what));
        }
        Connection::open(&self.folder.short_path(CONTROL)).map_err(|_| Error::new(Kind::Container, gone))
    }

    /// Asks the sandbox process; `gone` is what it means if there is none.
    pub(super) fn ask(&self, ask: &Ask, gone: &str) -> Result<Answer, Error> {
        match self.connect(gone)?.ask(ask).map_err(|_| Error::new(Kind::Container, gone))? {
            Answer::Failed(failure) => Err(Error(Box::new(failure))),
            answer => Ok(answer),
        }
    }
}
