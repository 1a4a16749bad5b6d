//! A container's process: what it is started with, and as whom.

use std::ffi::CString;

use mote_protocol::{IdList, Operation, StrList, limits};
use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    PosixRlimitType, Process, Scheduler,
};

use super::{
    bundle::wrong,
    capabilities::{self, Sets},
    mounts::{path, text},
    seccomp::Filter,
};
use crate::{Error, program::Builder};

/// Checks what does not depend on the guest. The texts are runc's.
pub(super) fn check(process: Option<&Process>) -> Result<(), Error> {
    let process = process.ok_or_else(|| wrong("process property must not be empty"))?;
    if process.cwd().as_os_str().is_empty() {
        return Err(wrong("Cwd property must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(wrong("Cwd must be an absolute path"));
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(wrong("args must not be empty"));
    }
    for (what, label) in
        [("apparmorProfile", process.apparmor_profile()), ("selinuxLabel", process.selinux_label())]
    {
        if label.as_ref().is_some_and(|label| !label.is_empty()) {
            tracing::debug!("process.{what}: the guest's kernel has no such module; the label is ignored");
        }
    }
    if process.exec_cpu_affinity().is_some() {
        tracing::warn!("process.execCPUAffinity names CPUs of the host's and is ignored");
    }
    Ok(())
}

/// A process's strings in the form that the wire wants.
pub(super) struct Strings {
    pub(super) arguments: Vec<u8>,
    pub(super) environment: Vec<u8>,
    name: CString,
    search: CString,
    directory: CString,
}

impl Strings {
    pub(super) fn of(process: &Process) -> Result<Self, Error> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let environment = process.env().as_deref().unwrap_or_default();
        let search = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
        Ok(Self {
            arguments: list("args", arguments)?,
            environment: list("env", environment)?,
            name: text(arguments.first().map_or("", String::as_str))?,
            search: text(search.unwrap_or_default())?,
            directory: path(process.cwd())?,
        })
    }
}

/// Strings with their NULs.
pub(super) fn list(what: &str, strings: &[String]) -> Result<Vec<u8>, Error> {
    if strings.len() > limits::MAX_STRINGS {
        return Err(wrong(format!("process.{what}: more than {} entries", limits::MAX_STRINGS)));
    }
    let mut all = Vec::new();
    for string in strings {
        all.extend_from_slice(text(string)?.as_bytes_with_nul());
    }
    Ok(all)
}

/// A list from what [`list`] made.
pub(super) fn wire(list: &[u8]) -> StrList<'_> {
    StrList::from_bytes(list).unwrap_or_default()
}

/// Adds what stands before any namespace: it is about the process itself, and would not be allowed later.
pub(super) fn begin(process: &Process, builder: &mut Builder) -> Result<(), Error> {
    if let Some(adjustment) = process.oom_score_adj() {
        let content = adjustment.to_string();
        builder
            .push(Operation::WriteProc { path: c"self/oom_score_adj".into(), content: content.as_bytes() })?;
    }
    Ok(())
}

/// Adds the rest, up to the check that the program is there: the process is in its root, with all of the agent's privileges.
pub(super) fn become_user(
    process: &Process,
    strings: &Strings,
    filter: Option<&Filter>,
    builder: &mut Builder,
) -> Result<(), Error> {
    surroundings(process, builder)?;
    builder.push(Operation::ChangeDirectory { path: strings.directory.as_c_str().into() })?;
    let sets = Sets::of(process.capabilities().as_ref());
    let user = process.user();
    let groups: Vec<u8> =
        user.additional_gids().iter().flatten().flat_map(|group| group.to_le_bytes()).collect();
    if groups.len() > 4 * limits::MAX_GROUPS {
        return Err(wrong(format!("process.user.additionalGids: more than {} groups", limits::MAX_GROUPS)));
    }
    builder.push(Operation::BoundCapabilities { keep: sets.bounding })?;
    builder.push(Operation::KeepCapabilities)?;
    builder.push(Operation::SetIds {
        uid: user.uid(),
        gid: user.gid(),
        groups: IdList::from_bytes(&groups).unwrap_or_default(),
    })?;
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        builder.push(Operation::SetNoNewPrivileges)?;
    } else if let Some(filter) = filter {
        // Whoever may gain privileges needs some to load a filter; the change of user took them out of force.
        let all = capabilities::ALL;
        builder.push(Operation::SetCapabilities {
            effective: all,
            permitted: all,
            inheritable: 0,
            ambient: 0,
        })?;
        load(filter, builder)?;
    }
    builder.push(Operation::SetCapabilities {
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
        ambient: sets.ambient,
    })?;
    if let Some(mask) = user.umask() {
        builder.push(Operation::SetUmask { mask })?;
    }
    builder.push(Operation::CheckExecutable {
        name: strings.name.as_c_str().into(),
        path: strings.search.as_c_str().into(),
    })
}

/// Adds what comes last.
pub(super) fn execute(
    process: &Process,
    strings: &Strings,
    filter: Option<&Filter>,
    builder: &mut Builder,
) -> Result<(), Error> {
    if process.no_new_privileges() == Some(true)
        && let Some(filter) = filter
    {
        load(filter, builder)?;
    }
    builder.push(Operation::Exec {
        arguments: wire(&strings.arguments),
        environment: wire(&strings.environment),
    })
}

fn load(filter: &Filter, builder: &mut Builder) -> Result<(), Error> {
    builder.push(Operation::SetSeccomp { flags: filter.flags, filter: &filter.program })
}

/// What takes privileges, and belongs to the process rather than to its user.
fn surroundings(process: &Process, builder: &mut Builder) -> Result<(), Error> {
    if let Some(scheduler) = process.scheduler() {
        builder.push(self::scheduler(scheduler))?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u16::try_from(priority.priority()).ok().filter(|level| *level <= 7);
        let level = level.ok_or_else(|| wrong("process.ioPriority: priority must be 0 to 7"))?;
        builder.push(Operation::SetIoPriority { priority: class << 13 | level })?;
    }
    for limit in process.rlimits().iter().flatten() {
        if limit.soft() > limit.hard() {
            return Err(wrong(format!("process.rlimits: {}: soft is above hard", limit.typ())));
        }
        builder.push(Operation::SetLimit {
            resource: resource(limit.typ()),
            soft: limit.soft(),
            hard: limit.hard(),
        })?;
    }
    Ok(())
}

/// `RLIMIT_*` of `asm-generic/resource.h`.
fn resource(typ: PosixRlimitType) -> u8 {
    match typ {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

fn scheduler(scheduler: &Scheduler) -> Operation<'static> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Operation::SetScheduler {
        policy,
        flags: scheduler.flags().iter().flatten().map(flag).fold(0, |all, flag| all | flag),
        nice: scheduler.nice().unwrap_or(0),
        // A negative one is refused by the kernel, as one that is too large.
        priority: scheduler.priority().map_or(0, |priority| u32::try_from(priority).unwrap_or(u32::MAX)),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    }
}

/// `personality(2)`.
pub(super) fn personality(personality: &LinuxPersonality, builder: &mut Builder) -> Result<(), Error> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(wrong("linux.personality.flags: none are defined"));
    }
    let persona = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    builder.push(Operation::SetPersonality { persona })
}
