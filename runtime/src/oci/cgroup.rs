//! Cgroup resources: which files of the container's cgroup (version 2) say what.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::bundle::wrong;
use crate::Error;

/// The controllers that the container's cgroup has.
pub const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// A file of a cgroup and what is written to it.
pub type Setting = (String, String);

/// What `resources` mean to the guest's cgroup: names of files in its folder and their contents, in the order in which they are to be
/// written. Nothing is said about what is left out.
///
/// # Errors
/// A name among the unified settings that is no file of a cgroup's controller.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, Error> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        self::memory(memory, &mut all);
    }
    if let Some(cpu) = resources.cpu() {
        self::cpu(cpu, &mut all);
    }
    if let Some(pids) = resources.pids()
        && pids.limit() != 0
    {
        all.push(("pids.max".to_owned(), limit(pids.limit())));
    }
    if let Some(io) = resources.block_io() {
        if let Some(weight) = io.weight().filter(|weight| *weight > 0) {
            // 10 to 1000 become 1 to 10000.
            let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990;
            all.push(("io.weight".to_owned(), format!("default {weight}")));
        }
        let devices = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ];
        let of_devices = devices.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty()));
        ignored("blockIO of single devices", of_devices || io.weight_device().is_some());
    }
    for page in resources.hugepage_limits().iter().flatten() {
        all.push((format!("hugetlb.{}.max", page.page_size()), limit(page.limit())));
    }
    ignored("network", resources.network().is_some());
    ignored("rdma", resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()));
    // In an order that does not change from call to call.
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (name, value) in unified {
        let is_file = name.split_once('.').is_some_and(|(controller, _)| CONTROLLERS.contains(&controller));
        if !is_file || name.contains('/') {
            return Err(wrong(format!(
                "linux.resources.unified: {name:?} is no file of a cgroup's controller"
            )));
        }
        all.push((name.clone(), value.clone()));
    }
    Ok(all)
}

fn memory(memory: &LinuxMemory, all: &mut Vec<Setting>) {
    if let Some(bytes) = memory.limit().filter(|bytes| *bytes != 0) {
        all.push(("memory.max".to_owned(), limit(bytes)));
    }
    if let Some(bytes) = memory.reservation().filter(|bytes| *bytes != 0) {
        all.push(("memory.low".to_owned(), limit(bytes)));
    }
    ignored("memory.swap", memory.swap().is_some_and(|bytes| bytes > 0) && memory.swap() != memory.limit());
    ignored("memory.swappiness", memory.swappiness().is_some());
    ignored("memory.kernel", memory.kernel().is_some_and(|bytes| bytes > 0));
    ignored("memory.kernelTCP", memory.kernel_tcp().is_some_and(|bytes| bytes > 0));
    ignored("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true));
}

fn cpu(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        // 2 to 262144 become 1 to 10000.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        all.push(("cpu.weight".to_owned(), weight.to_string()));
    }
    if let Some(idle) = cpu.idle() {
        all.push(("cpu.idle".to_owned(), idle.to_string()));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period > 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".to_owned(), limit);
        // Without a period, the one of before stays.
        let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
        all.push(("cpu.max".to_owned(), value));
    }
    if let Some(burst) = cpu.burst() {
        all.push(("cpu.max.burst".to_owned(), burst.to_string()));
    }
    let realtime = cpu.realtime_runtime().is_some_and(|time| time > 0)
        || cpu.realtime_period().is_some_and(|time| time > 0);
    ignored("cpu.realtimeRuntime and cpu.realtimePeriod", realtime);
    let mems = cpu.mems().as_ref().is_some_and(|mems| !mems.is_empty());
    ignored("cpu.mems", mems);
}

/// A limit as cgroups write it: a negative one is none.
fn limit(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn ignored(what: &str, is_there: bool) {
    if is_there {
        tracing::warn!("linux.resources: {what} has no meaning in the guest and is ignored");
    }
}
