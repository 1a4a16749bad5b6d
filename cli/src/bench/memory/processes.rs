//! The processes of a machine, found from the one that was started.

use std::fs;

use anyhow::{Context, bail};

/// A machine's processes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// `mote run`.
    pub(super) caller: u32,
    /// The one that is VMM and supervisor.
    pub(super) sandbox: u32,
    /// What the sandbox process has started: QEMU, if it runs the machine.
    pub(super) helpers: Vec<u32>,
}

pub(super) fn family(caller: u32) -> anyhow::Result<Family> {
    // Another child removes the cgroup in the end.
    let mut sandboxes = children(caller)?;
    sandboxes.retain(|pid| is_sandbox(*pid));
    let [sandbox] = sandboxes[..] else {
        bail!("mote run has {} sandbox processes; one was expected", sandboxes.len());
    };
    Ok(Family { caller, sandbox, helpers: children(sandbox)? })
}

fn is_sandbox(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).next() == Some(mote_runtime::SANDBOX_NAME.as_bytes())
}

fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since it was listed.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if parent_in(&stat) == Some(parent) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The parent in `/proc/PID/stat`: the second field after the name, which is in parentheses and may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (state, parent) = {
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        (fields.next()?, fields.next()?)
    };
    // One that has ended and waits for its parent has no memory.
    if state == "Z" { None } else { parent.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_behind_any_name() {
        assert_eq!(parent_in("12 (a) S) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12 (x) Z 7 12"), None);
        assert_eq!(parent_in("nonsense"), None);
    }
}
