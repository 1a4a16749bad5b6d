//! The host's cgroup that a container's sandbox process lives in.
//!
//! The container's own limits are kept by the guest, to the byte. The host's cgroup bounds what the sandbox costs, and is where
//! engines look for a container's use of memory and time. It serves version 2, version 1, and both at once ("hybrid"), with
//! the names that cgroupfs and systemd give.

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};

use super::identity;
use crate::{Error, error::Kind};

/// The controllers that containers use; version 2 has to be told.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Processes and settings that version 1 does not pass on to a new cgroup by itself.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// How often a cgroup that is not empty is emptied: what is killed may have started something just before.
const MAX_ROUNDS: u32 = 16;

/// How long the last processes of a cgroup may take to go, in milliseconds: longer than taking a large VM apart takes.
const EMPTY_TIMEOUT_MS: u16 = 10_000;

/// Bounds for a sandbox.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// In bytes.
    pub(super) memory: Option<u64>,
    /// The share of time, as version 1 counts: 2 to 262144.
    pub(super) cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub(super) cpu_quota: Option<i64>,
    /// Microseconds.
    pub(super) cpu_period: Option<u64>,
}

/// The folders of one cgroup, one for each hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostCgroup {
    folders: Vec<Folder>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Folder {
    path: PathBuf,
    hierarchy: Hierarchy,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Hierarchy {
    V2,
    /// With these controllers.
    V1(Vec<String>),
}

/// The cgroup that `cgroupsPath` means: a path, or `slice:prefix:name` for systemd.
pub(super) fn name(cgroups_path: Option<&Path>, systemd: bool, id: &str) -> Result<PathBuf, Error> {
    let given = cgroups_path.map(|path| path.to_string_lossy().into_owned()).filter(|path| !path.is_empty());
    let path = match (given, systemd) {
        (None, false) => format!("mote-{id}"),
        (None, true) => format!("system.slice/mote-{id}.scope"),
        (Some(path), false) => path,
        (Some(path), true) => {
            let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] else {
                return Err(Error::new(
                    Kind::Container,
                    format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                    ),
                ));
            };
            let unit = if name.ends_with(".slice") {
                name.to_owned()
            } else if prefix.is_empty() {
                format!("{name}.scope")
            } else {
                format!("{prefix}-{name}.scope")
            };
            format!("{}/{unit}", expand_slice(if slice.is_empty() { "system.slice" } else { slice })?)
        }
    };
    // Nothing leads out of the hierarchy.
    let parts = Path::new(&path).components().filter_map(|part| match part {
        std::path::Component::Normal(part) => Some(part),
        _ => None,
    });
    Ok(parts.collect())
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)).
fn expand_slice(slice: &str) -> Result<String, Error> {
    let invalid = || Error::new(Kind::Container, format!("invalid slice name {slice:?}"));
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.contains('/')).ok_or_else(invalid)?;
    if stem == "-" {
        return Ok(String::new());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(invalid());
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

impl HostCgroup {
    /// Makes the cgroup in every hierarchy there is, and sets its limits.
    pub(super) fn create(name: &Path, limits: &Limits) -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut cgroup = Self::default();
        for (mount, hierarchy) in hierarchies(&mounts) {
            let path = mount.join(name);
            let made = make(&mount, name, &hierarchy).and_then(|()| limit(&path, &hierarchy, limits));
            cgroup.folders.push(Folder { path, hierarchy });
            if let Err(error) = made {
                let path = mount.join(name);
                cgroup.remove();
                return Err(Error::because(
                    Kind::Host,
                    format!("cannot set up cgroup {}", path.display()),
                    &error,
                ));
            }
        }
        if let Some(count) =
            cgroup.folders.iter().map(|folder| pids(&folder.path).len()).max().filter(|n| *n > 0)
        {
            // Somebody else's: not ours to remove.
            return Err(Error::new(
                Kind::Container,
                format!("container's cgroup is not empty: {count} process(es) found"),
            ));
        }
        Ok(cgroup)
    }

    /// Puts a process into it.
    pub(super) fn add(&self, pid: u32) -> Result<(), Error> {
        for folder in &self.folders {
            let file = folder.path.join("cgroup.procs");
            fs::write(&file, pid.to_string()).map_err(|error| {
                Error::because(
                    Kind::Host,
                    format!("cannot put the sandbox process into {}", file.display()),
                    &error,
                )
            })?;
        }
        Ok(())
    }

    /// Removes it, with whatever is left of a sandbox in it.
    pub(super) fn remove(&self) {
        // Version 2 tells when the last process, also one that is on its way out and not listed any more, has gone from all of them.
        if let Some(folder) = self.folders.iter().find(|folder| matches!(folder.hierarchy, Hierarchy::V2)) {
            pids(&folder.path)
                .into_iter()
                .filter_map(|pid| identity::Identity::of(pid).ok())
                .for_each(|p| p.kill());
            if let Err(error) = wait_until_empty(&folder.path.join("cgroup.events")) {
                tracing::debug!("cgroup {}: {error}", folder.path.display());
            }
        }
        for folder in &self.folders {
            for _ in 0..MAX_ROUNDS {
                match fs::remove_dir(&folder.path) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) if Errno::from_raw(error.raw_os_error().unwrap_or(0)) == Errno::EBUSY => {
                        let left = pids(&folder.path);
                        if left.is_empty() {
                            tracing::warn!("cgroup {} cannot be removed: {error}", folder.path.display());
                            break;
                        }
                        for process in left.into_iter().filter_map(|pid| identity::Identity::of(pid).ok()) {
                            process.kill();
                        }
                    }
                    Err(error) => {
                        tracing::warn!("cgroup {} cannot be removed: {error}", folder.path.display());
                        break;
                    }
                }
            }
        }
    }

    /// What a file of the controller's says, in whichever hierarchy it is: version 2's file, or version 1's.
    pub(super) fn read(&self, controller: &str, v2: &str, v1: &str) -> Option<String> {
        self.folders.iter().find_map(|folder| match &folder.hierarchy {
            Hierarchy::V2 => fs::read_to_string(folder.path.join(v2)).ok(),
            Hierarchy::V1(controllers) if controllers.iter().any(|name| name == controller) => {
                fs::read_to_string(folder.path.join(v1)).ok()
            }
            Hierarchy::V1(_) => None,
        })
    }
}

fn pids(path: &Path) -> Vec<u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The hierarchies in a `mountinfo` (proc_pid_mountinfo(5)), each once, with where it is mounted.
fn hierarchies(mounts: &str) -> Vec<(PathBuf, Hierarchy)> {
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
fn make(mount: &Path, name: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    let mut path = mount.to_owned();
    for part in name {
        if *hierarchy == Hierarchy::V2 {
            enable_controllers(&path);
        }
        let parent = path.clone();
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if matches!(hierarchy, Hierarchy::V1(controllers) if controllers.iter().any(|name| name == "cpuset"))
        {
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

/// Passes on what can be passed on: a controller may be missing, or a cgroup may have processes of its own.
fn enable_controllers(path: &Path) {
    for controller in CONTROLLERS {
        let _ = write(&path.join("cgroup.subtree_control"), &format!("+{controller}"));
    }
}

/// Writes a file that is there.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn limit(path: &Path, hierarchy: &Hierarchy, limits: &Limits) -> io::Result<()> {
    // A file that is not there belongs to a controller that is not.
    let set = |file: &str, value: String| match write(&path.join(file), &value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    let period = limits.cpu_period.unwrap_or(100_000);
    let has = |name: &str| match hierarchy {
        Hierarchy::V2 => true,
        Hierarchy::V1(controllers) => controllers.iter().any(|controller| controller == name),
    };
    let v2 = *hierarchy == Hierarchy::V2;
    if let Some(memory) = limits.memory.filter(|_| has("memory")) {
        set(if v2 { "memory.max" } else { "memory.limit_in_bytes" }, memory.to_string())?;
    }
    if !has("cpu") {
        return Ok(());
    }
    if let Some(shares) = limits.cpu_shares.filter(|shares| *shares > 0) {
        // Both scales are logarithmic in effect; this is how runc and systemd convert them.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        if v2 { set("cpu.weight", weight.to_string())? } else { set("cpu.shares", shares.to_string())? }
    }
    match limits.cpu_quota.filter(|quota| *quota > 0) {
        Some(quota) if v2 => set("cpu.max", format!("{quota} {period}")),
        Some(quota) => {
            set("cpu.cfs_period_us", period.to_string())?;
            set("cpu.cfs_quota_us", quota.to_string())
        }
        None => Ok(()),
    }
}

/// Waits until a version 2 cgroup has no processes: not longer than it takes the host's kernel to take a VM apart.
fn wait_until_empty(events: &Path) -> io::Result<()> {
    let file = fs::File::open(events)?;
    let timeout = PollTimeout::from(EMPTY_TIMEOUT_MS);
    loop {
        let mut text = [0; 256];
        let len = file.read_at(&mut text, 0)?;
        if text[..len].windows(11).any(|word| word == b"populated 0") {
            return Ok(());
        }
        if poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_engines_write_them() {
        let named =
            |path: &str, systemd| name(Some(Path::new(path)), systemd, "c").map(|p| p.display().to_string());
        assert_eq!(named("/docker/abc", false).unwrap(), "docker/abc");
        assert_eq!(named("a/../../b", false).unwrap(), "a/b");
        assert_eq!(named("machine.slice:libpod:abc", true).unwrap(), "machine.slice/libpod-abc.scope");
        assert_eq!(named("a-b-c.slice:cri:x", true).unwrap(), "a.slice/a-b.slice/a-b-c.slice/cri-x.scope");
        assert_eq!(named(":docker:x", true).unwrap(), "system.slice/docker-x.scope");
        assert_eq!(named("-.slice::x", true).unwrap(), "x.scope");
        assert_eq!(name(None, false, "c").unwrap(), Path::new("mote-c"));
        for wrong in ["/docker/abc", "a:b", "x:y:z", "a--b.slice:p:n", "a/b.slice:p:n"] {
            assert!(named(wrong, true).is_err(), "{wrong}");
        }
    }

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
        let found = hierarchies(mounts);
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

    #[test]
    fn limits_go_to_the_files_of_their_version() {
        let folder = tempfile::tempdir().unwrap();
        let limits =
            Limits { memory: Some(7), cpu_shares: Some(1024), cpu_quota: Some(50_000), cpu_period: None };
        let text = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        for file in
            ["memory.max", "cpu.weight", "cpu.max", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"]
        {
            fs::write(folder.path().join(file), "").unwrap();
        }
        limit(folder.path(), &Hierarchy::V2, &limits).unwrap();
        assert_eq!(
            (text("memory.max"), text("cpu.weight"), text("cpu.max")),
            ("7".into(), "39".into(), "50000 100000".into())
        );
        limit(folder.path(), &Hierarchy::V1(vec!["cpu".into()]), &limits).unwrap();
        assert_eq!((text("cpu.shares"), text("cpu.cfs_quota_us")), ("1024".into(), "50000".into()));
        assert!(!folder.path().join("memory.limit_in_bytes").exists());
    }
}
