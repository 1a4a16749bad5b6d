//! What an operation does, in words for people: "cannot" and "in the guest" go around them.

use mote_protocol::{Operation, WireStr};

pub(super) fn describe(operation: &Operation<'_>) -> String {
    let text = |string: WireStr<'_>| string.as_c_str().to_string_lossy().into_owned();
    match *operation {
        Operation::Unshare { .. } => "make namespaces".into(),
        Operation::MakeDirectory { path, .. } => format!("make folder {}", text(path)),
        Operation::MakeSymlink { path, .. } => format!("make symbolic link {}", text(path)),
        Operation::Mount { fs_type, target, .. } => format!("mount {} on {}", text(fs_type), text(target)),
        Operation::BindMount { source, target, .. } | Operation::Bind { source, target, .. } => {
            format!("bind {} to {}", text(source), text(target))
        }
        Operation::SetMountAttributes { target, .. } | Operation::ChangeMount { target, .. } => {
            format!("change the mount at {}", text(target))
        }
        Operation::SetRoot { path } => format!("use {} as root", text(path)),
        Operation::EnterRoot => "enter the root".into(),
        Operation::SetHostname { name } => format!("set host name {}", text(name)),
        Operation::SetIds { uid, gid, .. } => format!("become user {uid}:{gid}"),
        Operation::ChangeDirectory { path } => format!("change to working directory {}", text(path)),
        Operation::Exec { arguments, .. } => {
            let program = arguments.iter().next().map(|name| name.to_string_lossy().into_owned());
            format!("execute {}", program.unwrap_or_default())
        }
        Operation::Await => "wait for the start".into(),
        Operation::Join { .. } => "join the container".into(),
        Operation::EnterUserNamespace { .. } => "make the user namespace".into(),
        Operation::WriteFile { path, content } => {
            format!("write {:?} to {}", String::from_utf8_lossy(content), text(path))
        }
        Operation::WriteProc { path, content } => {
            format!("write {:?} to /proc/{}", String::from_utf8_lossy(content), text(path))
        }
        Operation::MakeDevice { path, .. } => format!("make device {}", text(path)),
        Operation::MountCopy { target, .. } => format!("mount a tmpfs with a copy of {}", text(target)),
        Operation::BindTerminal { target } => format!("show the terminal as {}", text(target)),
        Operation::MaskPath { path } => format!("hide {}", text(path)),
        Operation::ProtectPath { path } => format!("make {} read-only", text(path)),
        Operation::SetDomainname { name } => format!("set domain name {}", text(name)),
        Operation::GiveStreams { uid, gid } => format!("give the standard streams to user {uid}:{gid}"),
        Operation::KeepCapabilities => "keep capabilities".into(),
        Operation::BoundCapabilities { .. } => "bound the capabilities".into(),
        Operation::SetCapabilities { .. } => "set the capabilities".into(),
        Operation::SetLimit { resource, .. } => format!("set resource limit {resource}"),
        Operation::SetUmask { .. } => "set the umask".into(),
        Operation::SetNoNewPrivileges => "give up new privileges".into(),
        Operation::SetSeccomp { .. } => "load the seccomp filter".into(),
        Operation::SetScheduler { .. } => "set the scheduler".into(),
        Operation::SetIoPriority { .. } => "set the I/O priority".into(),
        Operation::SetPersonality { .. } => "set the personality".into(),
        Operation::FilterDevices { .. } => "load the device rules".into(),
        Operation::CheckExecutable { name, .. } => format!("execute {}", text(name)),
        Operation::RunHook { path, .. } => format!("run hook {}", text(path)),
        Operation::RaiseLoopback => "bring the loopback device up".into(),
    }
}
