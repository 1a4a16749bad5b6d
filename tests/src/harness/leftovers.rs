//! Notices what a call of `mote` leaves behind: processes, mounts, files, sockets, cgroups.

use std::{collections::BTreeSet, fs, path::Path};

use super::{HANG, process_ended, processes};

/// What was there before. [`check`](Self::check) panics if more is there now.
#[derive(Debug)]
pub struct Leftovers {
    mounts: BTreeSet<String>,
    files: BTreeSet<String>,
    processes: BTreeSet<u32>,
    sockets: BTreeSet<String>,
}

impl Leftovers {
    /// Looks at what is there.
    #[must_use]
    pub fn before() -> Self {
        Self {
            mounts: lines("/proc/self/mountinfo"),
            files: files(),
            processes: ours(),
            sockets: named_sockets(),
        }
    }

    /// Looks again. A process that is on its way out may take the moment that it needs: the host's kernel takes a VM apart after the
    /// last answer was given.
    ///
    /// # Panics
    /// Something new is there.
    pub fn check(&self) {
        for pid in ours().difference(&self.processes) {
            assert!(process_ended(*pid, HANG), "process {pid} is still there");
        }
        let now = Self::before();
        let new = |before: &BTreeSet<String>, now: &BTreeSet<String>| {
            now.difference(before).cloned().collect::<Vec<_>>()
        };
        assert_eq!(
            now.processes.difference(&self.processes).collect::<Vec<_>>(),
            Vec::<&u32>::new(),
            "processes"
        );
        assert_eq!(new(&self.mounts, &now.mounts), Vec::<String>::new(), "mounts");
        assert_eq!(new(&self.files, &now.files), Vec::<String>::new(), "files");
        assert_eq!(new(&self.sockets, &now.sockets), Vec::<String>::new(), "sockets");
    }
}

fn lines(path: &str) -> BTreeSet<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Unix sockets with a name; those without vanish with their process.
fn named_sockets() -> BTreeSet<String> {
    let table = lines("/proc/net/unix");
    table
        .iter()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|n| n.contains("mote") || n.contains("containerd"))
        .map(str::to_owned)
        .collect()
}

/// Processes that are sandboxes or QEMU, or engines that a test has started.
fn ours() -> BTreeSet<u32> {
    const NAMES: [&str; 6] = ["mote", "qemu-system", "conmon", "podman", "dockerd", "containerd"];
    let named = |name: &str| NAMES.iter().any(|ours| name.starts_with(ours)) || name == "exe";
    processes().into_iter().filter(|(_, _, name)| named(name)).map(|(pid, ..)| pid).collect()
}

/// Whatever lies where temporary and runtime files go, and in the cgroup trees: names with ours in them.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in ["/tmp", "/run", "/dev/shm", "/var/tmp"] {
        collect(Path::new(folder), 1, &mut found);
    }
    collect(Path::new("/sys/fs/cgroup"), 3, &mut found);
    found
}

/// Has our name in it, or ends with the id of an engine's container.
fn is_ours(name: &str) -> bool {
    const ID: usize = 64;
    let id = name.len().checked_sub(ID).and_then(|at| name.get(at..));
    name.contains("mote") || id.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn collect(folder: &Path, depth: u32, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // The remembered verdict of the KVM probe is meant to stay.
        if is_ours(&entry.file_name().to_string_lossy()) && path != Path::new("/run/mote") {
            found.insert(path.display().to_string());
        }
        if depth > 1 && path.is_dir() && !path.is_symlink() {
            collect(&path, depth - 1, found);
        }
    }
}
