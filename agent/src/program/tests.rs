//! The interpreter, on a kernel that only writes down what it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};

use mote_protocol::{
    ErrorCode, IdList, Operation, Operations, ProgramWriter, StrList, WireStr, limits::MAX_STRINGS,
};
use rustix::io::Errno;

use super::{Failure, Kernel, Opened, execute, wants_pid_namespace};

/// What `execve` says if the name is known: it was done. Nothing else returns it.
const EXECUTED: Errno = Errno::XFULL;

/// A descriptor says what it was opened for.
type Fd = String;

#[derive(Default)]
struct Recorder {
    calls: Vec<String>,
    /// What exists, besides `/`: folders by path.
    folders: BTreeSet<String>,
    /// What a call, by the start of its record, returns instead of success.
    errors: BTreeMap<&'static str, Errno>,
}

impl Recorder {
    fn record(&mut self, call: String) -> Result<(), Errno> {
        let error = self.errors.iter().find(|(start, _)| call.starts_with(**start)).map(|(_, errno)| *errno);
        self.calls.push(call);
        error.map_or(Ok(()), Err)
    }
}

fn text(text: &CStr) -> &str {
    text.to_str().unwrap()
}

/// A path with single slashes.
fn tidy(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty()).fold(String::new(), |path, part| path + "/" + part)
}

impl Kernel for Recorder {
    type Fd = Fd;

    fn open_root(&mut self) -> Result<Fd, Errno> {
        self.record("open_root".into())?;
        Ok("own".into())
    }
    fn open(&mut self, root: &Fd, path: &CStr, what: Opened) -> Result<Fd, Errno> {
        let path = tidy(text(path));
        self.record(format!("open {root}:{path} {what:?}"))?;
        if path.is_empty() || self.folders.contains(&path) {
            Ok(format!("{root}:{path}"))
        } else {
            Err(Errno::NOENT)
        }
    }
    fn unshare(&mut self, namespaces: u32) -> Result<(), Errno> {
        self.record(format!("unshare {namespaces:#x}"))
    }
    fn make_directory(&mut self, parent: &Fd, name: &CStr, mode: u32) -> Result<(), Errno> {
        self.record(format!("mkdir {parent} {} {mode:o}", text(name)))?;
        let (_, folder) = parent.split_once(':').unwrap();
        self.folders.insert(format!("{folder}/{}", text(name)));
        Ok(())
    }
    fn make_symlink(&mut self, content: &CStr, parent: &Fd, name: &CStr) -> Result<(), Errno> {
        self.record(format!("symlink {} {parent} {}", text(content), text(name)))
    }
    fn fs_open(&mut self, fs_type: &CStr) -> Result<Fd, Errno> {
        self.record(format!("fsopen {}", text(fs_type)))?;
        Ok(text(fs_type).into())
    }
    fn fs_set_string(&mut self, context: &Fd, key: &CStr, value: &CStr) -> Result<(), Errno> {
        self.record(format!("set {context} {}={}", text(key), text(value)))
    }
    fn fs_set_flag(&mut self, context: &Fd, key: &CStr) -> Result<(), Errno> {
        self.record(format!("flag {context} {}", text(key)))
    }
    fn fs_create(&mut self, context: &Fd) -> Result<(), Errno> {
        self.record(format!("create {context}"))
    }
    fn fs_mount(&mut self, context: &Fd, attributes: u64) -> Result<Fd, Errno> {
        self.record(format!("fsmount {context} {attributes}"))?;
        Ok(format!("{context}-mount"))
    }
    fn fs_message(&mut self, _: &Fd, message: &mut [u8]) -> usize {
        let words = b"e overlay: no such option\n";
        message[..words.len()].copy_from_slice(words);
        words.len()
    }
    fn clone_tree(&mut self, source: &CStr, recursive: bool) -> Result<Fd, Errno> {
        self.record(format!("clone {} {recursive}", text(source)))?;
        Ok("clone".into())
    }
    fn move_mount(&mut self, mount: &Fd, target: &Fd) -> Result<(), Errno> {
        self.record(format!("move {mount} {target}"))
    }
    fn set_mount_attributes(&mut self, mount: &Fd, set: u64, clear: u64) -> Result<(), Errno> {
        self.record(format!("attributes {mount} {set} {clear}"))
    }
    fn enter_root(&mut self, root: &Fd) -> Result<(), (Errno, &'static str)> {
        self.record(format!("enter {root}")).map_err(|errno| (errno, "chroot"))
    }
    fn set_hostname(&mut self, name: &[u8]) -> Result<(), Errno> {
        self.record(format!("hostname {}", str::from_utf8(name).unwrap()))
    }
    fn give_streams(&mut self, uid: u32, gid: u32) -> Result<(), Errno> {
        self.record(format!("give {uid}:{gid}"))
    }
    fn set_groups(&mut self, groups: IdList<'_>) -> Result<(), Errno> {
        self.record(format!("groups {:?}", groups.iter().collect::<Vec<_>>()))
    }
    fn set_gid(&mut self, gid: u32) -> Result<(), Errno> {
        self.record(format!("gid {gid}"))
    }
    fn set_uid(&mut self, uid: u32) -> Result<(), Errno> {
        self.record(format!("uid {uid}"))
    }
    fn change_directory(&mut self, folder: &Fd) -> Result<(), Errno> {
        self.record(format!("chdir {folder}"))
    }
    fn announce_exec(&mut self) -> Result<(), Errno> {
        self.record("ready".into())
    }
    fn execve(&mut self, path: &CStr, arguments: StrList<'_>, environment: StrList<'_>) -> Errno {
        let counts = (arguments.iter().count(), environment.iter().count());
        self.record(format!("exec {} {counts:?}", text(path))).err().unwrap_or(EXECUTED)
    }
}

fn wire(text: &CStr) -> WireStr<'_> {
    text.into()
}

fn list(bytes: &[u8]) -> StrList<'_> {
    StrList::from_bytes(bytes).unwrap()
}

fn exec<'a>(arguments: &'a [u8], environment: &'a [u8]) -> Operation<'a> {
    Operation::Exec { arguments: list(arguments), environment: list(environment) }
}

fn run(recorder: &mut Recorder, operations: &[Operation<'_>]) -> Failure {
    let mut bytes = vec![0; 1 << 16];
    let mut writer = ProgramWriter::new(&mut bytes);
    for operation in operations {
        writer.push(operation).unwrap();
    }
    execute(writer.finish(), recorder)
}

fn with_folders(folders: &[&str]) -> Recorder {
    let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
    Recorder { folders, ..Recorder::default() }
}

#[test]
fn a_container_is_made_in_the_order_of_its_program() {
    let mut kernel = with_folders(&["/new", "/proc", "/tmp"]);
    let failure = run(
        &mut kernel,
        &[
            Operation::Unshare { namespaces: 0x2402_0000 },
            Operation::Mount {
                fs_type: wire(c"overlay"),
                source: wire(c"all"),
                target: wire(c"/new"),
                attributes: 6,
                options: list(b"lowerdir=/a=b\0ro\0empty=\0"),
            },
            Operation::SetRoot { path: wire(c"/new") },
            Operation::BindMount { source: wire(c"/dev"), target: wire(c"/tmp"), recursive: true },
            Operation::SetMountAttributes { target: wire(c"proc"), set: 1, clear: 2 },
            Operation::EnterRoot,
            Operation::SetHostname { name: wire(c"box") },
            Operation::SetIds {
                uid: 5,
                gid: 6,
                groups: IdList::from_bytes(&[7, 0, 0, 0, 8, 0, 0, 0]).unwrap(),
            },
            Operation::ChangeDirectory { path: wire(c"/tmp") },
            exec(b"/bin/sh\0-c\0true\0", b"A=1\0"),
        ],
    );
    assert_eq!((failure.code, failure.operation), (ErrorCode::CommandNotExecutable, 9));
    assert_eq!(
        kernel.calls,
        [
            // Without the PID namespace, which the process was made in.
            "unshare 0x4020000",
            "fsopen overlay",
            "set overlay source=all",
            "set overlay lowerdir=/a=b",
            "flag overlay ro",
            "set overlay empty=",
            "create overlay",
            "fsmount overlay 6",
            "open_root",
            "open own:/new Any",
            "move overlay-mount own:/new",
            "open own:/new Directory",
            "clone /dev true",
            "open own:/new:/tmp Any",
            "move clone own:/new:/tmp",
            "open own:/new:/proc Any",
            "attributes own:/new:/proc 1 2",
            "enter own:/new",
            "hostname box",
            "give 5:6",
            "groups [7, 8]",
            "gid 6",
            "uid 5",
            "open own:/new:/tmp Directory",
            "chdir own:/new:/tmp",
            "ready",
            "exec /bin/sh (3, 1)",
        ]
    );
}

#[test]
fn folders_are_made_from_the_first_that_is_missing() {
    let mut kernel = with_folders(&["/a"]);
    run(&mut kernel, &[Operation::MakeDirectory { path: wire(c"//a/b//c/"), mode: 0o1777 }]);
    assert_eq!(
        kernel.calls,
        [
            "open_root",
            "open own:/a/b/c Directory",
            "open own:/a Directory",
            "open own:/a/b Directory",
            "open own:/a Directory",
            "mkdir own:/a b 1777",
            "open own:/a/b Directory",
            "open own:/a/b/c Directory",
            "open own:/a/b Directory",
            "mkdir own:/a/b c 1777",
            "open own:/a/b/c Directory",
            "open own:/a/b/c Directory",
        ]
    );
    // What is there already is not touched, and what is no folder is an error.
    let mut kernel = with_folders(&["/a"]);
    run(&mut kernel, &[Operation::MakeDirectory { path: wire(c"a"), mode: 0o755 }]);
    assert_eq!(kernel.calls, ["open_root", "open own:/a Directory"]);
    let mut kernel = Recorder { errors: [("open own:/f", Errno::NOTDIR)].into(), ..Recorder::default() };
    let failure = run(&mut kernel, &[Operation::MakeDirectory { path: wire(c"/f/x"), mode: 0o755 }]);
    assert_eq!((failure.errno, failure.step), (20, "openat2"));
    // A link that leads nowhere has the name.
    let mut kernel = Recorder { errors: [("mkdir", Errno::EXIST)].into(), ..Recorder::default() };
    let failure = run(&mut kernel, &[Operation::MakeDirectory { path: wire(c"/link"), mode: 0o755 }]);
    assert_eq!((failure.code, failure.errno), (ErrorCode::OperationFailed, 2));
}

#[test]
fn a_link_leaves_alone_what_has_its_name() {
    let link = |path| Operation::MakeSymlink { content: wire(c"/proc/self/fd"), path: wire(path) };
    let mut kernel = with_folders(&["/dev"]);
    kernel.errors.insert("symlink", Errno::EXIST);
    let failure = run(&mut kernel, &[link(c"/dev/fd"), link(c"top")]);
    assert_eq!((failure.code, failure.operation), (ErrorCode::InvalidArgument, 2), "program without exec");
    assert_eq!(
        kernel.calls[1..],
        [
            "open own:/dev Directory",
            "symlink /proc/self/fd own:/dev fd",
            "open own: Directory",
            "symlink /proc/self/fd own: top",
        ]
    );
    for path in [c"", c"/", c"//"] {
        let failure = run(&mut Recorder::default(), &[link(path)]);
        assert_eq!((failure.code, failure.operation), (ErrorCode::InvalidArgument, 0), "{path:?}");
    }
}

#[test]
fn a_failure_names_its_operation_and_what_the_kernel_said() {
    let mount = Operation::Mount {
        fs_type: wire(c"overlay"),
        source: wire(c""),
        target: wire(c"/"),
        attributes: 0,
        options: list(b"bad=1\0"),
    };
    let hostname = Operation::SetHostname { name: wire(c"x") };
    let mut kernel = Recorder { errors: [("set overlay bad", Errno::INVAL)].into(), ..Recorder::default() };
    let failure = run(&mut kernel, &[hostname, hostname, mount, hostname]);
    assert_eq!(
        (failure.code, failure.errno, failure.operation, failure.step),
        (ErrorCode::OperationFailed, 22, 2, "fsconfig")
    );
    assert_eq!(failure.message, b"e overlay: no such option");
    assert_eq!(kernel.calls.last().unwrap(), "set overlay bad=1");
}

#[test]
fn ids_that_would_change_nothing_are_refused() {
    let groups = IdList::from_bytes(&[0xff; 4]).unwrap();
    for (uid, gid, groups) in
        [(u32::MAX, 0, IdList::default()), (0, u32::MAX, IdList::default()), (0, 0, groups)]
    {
        let mut kernel = Recorder::default();
        let failure = run(&mut kernel, &[Operation::SetIds { uid, gid, groups }]);
        assert_eq!(failure.code, ErrorCode::InvalidArgument);
        assert!(kernel.calls.is_empty());
    }
}

#[test]
fn namespaces_come_before_what_depends_on_them() {
    let unshare = |namespaces| Operation::Unshare { namespaces };
    let root = Operation::SetRoot { path: wire(c"/") };
    for (program, operation) in
        [([unshare(0x400_0000), unshare(0x2000_0000)], 1), ([root, unshare(0x2_0000)], 1)]
    {
        let failure = run(&mut Recorder::default(), &program);
        assert_eq!((failure.code, failure.operation), (ErrorCode::InvalidArgument, operation));
    }
    // The guest's own root is opened again in a new mount namespace.
    let mut kernel = Recorder::default();
    let folder = Operation::ChangeDirectory { path: wire(c"/") };
    run(&mut kernel, &[folder, unshare(0x2_0000), folder]);
    assert_eq!(kernel.calls.iter().filter(|call| *call == "open_root").count(), 2);

    let mut bytes = [0; 64];
    let mut program = ProgramWriter::new(&mut bytes);
    program.push(&unshare(0x2002_0000)).unwrap();
    assert!(wants_pid_namespace(program.finish()));
    assert!(!wants_pid_namespace(Operations::default()));
    assert!(!wants_pid_namespace(Operations::from_bytes(&[0xff])));
}

#[test]
fn names_are_looked_up_in_the_path_of_the_environment() {
    let tried = |environment: &[u8], errors: &[(&'static str, Errno)]| {
        let mut kernel = Recorder { errors: errors.iter().copied().collect(), ..Recorder::default() };
        let failure = run(&mut kernel, &[exec(b"cmd\0", environment)]);
        let tried = kernel.calls.iter().filter_map(|call| call.strip_prefix("exec "));
        let tried: Vec<String> = tried.map(|call| call.split(' ').next().unwrap().to_owned()).collect();
        (tried, failure.code, failure.errno)
    };
    let full = i32::from(u16::try_from(EXECUTED.raw_os_error()).unwrap());
    let full = u16::try_from(full).unwrap();
    assert_eq!(
        tried(b"X=1\0PATH=/a:/b\0PATH=/c\0", &[("exec /a", Errno::NOENT)]),
        (vec!["/a/cmd".into(), "/b/cmd".into()], ErrorCode::CommandNotExecutable, full)
    );
    assert_eq!(
        tried(b"PATH=::/b\0", &[("exec", Errno::NOTDIR)]),
        (vec!["cmd".into(), "cmd".into(), "/b/cmd".into()], ErrorCode::CommandNotFound, 2)
    );
    assert_eq!(
        tried(b"PATH=/a:/b\0", &[("exec /a", Errno::ACCESS), ("exec /b", Errno::NOENT)]),
        (vec!["/a/cmd".into(), "/b/cmd".into()], ErrorCode::CommandNotExecutable, 13)
    );
    assert_eq!(
        tried(b"PATH=/a:/b\0", &[("exec /a", Errno::NOEXEC)]),
        (vec!["/a/cmd".into()], ErrorCode::CommandNotExecutable, 8)
    );
    let (default, code, _) = tried(b"", &[("exec", Errno::NOENT)]);
    assert_eq!((default.len(), default[5].as_str(), code), (6, "/bin/cmd", ErrorCode::CommandNotFound));
    let long = [b"PATH=".as_slice(), &[b'a'; 5000], b":/b\0"].concat();
    assert_eq!(tried(&long, &[]).0, ["/b/cmd"]);
}

#[test]
fn programs_that_make_no_sense_fail_cleanly() {
    let failure = run(&mut Recorder::default(), &[]);
    assert_eq!((failure.code, failure.operation), (ErrorCode::InvalidArgument, 0));
    let failure = run(&mut Recorder::default(), &[exec(b"", b"")]);
    assert_eq!((failure.code, failure.operation), (ErrorCode::InvalidArgument, 0));
    let failure = execute(Operations::from_bytes(&[7, 1, b'x']), &mut Recorder::default());
    assert_eq!((failure.code, failure.operation), (ErrorCode::BadMessage, 0));
    let long = CString::new(vec![b'a'; 5000]).unwrap();
    let failure = run(&mut Recorder::default(), &[Operation::MakeDirectory { path: wire(&long), mode: 0 }]);
    assert_eq!((failure.code, failure.errno), (ErrorCode::OperationFailed, 36));
    // More strings than the tables for execve hold: the real kernel's side refuses.
    let many = vec![0; MAX_STRINGS + 1];
    assert_eq!(crate::sys::process::execve(c"/nowhere", list(&many), list(b"")), Errno::TOOBIG);
    assert_eq!(crate::sys::process::execve(c"/nowhere", list(&many[1..]), list(b"")), Errno::NOENT);
    assert_eq!(crate::sys::process::unshare(0x400), Err(Errno::INVAL), "CLONE_FILES is no namespace");
}
