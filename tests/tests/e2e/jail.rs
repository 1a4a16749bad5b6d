//! The walls around a sandbox process, looked at from outside: of every thread, and of QEMU where it is there.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mote_tests::harness::{Leftovers, children, hypervisor, installed, mote_run, run, temporary, text, wait};

/// A user who is nobody in particular.
pub(crate) const ORDINARY: u32 = 12345;

/// A sandbox whose command runs until its input ends.
fn start(command: &mut Command) -> (Child, u32) {
    let mut child = command
        .args(["--", "sh", "-c", "echo ready; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let [sandbox] = children(child.id())[..] else { panic!("one sandbox process") };
    (child, sandbox)
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(wait(&mut child).success());
}

/// The value of a line of `/proc/…/status`.
pub(crate) fn status(of: &Path, key: &str) -> String {
    let text = fs::read_to_string(of.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim().to_owned()
}

pub(crate) fn process(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Each thread of the processes: what it may do.
fn assert_powerless(pids: &[u32]) {
    for pid in pids {
        for thread in fs::read_dir(process(*pid).join("task")).unwrap() {
            let thread = thread.unwrap().path();
            let name = fs::read_to_string(thread.join("comm")).unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status(&thread, set), "0000000000000000", "{set} of {name}");
            }
            assert_eq!(status(&thread, "NoNewPrivs"), "1", "{name}");
            assert_eq!(status(&thread, "Seccomp"), "2", "{name} has no filter");
        }
    }
}

/// Namespaces that are none of ours.
pub(crate) fn assert_apart(pid: u32, namespaces: &[&str]) {
    for namespace in namespaces {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
}

pub(crate) fn family(sandbox: u32) -> Vec<u32> {
    let mut family = vec![sandbox];
    family.extend(children(sandbox));
    family
}

#[test]
fn of_root_has_every_wall() {
    let before = Leftovers::before();
    let (child, sandbox) = start(&mut mote_run(&[]));
    let family = family(sandbox);
    assert_eq!(family.len(), if hypervisor() == "qemu" { 2 } else { 1 });
    assert_powerless(&family);
    let dedicated = 0x7000_0000 | sandbox;
    for pid in &family {
        let of = process(*pid);
        assert_eq!(
            status(&of, "Uid"),
            [dedicated.to_string(), dedicated.to_string(), dedicated.to_string(), dedicated.to_string()]
                .join("\t")
        );
        assert_eq!(status(&of, "Groups"), "");
        assert_apart(*pid, &["mnt", "net", "ipc", "pid"]);
        let limits = fs::read_to_string(of.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        let cgroup = fs::read_to_string(of.join("cgroup")).unwrap();
        assert!(cgroup.contains(&format!("/mote-{}", child.id())), "{cgroup}");
        // Nothing of the host's is there to be opened.
        for missing in ["etc/passwd", "home", "root", "tmp", "run", "sys", "var", "dev/mem"] {
            assert!(!of.join("root").join(missing).exists(), "{missing}");
        }
    }
    if hypervisor() == "kvm" {
        assert_eq!(fs::read_dir(process(sandbox).join("root")).unwrap().count(), 0);
    }
    end(child);
    before.check();
}

/// The network namespaces of all sandbox processes that run.
fn networks_of_sandboxes() -> BTreeSet<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let sandboxes = processes.filter(|of| {
        fs::read(of.join("cmdline")).is_ok_and(|arguments| arguments.starts_with(b"mote-sandbox\0"))
    });
    sandboxes.filter_map(|of| fs::read_link(of.join("ns/net")).ok()).collect()
}

#[test]
fn a_second_sandbox_has_the_empty_network_namespace_of_another_but_not_with_qemu() {
    let (first, first_sandbox) = start(&mut mote_run(&[]));
    let there = networks_of_sandboxes();
    let (second, sandbox) = start(&mut mote_run(&[]));
    let network = |pid| fs::read_link(process(pid).join("ns/net")).unwrap();
    assert!(there.contains(&network(first_sandbox)));
    let is_common = there.contains(&network(sandbox));
    assert_eq!(is_common, hypervisor() == "kvm", "{:?} and {there:?}", network(sandbox));
    // It outlives the sandbox that it was made for.
    end(first);
    for pid in family(sandbox) {
        assert_apart(pid, &["mnt", "net", "ipc", "pid"]);
        let interfaces = fs::read_to_string(process(pid).join("net/dev")).unwrap();
        assert_eq!(interfaces.lines().filter(|line| line.contains(':')).count(), 1, "{interfaces}");
    }
    end(second);
}

#[test]
fn the_user_can_be_chosen() {
    let (child, sandbox) = start(&mut mote_run(&["--jail-uid", "4242"]));
    assert!(status(&process(sandbox), "Uid").starts_with("4242\t"));
    assert!(status(&process(sandbox), "Gid").starts_with("4242\t"));
    end(child);
    run(mote_run(&["--jail-uid", "0"]).args(["--", "true"]), b"").assert_failed(125, &["--jail-uid"]);
}

#[test]
fn descriptors_of_the_caller_stay_outside() {
    let folder = temporary();
    fs::write(folder.path().join("secret"), "x").unwrap();
    let mut command = Command::new("sh");
    let program = mote_tests::harness::program();
    let script = format!(
        "exec 7<'{}'; exec '{}' run --hypervisor {} -- sh -c 'echo ready; cat'",
        text(&folder.path().join("secret")),
        text(&program),
        hypervisor()
    );
    let mut child =
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let [sandbox] = children(child.id())[..] else { panic!("one sandbox process") };
    for pid in family(sandbox) {
        for descriptor in fs::read_dir(process(pid).join("fd")).unwrap() {
            let target = fs::read_link(descriptor.unwrap().path()).unwrap();
            assert!(!target.ends_with("secret"), "{target:?}");
        }
    }
    end(child);
}

#[test]
fn a_shared_folder_keeps_the_rest_closed() {
    let folder = temporary();
    let volume = format!("{}:/mnt", text(folder.path()));
    let (child, sandbox) = start(&mut mote_run(&["-v", &volume]));
    let of = process(sandbox);
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP.
    assert_eq!(status(&of, "CapEff"), "00000000880000db");
    assert_eq!(status(&of, "CapBnd"), "00000000880000db");
    for thread in fs::read_dir(of.join("task")).unwrap() {
        assert_eq!(status(&thread.unwrap().path(), "Seccomp"), "2");
    }
    assert_apart(sandbox, &["mnt", "net", "ipc", "pid"]);
    end(child);
}

#[test]
fn an_ordinary_user_gets_what_the_kernel_grants() {
    let folder = temporary();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |name: &str| {
        let to = folder.path().join(name);
        fs::copy(installed(name), &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).unwrap();
        text(&to)
    };
    let (kernel, rootfs) = (copy("vmlinux"), copy("rootfs.erofs"));
    let kvm = Path::new("/dev/kvm");
    let mode = (hypervisor() == "kvm").then(|| fs::metadata(kvm).unwrap().permissions());
    if mode.is_some() {
        // The lab's own.
        fs::set_permissions(kvm, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let mut command = mote_run(&["--kernel", &kernel, "--rootfs", &rootfs]);
    command.uid(ORDINARY).gid(ORDINARY).env_remove("XDG_RUNTIME_DIR");
    let (child, sandbox) = start(&mut command);
    assert_powerless(&family(sandbox));
    for pid in family(sandbox) {
        assert!(status(&process(pid), "Uid").starts_with(&format!("{ORDINARY}\t")));
        if fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() != "0") {
            assert_apart(pid, &["user", "mnt", "net", "ipc"]);
        }
    }
    end(child);
    if let Some(mode) = mode {
        fs::set_permissions(kvm, mode).unwrap();
    }
}

#[test]
fn only_logging_is_said_to_be_unsafe() {
    let output = run(mote_run(&["--seccomp", "log"]).args(["--", "echo", "hi"]), b"");
    assert_eq!(output.text(), "hi\n");
    assert!(output.stderr.contains("not safe"), "{output:?}");
}
