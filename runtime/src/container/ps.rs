//! `ps`: a container's processes.
//!
//! They are the guest's, and have numbers there that mean nothing on the host. So the table shows the guest's numbers; the list
//! of numbers, which engines hand to the host's own `ps`, has the one process that there is on the host.

use std::{fmt::Write, path::Path};

use super::{guest::Files, id::ContainerId, state::Container};
use crate::{Error, control::Status, error::Kind};

/// The process ids on the host.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn host_pids(root: &Path, id: &ContainerId) -> Result<Vec<u32>, Error> {
    Ok(vec![running(root, id)?.state.sandbox.pid])
}

/// A table of the processes in the guest, with their numbers there.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn table(root: &Path, id: &ContainerId) -> Result<String, Error> {
    let container = running(root, id)?;
    let mut files = Files::open(&container)?;
    let mut table = format!("{:<8} {:>7} {:>7} {:>8} {}\n", "UID", "PID", "PPID", "TIME", "CMD");
    for pid in files.read("cgroup.procs")?.lines().map(str::to_owned).collect::<Vec<_>>() {
        // One that has just ended is left out.
        let Some(process) = describe(&mut files, &pid) else { continue };
        let _ = writeln!(table, "{process}");
    }
    Ok(table)
}

fn running(root: &Path, id: &ContainerId) -> Result<Container, Error> {
    let container = Container::find(root, id)?;
    match container.status() {
        Status::Stopped | Status::Creating => Err(Error::new(Kind::Container, "container not running")),
        _ => Ok(container),
    }
}

fn describe(files: &mut Files, pid: &str) -> Option<String> {
    let stat = files.read(&format!("/proc/{pid}/stat")).ok()?;
    let status = files.read(&format!("/proc/{pid}/status")).ok()?;
    let arguments = files.read(&format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next())?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()?.checked_add(fields.get(12)?.parse().ok()?)?;
    // Linux shows users hundredths of a second, whatever its timer does.
    let seconds = ticks / 100;
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let command = match arguments.trim_end_matches('\0') {
        "" => format!("[{name}]"),
        arguments => arguments.replace('\0', " "),
    };
    Some(format!("{uid:<8} {pid:>7} {:>7} {time:>8} {command}", fields.get(1)?))
}
