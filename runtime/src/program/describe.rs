//! What an operation does, in words: the middle of "cannot … in the guest".

use mote_protocol::{Operation, WireStr};

pub(super) fn describe(operation: &Operation<'_>) -> String {
    let text = |string: WireStr<'_>| string.as_c_str().to_string_lossy().into_owned();
    match *operation {
        Operation::Unshare { .. } => "make namespaces".into(),
        Operation::MakeDirectory { path, .. } => format!("make folder {}", text(path)),
        Operation::MakeSymlink { path, .. } => format!("make symbolic link {}", text(path)),
        Operation::MakeDevice { path, .. } => format!("make device {}", text(path)),
        Operation::Mount { fs_type, target, .. } => format!("mount {} on {}", text(fs_type), text(target)),
        Operation::MountCopy { target, .. } => {
            format!("mount a tmpfs with a copy of {0} on {0}", text(target))
        }
        Operation::BindMount { source, target, .. } | Operation::Bind { source, target, .. } => {
            format!("bind {} to {}", text(source), text(target))
        }
        Operation::BindTerminal { target } => format!("bind the terminal to {}", text(target)),
        Operation::SetMountAttributes { target, .. } | Operation::ChangeMount { target, .. } => {
            format!("change the mount at {}", text(target))
        }
        Operation::MaskPath { path } => format!("mask {}", text(path)),
        Operation::ProtectPath { path } => format!("make {} read-only", text(path)),
        Operation::SetRoot { path } => format!("use {} as root", text(path)),
        Operation::EnterRoot => "enter the root".into(),
        Operation::WriteFile { path, .. } => format!("write {}", text(path)),
        Operation::WriteProc { path, .. } => format!("write /proc/{}", text(path)),
        Operation::SetHostname { name } => format!("set host name {}", text(name)),
        Operation::SetDomainname { name } => format!("set domain name {}", text(name)),
        Operation::RaiseLoopback => "bring the loopback device up".into(),
        Operation::EnterUserNamespace { .. } => "enter a user namespace".into(),
        Operation::Join { .. } => "join the container's namespaces".into(),
        Operation::Await => "wait for the start".into(),
        Operation::GiveStreams { uid, gid } => format!("give the standard streams to user {uid}:{gid}"),
        Operation::SetIds { uid, gid, .. } => format!("become user {uid}:{gid}"),
        Operation::KeepCapabilities => "keep capabilities".into(),
        Operation::BoundCapabilities { .. } => "bound capabilities".into(),
        Operation::SetCapabilities { .. } => "set capabilities".into(),
        Operation::SetLimit { resource, .. } => format!("set resource limit {resource}"),
        Operation::SetUmask { mask } => format!("set umask {mask:03o}"),
        Operation::SetNoNewPrivileges => "give up new privileges".into(),
        Operation::SetSeccomp { .. } => "load the seccomp filter".into(),
        Operation::SetScheduler { policy, .. } => format!("set scheduling policy {policy}"),
        Operation::SetIoPriority { priority } => format!("set I/O priority {priority:#x}"),
        Operation::SetPersonality { persona } => format!("set personality {persona:#x}"),
        Operation::FilterDevices { cgroup, .. } => format!("filter the devices of cgroup {}", text(cgroup)),
        Operation::ChangeDirectory { path } => format!("change to working directory {}", text(path)),
        Operation::CheckExecutable { name, .. } => format!("execute {}", text(name)),
        Operation::RunHook { path, .. } => format!("run hook {}", text(path)),
        Operation::Exec { arguments, .. } => {
            let program = arguments.iter().next().map(|name| name.to_string_lossy().into_owned());
            format!("execute {}", program.unwrap_or_default())
        }
    }
}
