//! `update`: new limits for a container that runs, in the guest and on the host.

use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::{
    guest::Files,
    id::ContainerId,
    state::{Container, Size},
};
use crate::{
    Error,
    cgroup::{Bound, Limits},
    control::Status,
    error::{Kind, host},
    oci,
};

const MIB: u64 = 1 << 20;

/// Sets what `resources` names; what it does not name stays. The limits are those of the guest's cgroup, and of the host's as far as
/// they concern it. The machine around the container keeps the size that it was made with.
///
/// # Errors
/// There is no such container, it does not run, it is to have more memory than its machine has, or a value is refused by the guest or
/// the host.
pub fn update(root: &Path, id: &ContainerId, resources: &LinuxResources) -> Result<(), Error> {
    let container = Container::find(root, id)?;
    if matches!(container.status(), Status::Stopped | Status::Creating) {
        return Err(Error::new(Kind::Container, "container not running"));
    }
    let (size, cgroup) = (container.state.size, &container.state.cgroup);
    let limit = resources.memory().as_ref().and_then(|memory| u64::try_from(memory.limit()?).ok());
    if let Some(limit) = limit.filter(|limit| *limit > size.memory) {
        return Err(Error::new(
            Kind::Container,
            format!(
                "cannot raise the memory limit to {} MiB: the container's machine has {} MiB, and keeps them; create it anew",
                limit / MIB,
                size.memory / MIB
            ),
        ));
    }
    let mut files = Files::open(&container)?;
    let settings = oci::cgroup::settings(&complete(resources, &mut files))?;
    for (file, value) in settings {
        files.write(&file, &value)?;
    }
    cgroup.limit(&host_limits(resources, size)).map_err(host("limit the sandbox process"))
}

/// What `resources` mean to the cgroup of the sandbox process. Memory that the machine has it may use, however little the container is
/// left of it: a guest does not give back what it had once. How many processes the container has is between it and its guest.
pub(super) fn host_limits(resources: &LinuxResources, size: Size) -> Limits {
    let memory = resources.memory().as_ref().and_then(|memory| Bound::of(memory.limit()?));
    let cpu = resources.cpu().as_ref();
    Limits {
        memory: memory.map(|memory| match memory {
            Bound::AtMost(_) => Bound::AtMost(size.memory.saturating_add(size.overhead)),
            Bound::None => Bound::None,
        }),
        pids: None,
        cpu_shares: cpu.and_then(LinuxCpu::shares),
        cpu_quota: cpu.and_then(|cpu| Bound::of(cpu.quota()?)),
        cpu_period: cpu.and_then(LinuxCpu::period),
    }
}

/// The same with the quota that there is, if there is to be another period: the guest's file has both.
fn complete(resources: &LinuxResources, files: &mut Files) -> LinuxResources {
    let mut resources = resources.clone();
    if let Some(cpu) = resources.cpu().as_ref().filter(|cpu| cpu.quota().is_none_or(|quota| quota == 0))
        && cpu.period().is_some_and(|period| period > 0)
    {
        let known = files.read("cpu.max").unwrap_or_default();
        let mut cpu = cpu.clone();
        cpu.set_quota(known.split_whitespace().next().and_then(|quota| quota.parse().ok()));
        resources.set_cpu(Some(cpu));
    }
    resources
}
