//! `events`: what a container uses, as its guest's cgroup says, and what its sandbox costs the host; and that it ran out of memory.

use std::path::Path;

use serde_json::{Value, json};

use super::{guest::Files, id::ContainerId, state::Container};
use crate::{Error, control::Status, error::Kind, sandbox::killed};

/// What a container uses at the moment, in the form that `runc events --stats` prints, with one more part: `sandbox`, what the
/// host pays for it.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn stats(root: &Path, id: &ContainerId) -> Result<Value, Error> {
    let container = running(root, id)?;
    let mut files = Files::open(&container)?;
    let data = usage(&mut files, &container);
    Ok(json!({ "type": "stats", "id": id.as_str(), "data": data }))
}

/// Waits until a process of the container was killed for want of memory, and says so each time; returns when the container has
/// ended.
///
/// # Errors
/// There is no such container, or it does not run.
pub fn watch_oom(root: &Path, id: &ContainerId, mut event: impl FnMut(Value)) -> Result<(), Error> {
    let container = running(root, id)?;
    let mut files = Files::open(&container)?;
    let mut known = files.read("memory.events")?;
    loop {
        let before = killed(&known);
        // The connection ends with the sandbox.
        let Ok(now) = files.wait("memory.events", &known) else { return Ok(()) };
        if killed(&now) > before {
            event(json!({ "type": "oom", "id": id.as_str() }));
        }
        known = now;
    }
}

fn running(root: &Path, id: &ContainerId) -> Result<Container, Error> {
    let container = Container::find(root, id)?;
    match container.status() {
        Status::Stopped | Status::Creating => {
            Err(Error::new(Kind::Container, format!("container with id {id} is not running")))
        }
        _ => Ok(container),
    }
}

fn usage(files: &mut Files, container: &Container) -> Value {
    let cpu = files.table("cpu.stat");
    let memory = files.table("memory.stat");
    let nanoseconds = |key: &str| cpu.get(key).copied().unwrap_or(0).saturating_mul(1000);
    let of = |key: &str| cpu.get(key).copied().unwrap_or(0);
    let entry = |files: &mut Files, kind: &str| {
        json!({
            "limit": files.number(&format!("{kind}.max")).unwrap_or(u64::MAX),
            "usage": files.number(&format!("{kind}.current")).unwrap_or(0),
            "max": files.number(&format!("{kind}.peak")).unwrap_or(0),
            "failcnt": files.table(&format!("{kind}.events")).get("max").copied().unwrap_or(0),
        })
    };
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds("usage_usec"),
                "kernel": nanoseconds("system_usec"),
                "user": nanoseconds("user_usec"),
            },
            "throttling": {
                "periods": of("nr_periods"),
                "throttledPeriods": of("nr_throttled"),
                "throttledTime": nanoseconds("throttled_usec"),
            },
        },
        "cpuset": {},
        "memory": {
            "cache": memory.get("file").copied().unwrap_or(0),
            "usage": entry(files, "memory"),
            "swap": entry(files, "memory.swap"),
            "kernel": {},
            "kernelTCP": {},
            "raw": memory,
        },
        "pids": {
            "current": files.number("pids.current").unwrap_or(0),
            "limit": files.number("pids.max").unwrap_or(0),
        },
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
        "sandbox": sandbox(container),
    })
}

/// The host's side: the sandbox process alone, and everything in its cgroup.
fn sandbox(container: &Container) -> Value {
    let pid = container.state.sandbox.pid;
    let cgroup = &container.state.cgroup;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
    let cpu_v2 = || {
        let text = cgroup.read("cpu", "cpu.stat", "cpu.stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        line.trim().parse::<u64>().ok()?.checked_mul(1000)
    };
    json!({
        "pid": pid,
        "pss": pss.map(|kib| kib << 10),
        "memory": number(cgroup.read("memory", "memory.current", "memory.usage_in_bytes")),
        "cpu": number(cgroup.read("cpuacct", "-", "cpuacct.usage")).or_else(cpu_v2),
    })
}
