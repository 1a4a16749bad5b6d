//! The interpreter, on a kernel that only writes down what it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};

use mote_protocol::{
    ErrorCode, IdList, Operation, Operations, ProcessId, ProgramWriter, StrList, WireStr, limits::MAX_STRINGS,
};
use rustix::io::Errno;

use super::{
    Capabilities, Failure, Hook, Kernel, Opened, Scheduler, execute, forks, joins, wants_pid_namespace,
};

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
    terminal: Option<u32>,
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
    fn write(&mut self, root: &Fd, path: &CStr, content: &[u8]) -> Result<(), Errno> {
        self.record(format!("write {root}:{} {}", text(path), str::from_utf8(content).unwrap()))
    }
    fn go_on_in_child(&mut self) -> Result<(), Errno> {
        self.record("go on".into())
    }
    fn join(&mut self, namespaces: u32) -> Result<(), Errno> {
        self.record(format!("join {namespaces:#x}"))
    }
    fn make_user_namespace(&mut self, proc: &Fd, uids: &CStr, gids: &CStr) -> Result<Fd, Errno> {
        self.record(format!("userns {proc} {}/{}", text(uids), text(gids)))?;
        Ok("ids".into())
    }
    fn enter_user_namespace(&mut self, namespace: &Fd) -> Result<(), Errno> {
        self.record(format!("enter {namespace}"))
    }
    fn make_node(&mut self, parent: &Fd, name: &CStr, mode: u32, device: (u32, u32)) -> Result<(), Errno> {
        self.record(format!("mknod {parent} {} {mode:o} {device:?}", text(name)))?;
        let (_, folder) = parent.split_once(':').unwrap();
        self.folders.insert(format!("{folder}/{}", text(name)));
        Ok(())
    }
    fn change_owner(&mut self, parent: &Fd, name: &CStr, ids: (u32, u32)) -> Result<(), Errno> {
        self.record(format!("chown {parent} {} {ids:?}", text(name)))
    }
    fn is_directory(&mut self, what: &Fd) -> Result<bool, Errno> {
        self.record(format!("fstat {what}"))?;
        Ok(!what.contains("file"))
    }
    fn copy_tree(&mut self, from: &Fd, to: &Fd) -> Result<(), Errno> {
        self.record(format!("copy {from} {to}"))
    }
    fn clone_opened(&mut self, source: &Fd) -> Result<Fd, Errno> {
        self.record(format!("clone {source}"))?;
        Ok("clone".into())
    }
    fn map_ids(&mut self, mount: &Fd, namespace: &Fd, recursive: bool) -> Result<(), Errno> {
        self.record(format!("map {mount} {namespace} {recursive}"))
    }
    fn terminal(&mut self) -> Result<Option<u32>, Errno> {
        self.record("terminal".into())?;
        Ok(self.terminal)
    }
    fn set_domainname(&mut self, name: &[u8]) -> Result<(), Errno> {
        self.record(format!("domainname {}", str::from_utf8(name).unwrap()))
    }
    fn raise_loopback(&mut self) -> Result<(), Errno> {
        self.record("loopback".into())
    }
    fn filter_devices(&mut self, cgroup: &Fd, program: &[u8]) -> Result<(), (Errno, &'static str)> {
        self.record(format!("devices {cgroup} {}", program.len())).map_err(|errno| (errno, "BPF_PROG_LOAD"))
    }
    fn keep_capabilities(&mut self) -> Result<(), Errno> {
        self.record("keep".into())
    }
    fn bound_capabilities(&mut self, keep: u64) -> Result<(), Errno> {
        self.record(format!("bound {keep:#x}"))
    }
    fn set_capabilities(&mut self, sets: Capabilities) -> Result<(), (Errno, &'static str)> {
        let Capabilities { effective, permitted, inheritable, ambient } = sets;
        let call = format!("capabilities {effective:#x} {permitted:#x} {inheritable:#x} {ambient:#x}");
        self.record(call).map_err(|errno| (errno, "capset"))
    }
    fn set_limit(&mut self, resource: u8, soft: u64, hard: u64) -> Result<(), Errno> {
        self.record(format!("limit {resource} {soft} {hard}"))
    }
    fn set_umask(&mut self, mask: u32) {
        self.calls.push(format!("umask {mask:o}"));
    }
    fn set_no_new_privileges(&mut self) -> Result<(), Errno> {
        self.record("no new privileges".into())
    }
    fn set_seccomp(&mut self, flags: u32, filter: &[u8]) -> Result<(), Errno> {
        self.record(format!("seccomp {flags} {}", filter.len()))
    }
    fn set_scheduler(&mut self, scheduler: Scheduler) -> Result<(), Errno> {
        self.record(format!("scheduler {} {}", scheduler.policy, scheduler.nice))
    }
    fn set_io_priority(&mut self, priority: u16) -> Result<(), Errno> {
        self.record(format!("ioprio {priority:#x}"))
    }
    fn set_personality(&mut self, persona: u32) -> Result<(), Errno> {
        self.record(format!("personality {persona:#x}"))
    }
    fn check_executable(&mut self, path: &CStr) -> Result<(), Errno> {
        self.record(format!("access {}", text(path)))
    }
    fn run_hook(
        &mut self,
        hook: Hook<'_>,
        words: &mut [u8],
    ) -> Result<(), (Option<Errno>, &'static str, usize)> {
        words[..4].copy_from_slice(b"oh!\n");
        let input = str::from_utf8(hook.input).unwrap();
        self.record(format!("hook {} {input} {}", text(hook.path), hook.timeout_ms))
            .map_err(|_| (None, "hook failed", 4))
    }
    fn wait_at_gate(&mut self) -> Result<(), Errno> {
        self.record("gate".into())
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
    fn change_mount(&mut self, mount: &Fd, recursive: bool, change: (u64, u64, u64)) -> Result<(), Errno> {
        self.record(format!("change {mount} {recursive} {change:?}"))
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
            "change own:/new:/proc false (1, 2, 0)",
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
            // And no folder without a name, for the slash at the end.
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
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let mut kernel = Recorder::default();
        let failure = run(&mut kernel, &[Operation::GiveStreams { uid, gid }]);
        assert_eq!(failure.code, ErrorCode::InvalidArgument);
        assert!(kernel.calls.is_empty());
    }
}

#[test]
fn namespaces_come_before_what_depends_on_them() {
    let unshare = |namespaces| Operation::Unshare { namespaces };
    let root = Operation::SetRoot { path: wire(c"/") };
    let failure = run(&mut Recorder::default(), &[root, unshare(0x2_0000)]);
    assert_eq!((failure.code, failure.operation), (ErrorCode::InvalidArgument, 1));
    // Whoever asks for a PID namespace late goes on in a child.
    let mut kernel = Recorder::default();
    run(&mut kernel, &[unshare(0x400_0000), unshare(0x2000_0000)]);
    assert_eq!(kernel.calls, ["unshare 0x4000000", "unshare 0x20000000", "go on"]);
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
    assert!(!forks(program_of(&mut [0; 64], &[unshare(0x2002_0000)])));
    assert!(forks(program_of(&mut [0; 64], &[unshare(0x2_0000), unshare(0x2000_0000)])));
}

fn program_of<'b>(bytes: &'b mut [u8], operations: &[Operation<'_>]) -> Operations<'b> {
    let mut writer = ProgramWriter::new(bytes);
    for operation in operations {
        writer.push(operation).unwrap();
    }
    writer.finish()
}

#[test]
fn joining_comes_after_the_cgroup_and_goes_on_in_a_child() {
    let join = Operation::Join { process: ProcessId(3), namespaces: 0x2002_0000 };
    let group = Operation::WriteFile { path: wire(c"/cgroup.procs"), content: b"0" };
    let root = Operation::SetRoot { path: wire(c"/") };
    let mut bytes = [0; 128];
    assert_eq!(joins(program_of(&mut bytes, &[group, group, join])), Some(ProcessId(3)));
    assert!(forks(program_of(&mut bytes, &[group, join])));
    assert_eq!(joins(program_of(&mut bytes, &[root, join])), None);
    assert_eq!(joins(Operations::from_bytes(&[0xff])), None);
    let mut kernel = Recorder::default();
    run(&mut kernel, &[group, join, root]);
    assert_eq!(
        kernel.calls,
        [
            "open_root",
            "write own:/cgroup.procs 0",
            "join 0x20020000",
            "go on",
            // The root is that of the other process.
            "open_root",
            "open own: Directory",
        ]
    );
}

#[test]
fn a_user_namespace_is_made_with_a_proc_that_nobody_can_replace() {
    let mut kernel = Recorder::default();
    let enter = Operation::EnterUserNamespace { uids: wire(c"0 1 2"), gids: wire(c"0 3 4") };
    let adjust = Operation::WriteProc { path: wire(c"self/oom_score_adj"), content: b"5" };
    run(&mut kernel, &[adjust, enter, Operation::Unshare { namespaces: 0x2000_0000 }, adjust]);
    assert_eq!(
        kernel.calls,
        [
            "fsopen proc",
            "create proc",
            "fsmount proc 0",
            "write proc-mount:self/oom_score_adj 5",
            "userns proc-mount 0 1 2/0 3 4",
            "enter ids",
            "groups []",
            "gid 0",
            "uid 0",
            "unshare 0x20000000",
            "go on",
            // One of the new PID namespace.
            "fsopen proc",
            "create proc",
            "fsmount proc 0",
            "write proc-mount:self/oom_score_adj 5",
        ]
    );
}

fn bind<'a>(source: &'a CStr, target: &'a CStr, uids: &'a CStr) -> Operation<'a> {
    Operation::Bind {
        source: wire(source),
        target: wire(target),
        recursive: true,
        uids: wire(uids),
        gids: wire(uids),
        recursive_ids: false,
    }
}

#[test]
fn a_bind_makes_what_it_needs() {
    let mut kernel = with_folders(&["/there"]);
    run(&mut kernel, &[bind(c"/s", c"/there", c""), bind(c"/s", c"/new/one", c"0 1 2")]);
    let calls: Vec<_> = kernel.calls.iter().map(String::as_str).collect();
    assert_eq!(
        calls[..5],
        ["clone /s true", "open_root", "open own:/there Any", "open own:/there Any", "move clone own:/there",]
    );
    assert!(calls.contains(&"userns proc-mount 0 1 2/0 1 2"));
    assert!(calls.contains(&"map clone ids false"));
    assert!(calls.contains(&"mkdir own: new 755") && calls.contains(&"mkdir own:/new one 755"));
    assert_eq!(calls.last(), Some(&"move clone own:/new/one"));
}

#[test]
fn what_is_not_there_needs_no_hiding() {
    let mut kernel = with_folders(&["/dir", "/proc/file"]);
    let mask = |path| Operation::MaskPath { path: wire(path) };
    let protect = Operation::ProtectPath { path: wire(c"/dir") };
    run(&mut kernel, &[mask(c"/none"), mask(c"/dir"), mask(c"/proc/file"), protect]);
    assert_eq!(
        kernel.calls,
        [
            "open_root",
            "open own:/none Any",
            "open own:/dir Any",
            "fstat own:/dir",
            "fsopen tmpfs",
            "set tmpfs source=tmpfs",
            "create tmpfs",
            "fsmount tmpfs 15",
            "move tmpfs-mount own:/dir",
            "open own:/proc/file Any",
            "fstat own:/proc/file",
            "clone /dev/null false",
            "move clone own:/proc/file",
            "open own:/dir Any",
            "clone own:/dir",
            "change clone true (1, 0, 0)",
            "move clone own:/dir",
        ]
    );
    let mut kernel = with_folders(&["/dir"]);
    kernel.errors.insert("open own:/dir", Errno::LOOP);
    assert_eq!(run(&mut kernel, &[mask(c"/dir")]).errno, 40, "what cannot be looked at is not passed over");
}

#[test]
fn a_terminal_and_devices_get_their_names() {
    let device = Operation::MakeDevice {
        path: wire(c"/dev/x/null"),
        mode: 0o020_666,
        major: 1,
        minor: 3,
        uid: 5,
        gid: 6,
    };
    let console = Operation::BindTerminal { target: wire(c"/dev/x/null") };
    let mut kernel = Recorder { terminal: Some(17), ..with_folders(&["/dev"]) };
    run(&mut kernel, &[device, console]);
    let calls: Vec<_> = kernel.calls.iter().map(String::as_str).collect();
    assert!(calls.contains(&"mkdir own:/dev x 755"), "{calls:?}");
    assert!(calls.contains(&"mknod own:/dev/x null 20666 (1, 3)"));
    assert!(calls.contains(&"chown own:/dev/x null (5, 6)"));
    assert!(calls.contains(&"clone /dev/pts/17 false"));
    assert_eq!(calls.last(), Some(&"move clone own:/dev/x/null"));
    // Without a terminal there is nothing to name, and what is there keeps its owner.
    let mut kernel = with_folders(&["/dev/x"]);
    kernel.errors.insert("mknod", Errno::EXIST);
    run(&mut kernel, &[console, device]);
    assert_eq!(kernel.calls[0], "terminal");
    assert!(kernel.calls.last().unwrap().starts_with("mknod"), "{:?}", kernel.calls);
}

#[test]
fn a_copy_is_made_before_it_is_seen_and_closed_after() {
    let mut kernel = with_folders(&["/tmp"]);
    run(
        &mut kernel,
        &[Operation::MountCopy { target: wire(c"/tmp"), attributes: 3, options: list(b"size=1\0") }],
    );
    assert_eq!(
        kernel.calls,
        [
            "fsopen tmpfs",
            "set tmpfs source=tmpfs",
            "set tmpfs size=1",
            "create tmpfs",
            "fsmount tmpfs 2",
            "open_root",
            "open own:/tmp Listed",
            "copy own:/tmp tmpfs-mount",
            "change tmpfs-mount false (1, 0, 0)",
            "open own:/tmp Any",
            "move tmpfs-mount own:/tmp",
        ]
    );
}

#[test]
fn a_process_gets_its_privileges_in_the_order_of_its_program() {
    let mut kernel = Recorder::default();
    let scheduler = Operation::SetScheduler {
        policy: 3,
        flags: 0,
        nice: -5,
        priority: 0,
        runtime: 0,
        deadline: 0,
        period: 0,
    };
    run(
        &mut kernel,
        &[
            Operation::SetLimit { resource: 7, soft: 1, hard: 2 },
            Operation::BoundCapabilities { keep: 0x21 },
            Operation::GiveStreams { uid: 100, gid: 200 },
            Operation::KeepCapabilities,
            Operation::SetIds { uid: 1, gid: 2, groups: IdList::default() },
            Operation::SetCapabilities { effective: 1, permitted: 3, inheritable: 0, ambient: 1 },
            Operation::SetNoNewPrivileges,
            Operation::SetSeccomp { flags: 0, filter: &[0; 16] },
            scheduler,
            Operation::SetIoPriority { priority: 0x4000 },
            Operation::SetPersonality { persona: 8 },
            Operation::SetUmask { mask: 0o77 },
            Operation::SetDomainname { name: wire(c"d") },
            Operation::RaiseLoopback,
            Operation::CheckExecutable { name: wire(c"sh"), path: wire(c"/a:/b") },
            Operation::Await,
            exec(b"/bin/sh\0", b""),
        ],
    );
    assert_eq!(
        kernel.calls,
        [
            "limit 7 1 2",
            "bound 0x21",
            "give 100:200",
            "keep",
            // The streams have their owner already.
            "groups []",
            "gid 2",
            "uid 1",
            "capabilities 0x1 0x3 0x0 0x1",
            "no new privileges",
            "seccomp 0 16",
            "scheduler 3 -5",
            "ioprio 0x4000",
            "personality 0x8",
            "umask 77",
            "domainname d",
            "loopback",
            "access /a/sh",
            "gate",
            "ready",
            "exec /bin/sh (1, 0)",
        ]
    );
}

#[test]
fn a_program_that_is_missing_is_noticed_before_the_gate() {
    let check =
        |name, path| [Operation::CheckExecutable { name: wire(name), path: wire(path) }, Operation::Await];
    let errors = [("access /a", Errno::NOENT), ("access /b", Errno::ACCESS), ("access /x", Errno::NOTDIR)];
    let new = || Recorder { errors: errors.into(), ..Recorder::default() };
    let failed = |name, path| {
        let failure = run(&mut new(), &check(name, path));
        (failure.code, failure.errno, failure.operation, failure.step)
    };
    assert_eq!(failed(c"sh", c"/a:/a"), (ErrorCode::CommandNotFound, 2, 0, "access"));
    assert_eq!(failed(c"sh", c"/a:/b"), (ErrorCode::CommandNotExecutable, 13, 0, "access"));
    assert_eq!(failed(c"/x/y", c""), (ErrorCode::CommandNotFound, 20, 0, "access"));
    let mut kernel = new();
    run(&mut kernel, &check(c"sh", c"/a:/c:/b"));
    assert_eq!(kernel.calls, ["access /a/sh", "access /c/sh", "gate"]);
}

#[test]
fn what_was_found_before_the_gate_is_what_is_executed() {
    let executed = |name, path, environment: &[u8]| {
        let errors = [("access /a", Errno::NOENT), ("access /b", Errno::ACCESS), ("exec", Errno::NOENT)];
        let mut kernel = Recorder { errors: errors.into(), ..Recorder::default() };
        let check = Operation::CheckExecutable { name: wire(name), path: wire(path) };
        run(&mut kernel, &[check, exec(&[name.to_bytes_with_nul()].concat(), environment)]);
        let calls = kernel.calls.into_iter().filter(|call| call.starts_with("exec"));
        calls.map(|call| call.split(' ').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(executed(c"sh", c"/a:/b:/c:/d", b"PATH=/a:/b:/c:/d\0"), ["/c/sh", "/d/sh"]);
    assert_eq!(executed(c"sh", c"/c", b"PATH=/c\0"), ["/c/sh"]);
    // Looked for in other folders than those of the process, or not in folders at all.
    assert_eq!(executed(c"sh", c"/a:/c", b"PATH=/c\0"), ["/c/sh"]);
    assert_eq!(executed(c"/c/sh", c"/a:/c", b"PATH=/a:/c\0"), ["/c/sh"]);
}

#[test]
fn a_hook_that_fails_stops_the_program_and_says_why() {
    let hook = Operation::RunHook {
        path: wire(c"/h"),
        arguments: list(b"h\0"),
        environment: list(b""),
        input: b"{}",
        timeout_ms: 7,
    };
    let mut kernel = Recorder { errors: [("hook", Errno::PERM)].into(), ..Recorder::default() };
    let failure = run(&mut kernel, &[hook, Operation::Await]);
    assert_eq!(
        (failure.errno, failure.step, failure.message.as_slice()),
        (0, "hook failed", b"oh!".as_slice())
    );
    assert_eq!(kernel.calls, ["hook /h {} 7"]);
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
