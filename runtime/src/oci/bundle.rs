//! A bundle: its folder, its configuration, checked, and what a machine for it needs.

use std::{
    fs::Metadata,
    io::{self, ErrorKind, Read},
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Mount, Process, Spec};

use super::{json, mounts};
use crate::{
    Error,
    error::Kind,
    jail::View,
    named_file,
    spec::{Cache, Share},
};

/// The longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 64 << 20;

/// Memory of a guest whose container has no limit, in bytes. The host gives it only what it uses.
const DEFAULT_MEMORY: u64 = 512 << 20;
/// What a guest needs besides its container, in bytes: the kernel, the agent, their tables.
const GUEST_MEMORY: u64 = 64 << 20;

/// A bundle whose configuration makes sense.
#[derive(Debug, Clone)]
pub struct Bundle {
    folder: PathBuf,
    root: PathBuf,
    spec: Spec,
}

/// How large a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// 1 to 32.
    pub vcpus: u8,
    /// Guest RAM in bytes, whole MiB.
    pub memory: u64,
}

/// Where a bind mount of the host's comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The share with this index.
    Share(usize),
    /// A device of this type (`S_IFCHR` or `S_IFBLK`), major and minor number.
    Device(u32, u32, u32),
    /// A folder of the guest's own that stands for the host's: `/dev`, `/proc`, `/sys` and what is in them.
    Guest,
}

impl Bundle {
    /// Loads and checks a bundle.
    ///
    /// # Errors
    /// The configuration is missing or wrong, or asks for what cannot be in a VM; the root folder or the source of a bind mount
    /// is missing.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let folder = std::path::absolute(folder)
            .map_err(|error| Error::because(Kind::Process, format!("bundle {}", folder.display()), &error))?;
        let spec = json::spec(&read(&folder.join("config.json"))?)?;
        check_version(spec.version())?;
        super::process::check(spec.process().as_ref())?;
        let root = spec.root().as_ref().ok_or_else(|| wrong("root must be specified"))?;
        let root = folder.join(root.path());
        let metadata = std::fs::metadata(&root)
            .map_err(|error| wrong(format!("invalid rootfs: stat {}: {}", root.display(), plain(&error))))?;
        if !metadata.is_dir() {
            return Err(wrong(format!("invalid rootfs: {} is not a directory", root.display())));
        }
        let bundle = Self { folder, root, spec };
        bundle.check_linux()?;
        Ok(bundle)
    }

    /// The process of an `exec`, from the text of its `process.json`.
    ///
    /// # Errors
    /// It is no JSON, or no process that can be started.
    pub fn process(text: &[u8]) -> Result<Process, Error> {
        let process = json::process(text)?;
        super::process::check(Some(&process))?;
        Ok(process)
    }

    /// The bundle's folder, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The root folder, absolute.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.root
    }

    /// The configuration.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(super) fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }

    pub(super) fn resources(&self) -> Option<&LinuxResources> {
        self.linux().and_then(|linux| linux.resources().as_ref())
    }

    pub(super) fn mounts(&self) -> &[Mount] {
        self.spec.mounts().as_deref().unwrap_or_default()
    }

    /// Whether a namespace of this type is asked for; its path, if it is one that is there.
    pub(super) fn namespace(&self, typ: LinuxNamespaceType) -> Option<Option<&Path>> {
        let all = self.linux()?.namespaces().as_deref()?;
        all.iter().find(|namespace| namespace.typ() == typ).map(|namespace| namespace.path().as_deref())
    }

    /// The processes whose IPC and UTS namespaces the container is to be in, with these namespaces: if they are containers, too, it
    /// is one of their pod.
    pub fn neighbours(&self) -> impl Iterator<Item = (u32, LinuxNamespaceType, &Path)> {
        let all = self.linux().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        all.iter().filter_map(|namespace| {
            let (typ, path) = (namespace.typ(), namespace.path().as_deref()?);
            Some((neighbour(typ, path)?, typ, path))
        })
    }

    /// Has the container be called like that, if its configuration has no name for it.
    pub fn name(&mut self, hostname: &str) {
        if self.spec.hostname().as_deref().is_none_or(str::is_empty) {
            self.spec.set_hostname(Some(hostname.to_owned()));
        }
    }

    /// What the container's mounts are, as far as the host is concerned.
    ///
    /// # Errors
    /// Those of [`shares`](Self::shares).
    pub(crate) fn view(&self) -> Result<View, Error> {
        let read_only = self.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly);
        Ok(View { read_only: read_only.unwrap_or(false), places: mounts::places(self)? })
    }

    /// Whether the container's root is another user than the guest's.
    pub(super) fn has_user_namespace(&self) -> bool {
        self.namespace(LinuxNamespaceType::User).is_some()
    }

    /// How large the machine has to be: with the CPUs that the container may use, and memory for the guest itself beside the
    /// container's limit.
    #[must_use]
    pub fn size(&self) -> Size {
        const MIB: u64 = 1 << 20;
        let cpu = self.resources().and_then(|resources| resources.cpu().as_ref());
        let limit = self.resources().and_then(|resources| resources.memory().as_ref()?.limit());
        let memory = match limit.map(u64::try_from) {
            Some(Ok(limit)) if limit > 0 => limit.saturating_add(GUEST_MEMORY),
            _ => DEFAULT_MEMORY,
        };
        let quota = cpu.and_then(|cpu| {
            let quota = u64::try_from(cpu.quota()?).ok().filter(|quota| *quota > 0)?;
            Some(quota.div_ceil(cpu.period().filter(|period| *period > 0).unwrap_or(100_000)))
        });
        let set = cpu.and_then(|cpu| count_cpus(cpu.cpus().as_deref()?));
        let vcpus = quota.into_iter().chain(set).min().unwrap_or(1).clamp(1, u64::from(mote_vmm::MAX_VCPUS));
        Size {
            vcpus: u8::try_from(vcpus).unwrap_or(1),
            // Far beyond any host, such a number is refused when the machine is made.
            memory: memory.div_ceil(MIB).saturating_mul(MIB),
        }
    }

    /// The folders and files of the host's that the container sees: its root first, then the sources of bind mounts in the order
    /// of the configuration.
    ///
    /// # Errors
    /// The source of a bind mount is missing, or nothing that can be shared.
    pub fn shares(&self) -> Result<Vec<Share>, Error> {
        // What is mounted in the root may need a folder to be made there, even in a root that the container cannot write to.
        let mut shares = vec![Share { source: self.root.clone(), read_only: false, cache: Cache::Auto }];
        for mount in self.mounts() {
            let options = mounts::Options::of(mount);
            if options.bind.is_some()
                && let Source::Share(_) = self.source(mount, shares.len())?
            {
                let source = self.source_path(mount)?;
                shares.push(Share { source, read_only: options.is_read_only(), cache: Cache::Auto });
            }
        }
        Ok(shares)
    }

    /// Where a bind mount comes from, if the next share has the index `next`.
    pub(super) fn source(&self, mount: &Mount, next: usize) -> Result<Source, Error> {
        const CHARACTER: u32 = 0o020_000;
        const BLOCK: u32 = 0o060_000;
        let path = self.source_path(mount)?;
        if is_kernel_folder(&path) {
            return Ok(Source::Guest);
        }
        let metadata = std::fs::metadata(&path)
            .map_err(|error| wrong(format!("bind mount: stat {}: {}", path.display(), plain(&error))))?;
        let kind = metadata.file_type();
        if metadata.is_dir() || metadata.is_file() {
            Ok(Source::Share(next))
        } else if kind.is_char_device() {
            let (major, minor) = numbers(&metadata);
            Ok(Source::Device(CHARACTER, major, minor))
        } else if kind.is_block_device() {
            let (major, minor) = numbers(&metadata);
            Ok(Source::Device(BLOCK, major, minor))
        } else {
            Err(wrong(format!(
                "bind mount of {}: a socket or pipe of the host's cannot be reached from within a VM",
                path.display()
            )))
        }
    }

    fn source_path(&self, mount: &Mount) -> Result<PathBuf, Error> {
        let source = mount.source().as_ref().filter(|source| !source.as_os_str().is_empty());
        let source = source.ok_or_else(|| {
            wrong(format!("bind mount on {}: source must be specified", mount.destination().display()))
        })?;
        // A relative one is the bundle's.
        Ok(self.folder.join(source))
    }

    /// Refuses what a container in a VM cannot have.
    fn check_linux(&self) -> Result<(), Error> {
        let Some(linux) = self.linux() else {
            return Ok(());
        };
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        for (index, namespace) in namespaces.iter().enumerate() {
            let typ = namespace.typ();
            if namespaces[..index].iter().any(|other| other.typ() == typ) {
                return Err(wrong(format!("linux.namespaces: duplicated namespace {typ}")));
            }
            if let Some(path) = namespace.path()
                && typ != LinuxNamespaceType::Network
                && neighbour(typ, path).is_none()
            {
                return Err(cannot_join(typ, path));
            }
        }
        let has_maps = linux.uid_mappings().is_some() || linux.gid_mappings().is_some();
        if has_maps && !self.has_user_namespace() {
            return Err(wrong("linux.uidMappings: user namespace mappings specified, but no user namespace"));
        }
        for (field, is_there) in [
            ("intelRdt", linux.intel_rdt().is_some()),
            ("netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
            ("memoryPolicy", linux.memory_policy().is_some()),
        ] {
            if is_there {
                return Err(wrong(format!(
                    "linux.{field}: this is a matter of the host's, which a VM has no part in"
                )));
            }
        }
        for typ in [
            LinuxNamespaceType::Pid,
            LinuxNamespaceType::Ipc,
            LinuxNamespaceType::Mount,
            LinuxNamespaceType::Cgroup,
        ] {
            if self.namespace(typ).is_none() {
                tracing::debug!(
                    "no {typ} namespace is asked for; in a VM the container has one of its own all the same"
                );
            }
        }
        Ok(())
    }
}

/// The process whose namespace this is, if its type and form are those with which engines name the namespaces of a pod.
fn neighbour(typ: LinuxNamespaceType, path: &Path) -> Option<u32> {
    let name = match typ {
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        _ => return None,
    };
    let process = path.to_str()?.strip_prefix("/proc/")?.strip_suffix(name)?.strip_suffix("/ns/")?;
    process.parse().ok()
}

/// The container would have to be in a namespace of the host's.
pub(crate) fn cannot_join(typ: LinuxNamespaceType, path: &Path) -> Error {
    wrong(format!(
        "linux.namespaces: {typ} namespace {}: a container in a VM cannot join a namespace of the host's",
        path.display()
    ))
}

/// A failure of the configuration.
pub(super) fn wrong(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Process, what.to_string())
}

/// An error of the host's as other runtimes word it: without its number, and in lower case.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            wrong("JSON specification file config.json not found")
        }
        _ => Error::because(Kind::Process, path.display().to_string(), &error),
    };
    let file = named_file::open(path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_CONFIG) {
        return Err(wrong(format!("{}: longer than {} MiB", path.display(), MAX_CONFIG >> 20)));
    }
    Ok(text)
}

/// Versions 1.x are compatible with each other, whatever `x` is.
fn check_version(version: &str) -> Result<(), Error> {
    let mut numbers = version.split(['-', '+']).next().unwrap_or_default().split('.');
    let is_whole =
        numbers.clone().count() == 3 && numbers.clone().all(|number| number.parse::<u32>().is_ok());
    if is_whole && numbers.next() == Some("1") {
        return Ok(());
    }
    Err(wrong(format!(
        "unsupported ociVersion {version:?}: this runtime implements versions 1.x of the OCI runtime specification"
    )))
}

/// Whether a path is one of the kernel's own file systems, of which the guest has its own.
fn is_kernel_folder(path: &Path) -> bool {
    let mut parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let first = parts.next().map(|part| part.as_os_str().as_bytes());
    match first {
        Some(b"proc" | b"sys") => true,
        Some(b"dev") => match parts.next().map(|part| part.as_os_str().as_bytes()) {
            None => true,
            Some(name) => matches!(name, b"pts" | b"shm" | b"mqueue"),
        },
        _ => false,
    }
}

fn numbers(metadata: &Metadata) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let device = metadata.rdev();
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (number(nix::sys::stat::major(device)), number(nix::sys::stat::minor(device)))
}

/// How many CPUs a list like `0-2,7` names.
fn count_cpus(list: &str) -> Option<u64> {
    let count = list.split(',').filter(|part| !part.trim().is_empty()).map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?);
        last.checked_sub(first).map(|more| more + 1)
    });
    count.sum::<Option<u64>>().filter(|count| *count > 0)
}
