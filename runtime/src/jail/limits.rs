//! Resource limits of the process. What it may use of the machine is its cgroup's business.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Layers, refused};
use crate::Error;

/// Descriptors of a sandbox process: some 20 of the VM, and 2 for each of the guest's streams, of which the VMM allows 1024.
pub(super) const DESCRIPTORS: u64 = 4096;
/// Memory that may be locked, in bytes. Nothing of ours is; QEMU's io_uring counts as locked on older kernels.
const LOCKED: u64 = 64 << 10;

pub(super) fn set(descriptors: u64, layers: &mut Layers) -> Result<(), Error> {
    for (resource, most) in [
        // A core file would have the guest's memory in it.
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, LOCKED),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_NOFILE, descriptors),
    ] {
        // Never above what there was: that would need a privilege.
        let (_, hard) = getrlimit(resource).map_err(refused("resource limits cannot be read"))?;
        let most = most.min(hard);
        setrlimit(resource, most, most).map_err(refused("resource limits"))?;
    }
    // Neither other processes of the same user may look into this one, nor does it leave a core.
    nix::sys::prctl::set_dumpable(false).map_err(refused("no protection from debuggers"))?;
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(refused("resource limits cannot be read"))?;
    layers.in_force("resource limits", format!("no core, {most} descriptors, nothing for debuggers"));
    Ok(())
}
