//! Compiles a bundle to programs: one that makes the container and becomes its first process, and one for each further process.
//!
//! The order in the first one: the processors and the cgroup, while the agent's own view of the guest is still the child's; the root
//! and its mounts; who the process is; everything that can be wrong with the program to execute; the gate; hooks; the program. With a
//! user namespace, what only the guest's root may do comes first, and the other namespaces are made inside of it, so that they are
//! its own.

use std::ffi::CString;

use mote_protocol::{Operation, StrList};
use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, Process};

use super::{
    CONTAINER, GUEST_CGROUP,
    bundle::{Bundle, wrong},
    cgroup, devices, mounts,
    mounts::text,
    process::{self, Strings},
    seccomp,
};
use crate::{
    Error,
    program::{Builder, Program, processors},
};

/// `CLONE_NEW*` of `linux/sched.h`.
const NEW_TIME: u32 = 0x80;
const NEW_MOUNT: u32 = 0x2_0000;
const NEW_CGROUP: u32 = 0x200_0000;
const NEW_UTS: u32 = 0x400_0000;
const NEW_IPC: u32 = 0x800_0000;
const NEW_USER: u32 = 0x1000_0000;
const NEW_PID: u32 = 0x2000_0000;
const NEW_NET: u32 = 0x4000_0000;

/// The namespaces of a container besides that of users.
fn namespaces(bundle: &Bundle) -> u32 {
    let mut all = NEW_MOUNT | NEW_CGROUP | NEW_UTS | NEW_IPC | NEW_PID;
    if bundle.has_user_namespace() {
        all |= NEW_NET;
    }
    if bundle.namespace(LinuxNamespaceType::Time).is_some() {
        all |= NEW_TIME;
    }
    all
}

/// The program that makes the container. It stops at its gate, and executes the container's program behind it.
///
/// `state` is what `startContainer` hooks read: the container's state, as JSON.
///
/// # Errors
/// The configuration asks for what cannot be in a VM, or is too long.
pub fn container(bundle: &Bundle, state: &[u8]) -> Result<Program, Error> {
    let process =
        bundle.spec().process().as_ref().ok_or_else(|| wrong("process property must not be empty"))?;
    let strings = Strings::of(process)?;
    let filter = filter(bundle)?;
    let mut builder = Builder::new();
    processors::start(bundle.size().vcpus, &mut |operation| builder.push(operation))?;
    mounts::agents_view(&mut builder)?;
    enter_cgroup(bundle, &mut builder)?;
    process::begin(process, &mut builder)?;
    enter_namespaces(bundle, process, &mut builder)?;
    mounts::compile(bundle, &mut builder)?;
    devices::nodes(bundle, &mut builder)?;
    let linux = bundle.linux();
    if let Some(linux) = linux {
        sysctl(linux, &mut builder)?;
        hide(linux, &mut builder)?;
    }
    close_root(bundle, process, &mut builder)?;
    names(bundle, &mut builder)?;
    builder.push(Operation::RaiseLoopback)?;
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        process::personality(personality, &mut builder)?;
    }
    process::become_user(process, &strings, filter.as_ref(), &mut builder)?;
    builder.push(Operation::Await)?;
    let hooks = bundle.spec().hooks().as_ref().and_then(|hooks| hooks.start_container().as_deref());
    for hook in hooks.unwrap_or_default() {
        start_hook(hook, &strings, state, &mut builder)?;
    }
    process::execute(process, &strings, filter.as_ref(), &mut builder)?;
    Ok(builder.finish())
}

/// The program of a further process in a container that is there.
///
/// # Errors
/// As for [`container`].
pub fn exec(bundle: &Bundle, process: &Process) -> Result<Program, Error> {
    let strings = Strings::of(process)?;
    let filter = filter(bundle)?;
    let mut builder = Builder::new();
    write(&format!("{GUEST_CGROUP}/cgroup.procs"), "0", &mut builder)?;
    process::begin(process, &mut builder)?;
    let mut namespaces = namespaces(bundle);
    if bundle.has_user_namespace() {
        namespaces |= NEW_USER;
        give_streams(bundle, process, &mut builder)?;
    }
    builder.push(Operation::Join { process: CONTAINER, namespaces })?;
    if let Some(personality) = bundle.linux().and_then(|linux| linux.personality().as_ref()) {
        process::personality(personality, &mut builder)?;
    }
    process::become_user(process, &strings, filter.as_ref(), &mut builder)?;
    process::execute(process, &strings, filter.as_ref(), &mut builder)?;
    Ok(builder.finish())
}

fn filter(bundle: &Bundle) -> Result<Option<seccomp::Filter>, Error> {
    let profile = bundle.linux().and_then(|linux| linux.seccomp().as_ref());
    profile.map(seccomp::compile).transpose()
}

fn write(path: &str, content: &str, builder: &mut Builder) -> Result<(), Error> {
    let path = text(path)?;
    builder.push(Operation::WriteFile { path: path.as_c_str().into(), content: content.as_bytes() })
}

/// Sets the container's cgroup up and enters it.
fn enter_cgroup(bundle: &Bundle, builder: &mut Builder) -> Result<(), Error> {
    let controllers = cgroup::CONTROLLERS.map(|controller| format!("+{controller}")).join(" ");
    write("/sys/fs/cgroup/cgroup.subtree_control", &controllers, builder)?;
    if let Some(resources) = bundle.resources() {
        for (name, value) in cgroup::settings(resources)? {
            write(&format!("{GUEST_CGROUP}/{name}"), &value, builder)?;
        }
        if let Some(program) = devices::filter(resources.devices().as_deref().unwrap_or_default())? {
            let cgroup = text(GUEST_CGROUP)?;
            builder.push(Operation::FilterDevices { cgroup: cgroup.as_c_str().into(), program: &program })?;
        }
    }
    write(&format!("{GUEST_CGROUP}/cgroup.procs"), "0", builder)
}

/// Makes the namespaces and mounts the root in them.
fn enter_namespaces(bundle: &Bundle, process: &Process, builder: &mut Builder) -> Result<(), Error> {
    if !bundle.has_user_namespace() {
        builder.push(Operation::Unshare { namespaces: namespaces(bundle) & !NEW_TIME })?;
        new_times(bundle, builder)?;
        mounts::root(builder)?;
        return builder.push(Operation::SetRoot { path: c"/root".into() });
    }
    builder.push(Operation::Unshare { namespaces: NEW_MOUNT })?;
    new_times(bundle, builder)?;
    mounts::root(builder)?;
    // The kernel lets a new user mount `proc` and `sysfs` only where it can see them already.
    builder.push(Operation::Mount {
        fs_type: c"sysfs".into(),
        source: c"sysfs".into(),
        target: c"/sys".into(),
        attributes: 0,
        options: StrList::default(),
    })?;
    let (uids, gids) = maps(bundle)?;
    give_streams(bundle, process, builder)?;
    builder
        .push(Operation::EnterUserNamespace { uids: uids.as_c_str().into(), gids: gids.as_c_str().into() })?;
    builder.push(Operation::Unshare { namespaces: namespaces(bundle) & !NEW_TIME })?;
    // Mounts that came along from another user's namespace cannot be moved; a copy of its own can.
    builder.push(Operation::BindMount {
        source: c"/root".into(),
        target: c"/root".into(),
        recursive: true,
    })?;
    builder.push(Operation::SetRoot { path: c"/root".into() })
}

/// A time namespace counts from when its offsets were written, for the program that is executed in the end.
fn new_times(bundle: &Bundle, builder: &mut Builder) -> Result<(), Error> {
    let offsets = bundle.linux().and_then(|linux| linux.time_offsets().as_ref());
    if bundle.namespace(LinuxNamespaceType::Time).is_none() {
        return match offsets {
            Some(offsets) if !offsets.is_empty() => {
                Err(wrong("linux.timeOffsets: time offsets specified, but no time namespace"))
            }
            _ => Ok(()),
        };
    }
    builder.push(Operation::Unshare { namespaces: NEW_TIME })?;
    let mut clocks: Vec<_> = offsets.into_iter().flatten().collect();
    clocks.sort_by_key(|(clock, _)| clock.as_str());
    let lines: String = clocks
        .into_iter()
        .map(|(clock, offset)| {
            format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    builder.push(Operation::WriteProc { path: c"self/timens_offsets".into(), content: lines.as_bytes() })
}

fn maps(bundle: &Bundle) -> Result<(CString, CString), Error> {
    let linux = bundle.linux();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    if uids.is_empty() || gids.is_empty() {
        return Err(wrong("linux.uidMappings: a user namespace needs uidMappings and gidMappings"));
    }
    Ok((mounts::id_map(uids), mounts::id_map(gids)))
}

/// Gives the standard streams to the user that the container's is outside of it: from within, nobody could.
fn give_streams(bundle: &Bundle, process: &Process, builder: &mut Builder) -> Result<(), Error> {
    let linux = bundle.linux();
    let outside = |id: u32, maps: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>| {
        maps.into_iter().flatten().find_map(|map| {
            let offset = id.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
            map.host_id().checked_add(offset)
        })
    };
    let user = process.user();
    let uid = outside(user.uid(), linux.and_then(|linux| linux.uid_mappings().as_ref()));
    let gid = outside(user.gid(), linux.and_then(|linux| linux.gid_mappings().as_ref()));
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(wrong(format!(
            "process.user: {}:{} is not in the mappings of the user namespace",
            user.uid(),
            user.gid()
        )));
    };
    builder.push(Operation::GiveStreams { uid, gid })
}

fn sysctl(linux: &Linux, builder: &mut Builder) -> Result<(), Error> {
    let mut settings: Vec<_> = linux.sysctl().iter().flatten().collect();
    settings.sort();
    for (name, value) in settings {
        // What is written with a slash may have dots in its names.
        let path = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(wrong(format!("linux.sysctl: {name:?} is no name of a kernel parameter")));
        }
        let path = text(&format!("sys/{path}"))?;
        builder.push(Operation::WriteProc { path: path.as_c_str().into(), content: value.as_bytes() })?;
    }
    Ok(())
}

fn hide(linux: &Linux, builder: &mut Builder) -> Result<(), Error> {
    for path in linux.readonly_paths().iter().flatten() {
        let path = text(path)?;
        builder.push(Operation::ProtectPath { path: path.as_c_str().into() })?;
    }
    for path in linux.masked_paths().iter().flatten() {
        let path = text(path)?;
        builder.push(Operation::MaskPath { path: path.as_c_str().into() })?;
    }
    Ok(())
}

/// Does what is left to do in the root, and makes it the process's own.
fn close_root(bundle: &Bundle, process: &Process, builder: &mut Builder) -> Result<(), Error> {
    let directory = mounts::path(process.cwd())?;
    builder.push(Operation::MakeDirectory { path: directory.as_c_str().into(), mode: 0o755 })?;
    let read_only = bundle.spec().root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let name = bundle.linux().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    let name = name.trim();
    // With or without the letter that says that it is recursive, which here it always is.
    let propagation = match name.strip_prefix('r').filter(|rest| !rest.is_empty()).unwrap_or(name) {
        "" => 0,
        name => mounts::propagation(name)
            .ok_or_else(|| wrong(format!("linux.rootfsPropagation: {name:?} is not known")))?,
    };
    if read_only {
        builder.push(Operation::ChangeMount {
            target: c"/".into(),
            recursive: false,
            set: mounts::RDONLY,
            clear: 0,
            propagation: 0,
        })?;
    }
    builder.push(Operation::EnterRoot)?;
    if propagation != 0 {
        builder.push(Operation::ChangeMount {
            target: c"/".into(),
            recursive: true,
            set: 0,
            clear: 0,
            propagation,
        })?;
    }
    Ok(())
}

fn names(bundle: &Bundle, builder: &mut Builder) -> Result<(), Error> {
    const MAX: usize = 64;
    let spec = bundle.spec();
    let long = |what: &str| wrong(format!("{what}: must have at most {MAX} bytes"));
    let host = match spec.hostname() {
        Some(name) if !name.is_empty() => name.clone(),
        // Without a namespace for it, the name is the host's; with one, too, until somebody changes it.
        _ => nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".to_owned()),
    };
    if host.len() > MAX {
        return Err(long("hostname"));
    }
    let host = text(&host)?;
    builder.push(Operation::SetHostname { name: host.as_c_str().into() })?;
    if let Some(domain) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        if domain.len() > MAX {
            return Err(long("domainname"));
        }
        let domain = text(domain)?;
        builder.push(Operation::SetDomainname { name: domain.as_c_str().into() })?;
    }
    Ok(())
}

fn start_hook(hook: &Hook, strings: &Strings, state: &[u8], builder: &mut Builder) -> Result<(), Error> {
    let path = mounts::path(hook.path())?;
    if !hook.path().is_absolute() {
        return Err(wrong(format!("hooks.startContainer: {}: path must be absolute", hook.path().display())));
    }
    let arguments = match hook.args().as_deref() {
        Some(arguments) if !arguments.is_empty() => process::list("args", arguments)?,
        _ => path.as_bytes_with_nul().to_vec(),
    };
    let environment = match hook.env().as_deref() {
        Some(environment) => process::list("env", environment)?,
        None => strings.environment.clone(),
    };
    let timeout = match hook.timeout() {
        None => 0,
        Some(seconds) => u32::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .and_then(|seconds| seconds.checked_mul(1000))
            .ok_or_else(|| wrong("hooks.startContainer: timeout must be greater than zero"))?,
    };
    builder.push(Operation::RunHook {
        path: path.as_c_str().into(),
        arguments: process::wire(&arguments),
        environment: process::wire(&environment),
        input: state,
        timeout_ms: timeout,
    })
}
