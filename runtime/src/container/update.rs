//! `update`: new limits for a container that runs.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::{guest::Files, id::ContainerId, state::Container};
use crate::{Error, control::Status, error::Kind, oci};

/// Sets what `resources` names; what it does not name stays. The limits are those of the guest's cgroup: the machine around the
/// container keeps the size that it was made with.
///
/// # Errors
/// There is no such container, it does not run, or the guest refuses a value.
pub fn update(root: &Path, id: &ContainerId, resources: &LinuxResources) -> Result<(), Error> {
    let container = Container::find(root, id)?;
    if matches!(container.status(), Status::Stopped | Status::Creating) {
        return Err(Error::new(Kind::Container, "container not running"));
    }
    let mut files = Files::open(&container)?;
    for (file, value) in oci::cgroup::settings(resources)? {
        files.write(&file, &value)?;
    }
    Ok(())
}
