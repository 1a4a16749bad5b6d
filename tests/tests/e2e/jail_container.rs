//! The walls around the sandbox process of a container, looked at from outside, and what commands still do through them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, lchown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use mote_tests::harness::{
    Bundle, HANG, Leftovers, adopt_orphans, hypervisor, installed, process_ended, program, reap, run, text,
};
use nix::pty::{OpenptyResult, openpty};

use crate::jail::{ORDINARY, assert_apart, family, process, status};

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP.
const FILE_SERVER: &str = "00000000880000db";
const NONE: &str = "0000000000000000";

/// Every thread of the sandbox process, and of QEMU where that is.
fn assert_walls(sandbox: u32) {
    let family = family(sandbox);
    assert_eq!(family.len(), if hypervisor() == "qemu" { 2 } else { 1 });
    for pid in family {
        let kept = if pid == sandbox { FILE_SERVER } else { NONE };
        for thread in fs::read_dir(process(pid).join("task")).unwrap() {
            let thread = thread.unwrap().path();
            let name = fs::read_to_string(thread.join("comm")).unwrap();
            let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status(&thread, set));
            assert_eq!(sets, [NONE, kept, kept, FILE_SERVER, NONE], "{name}");
            assert_eq!(status(&thread, "NoNewPrivs"), "1", "{name}");
            assert_eq!(status(&thread, "Seccomp"), "2", "{name} has no filter");
        }
        assert_apart(pid, &["mnt", "ipc", "pid"]);
        let limits = fs::read_to_string(process(pid).join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        // Nothing of the host's is there to be opened.
        for missing in ["etc/passwd", "home", "root", "tmp", "run", "sys", "var", "dev/mem"] {
            assert!(!process(pid).join("root").join(missing).exists(), "{missing}");
        }
    }
    if hypervisor() == "kvm" {
        assert_eq!(fs::read_dir(process(sandbox).join("root")).unwrap().count(), 0);
    }
}

#[test]
fn it_has_every_wall_before_and_after_its_start_and_all_commands_work() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("exec sleep 1000");
    bundle.edit("\"linux\": {", "\"linux\": {\n    \"cgroupsPath\": \"mote-walls\",");
    let sandbox = bundle.create("c");
    assert_walls(sandbox);
    let cgroup = fs::read_to_string(process(sandbox).join("cgroup")).unwrap();
    assert!(cgroup.contains("/mote-walls\n"), "{cgroup}");
    assert_apart(sandbox, &["net"]);
    bundle.ok(&["start", "c"]);
    assert_walls(sandbox);

    assert_eq!(bundle.ok(&["exec", "c", "echo", "hi"]), "hi\n");
    bundle.ok(&["update", "--pids-limit", "50", "c"]);
    assert_eq!(bundle.ok(&["exec", "c", "cat", "/sys/fs/cgroup/pids.max"]), "50\n");
    bundle.ok(&["pause", "c"]);
    assert_eq!(bundle.status("c"), "paused");
    bundle.ok(&["resume", "c"]);
    assert!(bundle.ok(&["events", "--stats", "c"]).contains("\"memory\""));
    assert!(bundle.ok(&["ps", "c"]).contains("sleep"));
    assert_walls(sandbox);
    bundle.ok(&["kill", "c", "KILL"]);
    assert_eq!(reap(sandbox), 128 + 9);
    bundle.ok(&["delete", "c"]);
    drop(bundle);
    before.check();
}

#[test]
fn its_network_is_the_one_that_it_was_given() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    bundle.edit("\"type\": \"network\"", "\"type\": \"network\",\n        \"path\": \"/proc/self/ns/net\"");
    let sandbox = bundle.create("c");
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(of(&sandbox.to_string()), of("self"));
    assert_walls(sandbox);
    bundle.ok(&["delete", "--force", "c"]);
    let _ = reap(sandbox);
}

#[test]
fn hooks_run_outside_and_find_its_network() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    let told = bundle.path("told");
    let script = format!(
        r"pid=$(sed 's/.*pid..\\([0-9]*\\).*/\\1/'); (for of in $pid/ns/net self/ns/net self/ns/mnt; do readlink /proc/$of; done; grep NoNewPrivs /proc/self/status) > {}",
        told.display()
    );
    let hook = format!(r#"{{"path": "/bin/sh", "args": ["sh", "-c", "{script}"]}}"#);
    bundle.edit("{", &format!("{{\"hooks\": {{ \"createRuntime\": [{hook}] }},"));
    let sandbox = bundle.create("c");
    let told = fs::read_to_string(told).unwrap();
    let of = |pid: &str, kind: &str| text(&fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap());
    let expected =
        [of(&sandbox.to_string(), "net"), of("self", "net"), of("self", "mnt"), "NoNewPrivs:\t0".into()];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    bundle.ok(&["delete", "--force", "c"]);
    let _ = reap(sandbox);
}

#[test]
fn killing_it_from_outside_ends_the_whole_of_it() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    let sandbox = bundle.create("c");
    bundle.ok(&["start", "c"]);
    let family = family(sandbox);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(sandbox).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(reap(sandbox), 128 + 9);
    for pid in family {
        assert!(process_ended(pid, HANG), "{pid}");
    }
    assert_eq!(bundle.status("c"), "stopped");
    bundle.ok(&["delete", "c"]);
}

#[test]
fn descriptors_of_the_caller_stay_outside() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    fs::write(bundle.path("secret"), "x").unwrap();
    let script = format!(
        "exec 7<'{}'; exec '{}' --root '{}' --container-hypervisor {} create --bundle '{}' --pid-file '{}' c",
        text(&bundle.path("secret")),
        text(&program()),
        text(&bundle.path("state")),
        hypervisor(),
        text(&bundle.path("")),
        text(&bundle.path("pid")),
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let sandbox = bundle.pid("pid");
    for pid in family(sandbox) {
        for descriptor in fs::read_dir(process(pid).join("fd")).unwrap() {
            let target = fs::read_link(descriptor.unwrap().path()).unwrap();
            assert!(!target.ends_with("secret"), "{target:?}");
        }
    }
    bundle.ok(&["delete", "--force", "c"]);
    let _ = reap(sandbox);
}

/// The end of a terminal that programs usually do not get cannot be opened once more, so the sandbox process could only block on it.
#[test]
fn a_stream_that_blocks_is_passed_on_by_the_command() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    let sandbox = bundle.create("c");
    bundle.ok(&["start", "c"]);
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let mut settings = nix::sys::termios::tcgetattr(&slave).unwrap();
    nix::sys::termios::cfmakeraw(&mut settings);
    nix::sys::termios::tcsetattr(&slave, nix::sys::termios::SetArg::TCSANOW, &settings).unwrap();
    let (mut slave, stream) = (fs::File::from(slave), || master.try_clone().unwrap());
    let mut child = bundle
        .command(&["exec", "c", "sh", "-c", "read line; echo got $line; exit 3"])
        .stdin(stream())
        .stdout(stream())
        .spawn()
        .unwrap();
    slave.write_all(b"this\n").unwrap();
    let mut line = String::new();
    BufReader::new(&slave).read_line(&mut line).unwrap();
    assert_eq!(line, "got this\n");
    assert_eq!(child.wait().unwrap().code(), Some(3));

    let pid_file = text(&bundle.path("exec.pid"));
    let mut child = bundle
        .command(&["exec", "--detach", "--pid-file", &pid_file, "c", "sh", "-c", "echo late; exit 5"])
        .stdin(Stdio::null())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let mut late = [0; 5];
    slave.read_exact(&mut late).unwrap();
    assert_eq!(&late, b"late\n");
    assert_eq!(reap(bundle.pid("exec.pid")), 5);
    bundle.ok(&["delete", "--force", "c"]);
    let _ = reap(sandbox);
}

/// Gives a folder and everything in it to [`ORDINARY`].
fn give_away(path: &Path) {
    lchown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

#[test]
fn an_ordinary_users_has_what_the_kernel_grants_and_his_files_stay_his() {
    adopt_orphans();
    let bundle = Bundle::new("touch /tmp/made && ls -n /tmp && echo >/tmp/listed && exec sleep 1000");
    assert!(Command::new("mkfifo").arg(bundle.path("rootfs/tmp/listed")).status().unwrap().success());
    // He may neither make nor enter one.
    bundle.edit("{\n        \"type\": \"network\"\n      },", "");
    // An installation that he can use.
    let copy = |from: &Path, to: &str| {
        fs::create_dir_all(bundle.path(to).parent().unwrap()).unwrap();
        fs::copy(from, bundle.path(to)).unwrap();
        bundle.path(to)
    };
    let mote = copy(&program(), "bin/mote");
    copy(&installed("vmlinux"), "lib/mote/vmlinux");
    give_away(&bundle.path(""));
    let kvm = Path::new("/dev/kvm");
    let mode = (hypervisor() == "kvm").then(|| fs::metadata(kvm).unwrap().permissions());
    if mode.is_some() {
        // The lab's own.
        fs::set_permissions(kvm, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let his = |arguments: &[&str]| {
        let mut command = Command::new(&mote);
        command.uid(ORDINARY).gid(ORDINARY).env_remove("XDG_RUNTIME_DIR").arg("--root");
        command.arg(bundle.path("state")).args(["--container-hypervisor", &hypervisor()]).args(arguments);
        command
    };
    let (folder, pid_file) = (text(&bundle.path("")), text(&bundle.path("pid")));
    let output = fs::File::create(bundle.path("c.out")).unwrap();
    let mut create = his(&["create", "--bundle", &folder, "--pid-file", &pid_file, "c"]);
    assert!(create.stdin(Stdio::null()).stdout(output).status().unwrap().success());
    let sandbox = bundle.pid("pid");
    for pid in family(sandbox) {
        assert!(status(&process(pid), "Uid").starts_with(&format!("{ORDINARY}\t")));
        for thread in fs::read_dir(process(pid).join("task")).unwrap() {
            let thread = thread.unwrap().path();
            assert_eq!(status(&thread, "NoNewPrivs"), "1");
            assert_eq!(status(&thread, "Seccomp"), "2");
        }
        if fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() != "0") {
            assert_apart(pid, &["user", "mnt", "ipc"]);
        }
    }
    assert!(run(&mut his(&["start", "c"]), b"").status == 0);
    let listed = ["exec", "c", "sh", "-c", "read line </tmp/listed && echo his"];
    assert_eq!(run(&mut his(&listed), b"").text(), "his\n");
    bundle.mote(&["exec", "c", "echo", "root's"]).assert_refused(255, "belongs to user 12345, not to root");
    assert_eq!(fs::metadata(bundle.path("rootfs/tmp/made")).unwrap().uid(), ORDINARY);
    assert_eq!(run(&mut his(&["kill", "c", "KILL"]), b"").status, 0);
    assert_eq!(reap(sandbox), 128 + 9);
    assert!(bundle.output("c").contains(" 0        0 "), "{}", bundle.output("c"));
    assert_eq!(run(&mut his(&["delete", "c"]), b"").status, 0);
    if let Some(mode) = mode {
        fs::set_permissions(kvm, mode).unwrap();
    }
}
