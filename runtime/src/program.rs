//! Compiles what a user asked for into the program that the guest executes.
//!
//! The guest's root is put together from the image and a tmpfs overlay, so the image never changes; then come the file systems
//! that a Linux userland expects, the user, the folder, and the command. Everything that can be decided is decided here.

mod describe;
pub(crate) mod processors;

use std::ffi::{CStr, CString};

use mote_protocol::{IdList, Operation, Operations, ProgramWriter, StrList, limits};

use self::describe::describe;
use crate::{
    Error,
    error::Kind,
    shares,
    spec::{Process, Rootfs, Spec, Volume},
};

/// `MOUNT_ATTR_*` of `linux/mount.h`.
const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;

const CLONE_NEWNS: u32 = 0x0002_0000;

/// A file system that is mounted in the container's root, with the folder made for it.
struct Standard {
    target: &'static CStr,
    fs_type: &'static CStr,
    attributes: u64,
    options: &'static [u8],
}

/// What a Linux userland expects, in the order in which it has to be mounted.
const STANDARD: &[Standard] = &[
    Standard { target: c"/proc", fs_type: c"proc", attributes: NOSUID | NODEV | NOEXEC, options: b"" },
    Standard { target: c"/sys", fs_type: c"sysfs", attributes: NOSUID | NODEV | NOEXEC, options: b"" },
    Standard {
        target: c"/sys/fs/cgroup",
        fs_type: c"cgroup2",
        attributes: NOSUID | NODEV | NOEXEC,
        options: b"",
    },
    Standard {
        target: c"/dev/shm",
        fs_type: c"tmpfs",
        attributes: NOSUID | NODEV | NOEXEC,
        options: b"mode=1777\0",
    },
    Standard { target: c"/run", fs_type: c"tmpfs", attributes: NOSUID | NODEV, options: b"mode=755\0" },
    Standard { target: c"/tmp", fs_type: c"tmpfs", attributes: NOSUID | NODEV, options: b"mode=1777\0" },
];

/// Links that programs look for in `/dev`.
const DEV_LINKS: &[(&CStr, &CStr)] = &[
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// A compiled program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<u8>);

impl Program {
    /// A program that was compiled before.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The program as the guest gets it.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Compiles the main command of a sandbox.
    pub(crate) fn compile(spec: &Spec) -> Result<Self, Error> {
        let strings = Strings::of(spec)?;
        let mut builder = Builder::new();
        let mut push = |operation: Operation<'_>| builder.push(operation);
        processors::start(spec.machine.vcpus, &mut push)?;
        root(spec, &strings, &mut push)?;
        surroundings(&strings, &spec.process, &mut push)?;
        Ok(builder.finish())
    }

    pub(crate) fn operations(&self) -> Operations<'_> {
        Operations::from_bytes(&self.0)
    }

    /// What the operation with this index does, in words.
    pub(crate) fn describe(&self, index: usize) -> String {
        match self.operations().nth(index) {
            Some(Ok(operation)) => describe(&operation),
            _ => format!("operation {index} of the program"),
        }
    }
}

/// A program that grows by one operation after the other.
pub(crate) struct Builder {
    buf: Vec<u8>,
    used: usize,
}

impl Builder {
    /// An empty program.
    pub(crate) fn new() -> Self {
        Self { buf: vec![0; limits::MAX_REQUEST], used: 0 }
    }

    /// Appends an operation.
    ///
    /// # Errors
    /// The program is longer than one request can be.
    pub(crate) fn push(&mut self, operation: Operation<'_>) -> Result<(), Error> {
        let mut writer = ProgramWriter::new(&mut self.buf[self.used..]);
        writer.push(&operation).map_err(|_| {
            Error::new(
                Kind::Process,
                "the command line, the environment and all else that was asked for are too long together (limit: 512 KiB)",
            )
        })?;
        self.used += writer.finish().as_bytes().len();
        Ok(())
    }

    /// The program.
    pub(crate) fn finish(mut self) -> Program {
        self.buf.truncate(self.used);
        Program(self.buf)
    }
}

/// Puts the root together and enters it.
fn root(
    spec: &Spec,
    strings: &Strings,
    push: &mut impl FnMut(Operation<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    push(Operation::Unshare { namespaces: CLONE_NEWNS })?;
    for path in [c"/image", c"/overlay", c"/root"] {
        push(Operation::MakeDirectory { path: path.into(), mode: 0o755 })?;
    }
    if !spec.machine.shares.is_empty() {
        shares::mount(push)?;
    }
    match spec.machine.rootfs {
        Rootfs::Image(_) => push(Operation::Mount {
            fs_type: c"erofs".into(),
            source: c"/dev/vda".into(),
            target: c"/image".into(),
            attributes: RDONLY,
            // The file system itself, not only this mount of it: else the kernel wants to write to the device.
            options: list(b"ro\0"),
        })?,
        Rootfs::Share(index) => push(Operation::BindMount {
            source: shares::guest_path(index).as_c_str().into(),
            target: c"/image".into(),
            recursive: false,
        })?,
    }
    push(Operation::Mount {
        fs_type: c"tmpfs".into(),
        source: c"tmpfs".into(),
        target: c"/overlay".into(),
        attributes: 0,
        options: list(b"mode=755\0"),
    })?;
    for path in [c"/overlay/upper", c"/overlay/work"] {
        push(Operation::MakeDirectory { path: path.into(), mode: 0o755 })?;
    }
    push(Operation::Mount {
        fs_type: c"overlay".into(),
        source: c"overlay".into(),
        target: c"/root".into(),
        attributes: 0,
        options: list(b"lowerdir=/image\0upperdir=/overlay/upper\0workdir=/overlay/work\0"),
    })?;
    push(Operation::SetRoot { path: c"/root".into() })?;
    // The guest's own /dev, with the terminals in it that the agent makes.
    push(Operation::MakeDirectory { path: c"/dev".into(), mode: 0o755 })?;
    push(Operation::BindMount { source: c"/dev".into(), target: c"/dev".into(), recursive: true })?;
    for standard in STANDARD {
        push(Operation::MakeDirectory { path: standard.target.into(), mode: 0o755 })?;
        push(Operation::Mount {
            fs_type: standard.fs_type.into(),
            source: standard.fs_type.into(),
            target: standard.target.into(),
            attributes: standard.attributes,
            options: list(standard.options),
        })?;
    }
    for (content, path) in DEV_LINKS {
        push(Operation::MakeSymlink { content: (*content).into(), path: (*path).into() })?;
    }
    for folder in &strings.folders {
        push(Operation::MakeDirectory { path: folder.as_c_str().into(), mode: 0o755 })?;
    }
    for (source, folder) in &strings.writable {
        push(Operation::MakeDirectory { path: folder.as_c_str().into(), mode: 0o755 })?;
        if spec.read_only {
            // A mount of its own stays as it is when the root is closed.
            push(Operation::BindMount {
                source: source.as_c_str().into(),
                target: folder.as_c_str().into(),
                recursive: false,
            })?;
        }
    }
    for (volume, target) in spec.volumes.iter().zip(&strings.volumes) {
        bind(spec, volume, target, push)?;
    }
    if spec.read_only {
        push(Operation::SetMountAttributes { target: c"/".into(), set: RDONLY, clear: 0 })?;
    }
    push(Operation::EnterRoot)
}

/// Shows a volume to the command. It brings no devices and no privileges with it.
fn bind(
    spec: &Spec,
    volume: &Volume,
    target: &CStr,
    push: &mut impl FnMut(Operation<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let share = spec.machine.shares.get(volume.share).ok_or_else(|| {
        Error::new(Kind::Share, format!("a volume names share {}, which is not there", volume.share))
    })?;
    push(Operation::Bind {
        source: shares::guest_path(volume.share).as_c_str().into(),
        target: target.into(),
        recursive: false,
        uids: c"".into(),
        gids: c"".into(),
        recursive_ids: false,
    })?;
    let read_only = if share.read_only { RDONLY } else { 0 };
    push(Operation::SetMountAttributes { target: target.into(), set: NOSUID | NODEV | read_only, clear: 0 })
}

/// The command and what it finds around itself.
fn surroundings(
    strings: &Strings,
    process: &Process,
    push: &mut impl FnMut(Operation<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    push(Operation::SetHostname { name: strings.hostname.as_c_str().into() })?;
    push(Operation::SetIds {
        uid: process.uid,
        gid: process.gid,
        groups: IdList::from_bytes(&strings.groups).unwrap_or_default(),
    })?;
    push(Operation::ChangeDirectory { path: strings.directory.as_c_str().into() })?;
    push(Operation::Exec { arguments: list(&strings.arguments), environment: list(&strings.environment) })
}

/// A specification's strings in the form that the wire wants.
struct Strings {
    arguments: Vec<u8>,
    environment: Vec<u8>,
    directory: CString,
    hostname: CString,
    groups: Vec<u8>,
    folders: Vec<CString>,
    /// Each as the guest sees it, and as the command does.
    writable: Vec<(CString, CString)>,
    /// Where the volumes are mounted.
    volumes: Vec<CString>,
}

impl Strings {
    fn of(spec: &Spec) -> Result<Self, Error> {
        let process = &spec.process;
        let c_string = |what: &str, bytes: &[u8]| {
            CString::new(bytes)
                .map_err(|_| Error::new(Kind::Process, format!("{what} must not contain a NUL byte")))
        };
        let joined = |what: &str, strings: &[Vec<u8>]| -> Result<Vec<u8>, Error> {
            if strings.len() > limits::MAX_STRINGS {
                return Err(Error::new(
                    Kind::Process,
                    format!("more than {} entries in {what}", limits::MAX_STRINGS),
                ));
            }
            let mut all = Vec::new();
            for string in strings {
                all.extend_from_slice(c_string(what, string)?.as_bytes_with_nul());
            }
            Ok(all)
        };
        if !process.directory.starts_with(b"/") {
            return Err(Error::new(
                Kind::Process,
                format!(
                    "working directory {}: must be absolute",
                    String::from_utf8_lossy(&process.directory)
                ),
            ));
        }
        if process.hostname.is_empty() || process.hostname.len() > 64 {
            return Err(Error::new(Kind::Process, "the host name must have 1 to 64 bytes"));
        }
        if process.groups.len() > limits::MAX_GROUPS {
            return Err(Error::new(
                Kind::Process,
                format!(
                    "the user has more than {} groups: name one, as in --user USER:GROUP",
                    limits::MAX_GROUPS
                ),
            ));
        }
        Ok(Self {
            arguments: joined("the command line", &process.arguments)?,
            environment: joined("the environment", &process.environment)?,
            directory: c_string("the working directory", &process.directory)?,
            hostname: c_string("the host name", process.hostname.as_bytes())?,
            groups: process.groups.iter().flat_map(|group| group.to_le_bytes()).collect(),
            folders: spec
                .folders
                .iter()
                .map(|folder| c_string("a folder", folder))
                .collect::<Result<_, _>>()?,
            writable: spec
                .writable
                .iter()
                .map(|folder| {
                    Ok((
                        c_string("a folder", &[b"/root", &**folder].concat())?,
                        c_string("a folder", folder)?,
                    ))
                })
                .collect::<Result<_, Error>>()?,
            volumes: spec
                .volumes
                .iter()
                .map(|volume| c_string("the target of a volume", &volume.target))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// `bytes` hold strings with their NULs: this file's constants, and what `Strings` joined.
fn list(bytes: &[u8]) -> StrList<'_> {
    StrList::from_bytes(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        choice::HypervisorChoice,
        spec::{Machine, Streams},
    };

    fn spec() -> Spec {
        Spec {
            machine: Machine {
                hypervisor: HypervisorChoice::Auto,
                vcpus: 1,
                memory: 128 << 20,
                kernel: "/k".into(),
                initrd: None,
                kernel_options: String::new(),
                rootfs: Rootfs::Image("/r".into()),
                shares: Vec::new(),
                console: None,
                seccomp: crate::SeccompMode::Enforce,
            },
            read_only: false,
            folders: Vec::new(),
            writable: Vec::new(),
            volumes: Vec::new(),
            jail_uid: None,
            process: Process {
                arguments: vec![b"echo".to_vec(), b"hi".to_vec()],
                environment: vec![b"A=1".to_vec()],
                directory: b"/".to_vec(),
                uid: 1,
                gid: 2,
                groups: Vec::new(),
                hostname: "h".into(),
                streams: Streams::Pipes,
                stop_signal: None,
            },
        }
    }

    #[test]
    fn ends_in_the_command() {
        let program = Program::compile(&spec()).unwrap();
        let last = program.operations().last().unwrap().unwrap();
        let Operation::Exec { arguments, environment } = last else { panic!("{last:?}") };
        assert_eq!(arguments.iter().collect::<Vec<_>>(), [c"echo", c"hi"]);
        assert_eq!(environment.iter().collect::<Vec<_>>(), [c"A=1"]);
    }

    #[test]
    fn read_only_closes_the_root_before_it_is_entered() {
        let closes = |spec: &Spec| {
            let program = Program::compile(spec).unwrap();
            let operations: Vec<_> = program.operations().map(Result::unwrap).map(|o| describe(&o)).collect();
            let enter = operations.iter().position(|o| o == "enter the root").unwrap();
            operations[..enter].iter().any(|o| o == "change the mount at /")
        };
        assert!(!closes(&spec()));
        assert!(closes(&Spec { read_only: true, ..spec() }));
    }

    #[test]
    fn writable_folders_stay_open_when_the_root_is_closed() {
        let words = |read_only| {
            let spec = Spec {
                read_only,
                writable: vec![b"/data".to_vec()],
                folders: vec![b"/w".to_vec()],
                ..spec()
            };
            let program = Program::compile(&spec).unwrap();
            program.operations().map(|operation| describe(&operation.unwrap())).collect::<Vec<_>>()
        };
        let at = |words: &[String], word: &str| words.iter().position(|other| other == word);
        let open = words(false);
        assert!(at(&open, "make folder /data").is_some() && at(&open, "make folder /w").is_some());
        assert_eq!(at(&open, "bind /root/data to /data"), None);
        let closed = words(true);
        assert!(at(&closed, "bind /root/data to /data") < at(&closed, "change the mount at /"));
        assert!(at(&closed, "bind /root/data to /data") > at(&closed, "make folder /data"));
    }

    #[test]
    fn refuses_what_the_guest_could_not_take() {
        let with = |change: fn(&mut Process)| {
            let mut spec = spec();
            change(&mut spec.process);
            Program::compile(&spec).map(|_| ()).unwrap_err().to_string()
        };
        assert!(with(|p| p.arguments.push(b"a\0b".to_vec())).contains("NUL"));
        assert!(with(|p| p.environment = vec![b"A=1".to_vec(); 5000]).contains("4096"));
        assert!(with(|p| p.environment = vec![vec![b'x'; 600 << 10]]).contains("too long"));
        let many = format!("{} groups", limits::MAX_GROUPS);
        assert!(with(|p| p.groups = vec![1; limits::MAX_GROUPS + 1]).contains(&many));
        assert!(with(|p| p.directory = b"relative".to_vec()).contains("absolute"));
        assert!(with(|p| p.hostname = "x".repeat(65)).contains("64 bytes"));
    }
}
