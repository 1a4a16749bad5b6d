//! Mounts: what their options mean, and the operations that make them.

use std::{
    ffi::{CStr, CString},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use mote_protocol::{Operation, StrList};
use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::{
    GUEST_CGROUP,
    bundle::{Bundle, Source, wrong},
};
use crate::{Error, jail::Place, program::Builder, shares};

/// `MOUNT_ATTR_*` of `linux/mount.h`.
pub(super) const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// `MS_*` of `linux/mount.h`.
const UNBINDABLE: u64 = 1 << 17;
const PRIVATE: u64 = 1 << 18;
const SLAVE: u64 = 1 << 19;
const SHARED: u64 = 1 << 20;

/// What options change about mounts: one of them, or all inside of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) set: u64,
    pub(super) clear: u64,
    pub(super) propagation: u64,
}

impl Change {
    fn is_none(self) -> bool {
        self == Self::default()
    }

    fn attribute(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
        // The kernel takes times of access as one value.
        if (set | clear) & ATIME != 0 {
            self.clear |= ATIME;
        }
    }
}

/// The options of a mount, sorted by what they are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) own: Change,
    pub(super) all: Change,
    /// Whether it is a bind mount, and then whether it is recursive.
    pub(super) bind: Option<bool>,
    pub(super) copy_up: bool,
    /// Whether ids are mapped, and then whether they are in the mounts inside, too.
    pub(super) mapped: Option<bool>,
    /// For the file system itself.
    pub(super) data: Vec<String>,
}

impl Options {
    /// The options of `mount`.
    pub(super) fn of(mount: &Mount) -> Self {
        let mut options = Self::default();
        if mount.typ().as_deref() == Some("bind") {
            options.bind = Some(false);
        }
        for option in mount.options().iter().flatten() {
            options.add(option);
        }
        options
    }

    pub(super) fn is_read_only(&self) -> bool {
        (self.own.set | self.all.set) & RDONLY != 0
    }

    fn add(&mut self, option: &str) {
        if let Some((set, clear)) = attribute(option) {
            return self.own.attribute(set, clear);
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            return self.all.attribute(set, clear);
        }
        if let Some(propagation) = propagation(option) {
            self.own.propagation = propagation;
            return;
        }
        if let Some(propagation) = option.strip_prefix('r').and_then(propagation) {
            self.all.propagation = propagation;
            return;
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.mapped = Some(false),
            "ridmap" => self.mapped = Some(true),
            // What is so anyway, or is about a mount that is there already.
            "defaults" | "remount" | "loud" | "silent" | "async" | "norelatime" | "nostrictatime"
            | "nolazytime" | "nomand" | "noiversion" => {}
            data => self.data.push(data.to_owned()),
        }
    }
}

/// The attribute that an option sets, and those that it clears.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "noatime" => (NOATIME, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "relatime" | "atime" => (0, ATIME),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        _ => return None,
    })
}

/// How mounts spread, by the name of the option.
pub(super) fn propagation(name: &str) -> Option<u64> {
    Some(match name {
        "shared" => SHARED,
        "slave" => SLAVE,
        "private" => PRIVATE,
        "unbindable" => UNBINDABLE,
        _ => return None,
    })
}

/// Adds the mounts of a bundle, in order.
pub(super) fn compile(bundle: &Bundle, builder: &mut Builder) -> Result<(), Error> {
    let mut next_share = 1;
    for mount in bundle.mounts() {
        let mut options = Options::of(mount);
        let target = path(mount.destination())?;
        let kind = kind(bundle, mount, &options, next_share)?;
        match kind {
            Kind::Share(index) => {
                next_share += 1;
                bind(bundle, mount, &options, &shares::guest_path(index), &target, builder)?;
            }
            Kind::Device(kind, major, minor) => {
                builder.push(Operation::MakeDevice {
                    path: target.as_c_str().into(),
                    mode: kind | 0o666,
                    major,
                    minor,
                    uid: 0,
                    gid: 0,
                })?;
                continue;
            }
            Kind::Guest(source) => bind(bundle, mount, &options, &source, &target, builder)?,
            Kind::Type(fs_type) => {
                builder.push(Operation::MakeDirectory { path: target.as_c_str().into(), mode: 0o755 })?;
                if fs_type == "cgroup2" {
                    // Those of version 1 mean nothing.
                    options.data.clear();
                }
                new(mount, &fs_type, &options, &target, builder)?;
                options.own.set = 0;
                options.own.clear = 0;
            }
        }
        for (recursive, change) in [(false, options.own), (true, options.all)] {
            if !change.is_none() {
                builder.push(Operation::ChangeMount {
                    target: target.as_c_str().into(),
                    recursive,
                    set: change.set,
                    clear: change.clear,
                    propagation: change.propagation,
                })?;
            }
        }
    }
    Ok(())
}

/// Where the container's mounts are, and which of them the host has part in. Nodes of devices are none.
pub(super) fn places(bundle: &Bundle) -> Result<Vec<Place>, Error> {
    let mut next_share = 1;
    let mut places = Vec::new();
    for mount in bundle.mounts() {
        let share = match kind(bundle, mount, &Options::of(mount), next_share)? {
            Kind::Share(index) => Some(index),
            Kind::Guest(_) | Kind::Type(_) => None,
            Kind::Device(..) => continue,
        };
        next_share += usize::from(share.is_some());
        places.push(Place { target: mount.destination().clone(), share });
    }
    Ok(places)
}

/// How a mount is made.
enum Kind {
    Share(usize),
    Device(u32, u32, u32),
    /// From this path of the guest's own.
    Guest(CString),
    /// As a new file system.
    Type(String),
}

fn kind(bundle: &Bundle, mount: &Mount, options: &Options, next_share: usize) -> Result<Kind, Error> {
    let own = |fs_type: &str| Ok(Kind::Type(fs_type.to_owned()));
    let is_bind = options.bind.is_some();
    if !is_bind {
        return match mount.typ().as_deref() {
            None | Some("none" | "") => {
                Err(wrong(format!("mount on {}: type must be specified", mount.destination().display())))
            }
            Some("cgroup") => own("cgroup2"),
            // The terminals that the agent makes have their names there; no others can be opened through another instance.
            Some("devpts") => Ok(Kind::Guest(c"/dev/pts".into())),
            Some(other) => own(other),
        };
    }
    match bundle.source(mount, next_share)? {
        Source::Share(index) => Ok(Kind::Share(index)),
        Source::Device(kind, major, minor) => Ok(Kind::Device(kind, major, minor)),
        Source::Guest => {
            let source = mount.source().as_deref().unwrap_or(Path::new(""));
            match source.to_str() {
                Some("/proc") => own("proc"),
                Some("/sys") => own("sysfs"),
                Some(path) if path.starts_with("/sys/fs/cgroup") => own("cgroup2"),
                Some("/dev/shm") => own("tmpfs"),
                Some("/dev/mqueue") => own("mqueue"),
                Some("/dev") => Ok(Kind::Guest(c"/dev".into())),
                Some("/dev/pts") => Ok(Kind::Guest(c"/dev/pts".into())),
                _ => Err(wrong(format!(
                    "bind mount of {}: this is the host's kernel, and the container runs on another one",
                    source.display()
                ))),
            }
        }
    }
}

fn bind(
    bundle: &Bundle,
    mount: &Mount,
    options: &Options,
    source: &CStr,
    target: &CStr,
    builder: &mut Builder,
) -> Result<(), Error> {
    let (uids, gids) = if options.mapped.is_some() || mount.uid_mappings().is_some() {
        let linux = bundle.linux();
        let uids = mount.uid_mappings().as_ref().or_else(|| linux?.uid_mappings().as_ref());
        let gids = mount.gid_mappings().as_ref().or_else(|| linux?.gid_mappings().as_ref());
        let (Some(uids), Some(gids)) = (uids, gids) else {
            return Err(wrong(format!(
                "mount on {}: idmap needs uidMappings and gidMappings",
                mount.destination().display()
            )));
        };
        (id_map(uids), id_map(gids))
    } else {
        (CString::default(), CString::default())
    };
    builder.push(Operation::Bind {
        source: source.into(),
        target: target.into(),
        recursive: options.bind.unwrap_or(false),
        uids: uids.as_c_str().into(),
        gids: gids.as_c_str().into(),
        recursive_ids: options.mapped.unwrap_or(false),
    })
}

fn new(
    mount: &Mount,
    fs_type: &str,
    options: &Options,
    target: &CStr,
    builder: &mut Builder,
) -> Result<(), Error> {
    let mut data = Vec::new();
    for option in &options.data {
        data.extend_from_slice(text(option)?.as_bytes_with_nul());
    }
    let data = StrList::from_bytes(&data).unwrap_or_default();
    let attributes = options.own.set;
    if options.copy_up && fs_type == "tmpfs" {
        return builder.push(Operation::MountCopy { target: target.into(), attributes, options: data });
    }
    let source = mount.source().as_deref().map_or(Ok(CString::default()), path)?;
    let fs_type = text(fs_type)?;
    builder.push(Operation::Mount {
        fs_type: fs_type.as_c_str().into(),
        source: source.as_c_str().into(),
        target: target.into(),
        attributes,
        options: data,
    })
}

/// The lines of `uid_map` or `gid_map`.
pub(super) fn id_map(mappings: &[LinuxIdMapping]) -> CString {
    let lines: String = mappings
        .iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
        .collect();
    // Numbers have no NUL.
    CString::new(lines).unwrap_or_default()
}

/// A path for the guest.
pub(super) fn path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| wrong(format!("{}: must not contain a NUL byte", path.display())))
}

/// A string for the guest.
pub(super) fn text(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| wrong(format!("{text:?}: must not contain a NUL byte")))
}

/// The operations that mount the container's root, and the shares it comes from.
pub(super) fn root(builder: &mut Builder) -> Result<(), Error> {
    shares::mount(&mut |operation: Operation<'_>| builder.push(operation))?;
    builder.push(Operation::MakeDirectory { path: c"/root".into(), mode: 0o755 })?;
    builder.push(Operation::BindMount {
        source: shares::guest_path(0).as_c_str().into(),
        target: c"/root".into(),
        recursive: false,
    })
}

/// What the agent can see of the guest: processes and cgroups. It stays visible to it, for this stands before any namespace is made.
pub(super) fn agents_view(builder: &mut Builder) -> Result<(), Error> {
    for (target, fs_type) in [(c"/proc", c"proc"), (c"/sys/fs/cgroup", c"cgroup2")] {
        builder.push(Operation::MakeDirectory { path: target.into(), mode: 0o755 })?;
        builder.push(Operation::Mount {
            fs_type: fs_type.into(),
            source: fs_type.into(),
            target: target.into(),
            attributes: NOSUID | NODEV | NOEXEC,
            options: StrList::default(),
        })?;
    }
    let cgroup = text(GUEST_CGROUP)?;
    builder.push(Operation::MakeDirectory { path: cgroup.as_c_str().into(), mode: 0o755 })
}
