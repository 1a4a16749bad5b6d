//! Pods, as engines make them without asking: a container is told to be in the namespaces of another one's process.
//!
//! Each has a VM of its own. A network namespace is the host's, and both can be in it. IPC and UTS namespaces cannot be shared from
//! one kernel to the other: a container has its own, where it is called what the other one is called. Containers that do not use them
//! to reach each other, one alone above all, notice no difference.

use std::path::Path;

use oci_spec::runtime::LinuxNamespaceType;

use super::{
    folder::{self, Folder},
    state::State,
};
use crate::{
    Error,
    oci::{self, Bundle},
};

/// Makes what it can of the namespaces that are named by their process.
///
/// # Errors
/// One of them is not that of a container below `root`.
pub(super) fn join(root: &Path, bundle: &mut Bundle) -> Result<(), Error> {
    let mut hostname = None;
    for (process, typ, path) in bundle.neighbours() {
        let Some(neighbour) = find(root, process) else { return Err(oci::cannot_join(typ, path)) };
        tracing::warn!(
            "a container in a VM cannot share the {typ} namespace of container {}, and has its own",
            neighbour.id
        );
        if typ == LinuxNamespaceType::Uts {
            hostname = neighbour.hostname;
        }
    }
    if let Some(hostname) = hostname {
        bundle.name(&hostname);
    }
    Ok(())
}

/// The container whose sandbox process this is.
fn find(root: &Path, process: u32) -> Option<State> {
    let states = folder::list(root).ok()?.into_iter().filter_map(|id| {
        let state: State = Folder::open(root, &id).ok()?.read_state().ok()??;
        Some(state)
    });
    states.into_iter().find(|state| state.sandbox.pid == process && state.sandbox.is_alive())
}
