//! The hierarchies of cgroups that a host has mounted: version 2, version 1, or both at once ("hybrid").

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::libc;
use serde::{Deserialize, Serialize};

/// The controllers that containers use; version 2 has to be told.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Settings that version 1 does not pass on to a new cgroup by itself.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// A hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hierarchy {
    V2,
    /// With these controllers.
    V1(Vec<String>),
}

impl Hierarchy {
    pub(super) fn is_v2(&self) -> bool {
        *self == Self::V2
    }

    /// Whether a controller may be found in it.
    pub(super) fn has(&self, controller: &str) -> bool {
        match self {
            Self::V2 => true,
            Self::V1(controllers) => controllers.iter().any(|name| name == controller),
        }
    }

    /// The one of two names that it goes by in this version.
    pub(super) fn either<'a>(&self, v2: &'a str, v1: &'a str) -> &'a str {
        if self.is_v2() { v2 } else { v1 }
    }
}

/// The hierarchies in a `mountinfo` (proc_pid_mountinfo(5)), each once, with where it is mounted.
pub(super) fn mounted(mounts: &str) -> Vec<(PathBuf, Hierarchy)> {
    let mut found: Vec<(PathBuf, Hierarchy)> = Vec::new();
    for line in mounts.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let (Some(root), Some(point)) = (mount.split(' ').nth(3), mount.split(' ').nth(4)) else { continue };
        let mut words = file_system.split(' ');
        let (kind, options) = (words.next(), words.nth(1).unwrap_or_default());
        let hierarchy = match kind {
            Some("cgroup2") => Hierarchy::V2,
            Some("cgroup") => Hierarchy::V1(
                options
                    .split(',')
                    .filter(|option| !matches!(*option, "rw" | "ro" | "xattr"))
                    .map(String::from)
                    .collect(),
            ),
            _ => continue,
        };
        // A part of a hierarchy that is mounted somewhere else is not where new cgroups go.
        if root == "/" && !found.iter().any(|(_, known)| *known == hierarchy) {
            found.push((PathBuf::from(point), hierarchy));
        }
    }
    found
}

/// Makes the folders from the hierarchy's top down to the cgroup.
pub(super) fn make(mount: &Path, name: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    let mut path = mount.to_owned();
    for part in name {
        if *hierarchy == Hierarchy::V2 {
            // A controller may be missing, or a cgroup may have processes of its own: what can be passed on is.
            let _ = enable(&path, &CONTROLLERS);
        }
        let parent = path.clone();
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if !hierarchy.is_v2() && hierarchy.has("cpuset") {
            for file in CPUSET_FILES {
                // Nothing can run in a cgroup that has none.
                if fs::read_to_string(path.join(file))?.trim().is_empty() {
                    fs::write(path.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
    }
    Ok(())
}

/// Has the cgroups below a cgroup of version 2 have these controllers: as many as possible, and says why not all.
pub(super) fn enable(path: &Path, controllers: &[&str]) -> io::Result<()> {
    let file = path.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file)?;
    let missing = controllers.iter().filter(|name| !enabled.split_whitespace().any(|other| other == **name));
    missing.map(|name| write(&file, &format!("+{name}"))).fold(Ok(()), Result::and)
}

/// Writes a file of a cgroup. They are there already; nothing is ever made or followed.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(told)?;
    file.write_all(value.as_bytes()).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_hierarchy_once_and_its_controllers() {
        let mounts = "\
            25 1 0:24 / /sys rw - sysfs sysfs rw\n\
            30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
            31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
            34 25 0:26 / /mnt/again rw - cgroup cgroup rw,memory\n\
            35 25 0:30 /part /mnt/part rw - cgroup cgroup rw,pids\n";
        let found = mounted(mounts);
        let v1 = |names: &[&str]| Hierarchy::V1(names.iter().map(ToString::to_string).collect());
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/memory".into(), v1(&["memory"])),
                ("/sys/fs/cgroup/cpu,cpuacct".into(), v1(&["cpu", "cpuacct"])),
                ("/sys/fs/cgroup/systemd".into(), v1(&["name=systemd"])),
                ("/sys/fs/cgroup/unified".into(), Hierarchy::V2),
            ]
        );
    }
}
