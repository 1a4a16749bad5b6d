//! A container's process as others on the host see it: whoever joins its namespaces must end up at the container, never on the host.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
};

use mote_tests::harness::{Bundle, Leftovers, adopt_orphans, reap, text};
use nix::sched::{CloneFlags, setns, unshare};

/// Does something in the mount namespace of a process, as engines do it to copy files.
fn within<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
    let joined = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNS).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(joined).join()).unwrap_or_else(|error| std::panic::resume_unwind(error))
}

/// A bundle with two volumes, a file system in memory, and traps for whoever follows links.
fn bundle() -> Bundle {
    let bundle = Bundle::new("cat /through/file; while :; do sleep 0.1; done");
    for name in ["readable", "writable"] {
        fs::create_dir(bundle.path(name)).unwrap();
        fs::write(bundle.path(name).join("file"), name).unwrap();
    }
    symlink("../../../../../volumes", bundle.path("rootfs/through")).unwrap();
    fs::create_dir(bundle.path("rootfs/volumes")).unwrap();
    let mounts: String = [
        ("/through", "readable", "bind", "\"rbind\", \"ro\""),
        ("/made/for/it", "writable", "bind", "\"rbind\""),
        ("/memory", "memory", "tmpfs", ""),
    ]
    .iter()
    .map(|(target, source, kind, options)| {
        let source = text(&bundle.path(source));
        format!(
            r#"{{"destination": "{target}", "source": "{source}", "type": "{kind}", "options": [{options}]}},"#
        )
    })
    .collect();
    bundle.edit("\"mounts\": [", &format!("\"mounts\": [{mounts}"));
    bundle
}

#[test]
fn who_joins_the_mount_namespace_is_in_the_container() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = bundle();
    let pid = bundle.create("c");
    let mine = bundle.path("only-on-the-host");
    fs::write(&mine, "").unwrap();
    within(pid, || {
        assert!(!mine.exists(), "the host's files are seen");
        fs::write("/copied", "from the host\n").unwrap();
        assert_eq!(fs::read_to_string("/volumes/file").unwrap(), "readable");
        assert_eq!(fs::write("/volumes/file", "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        fs::write("/made/for/it/copied", "to the volume\n").unwrap();
        for guests_own in ["/memory", "/dev", "/sys"] {
            let error = fs::write(format!("{guests_own}/copied"), "").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{guests_own}");
        }
        let mut processes: Vec<_> =
            fs::read_dir("/proc").unwrap().map(|entry| text(&entry.unwrap().file_name())).collect();
        processes.sort();
        assert_eq!(processes, [pid.to_string(), "stat".into()]);
    });
    assert!(mine.exists() && !fs::exists("/copied").unwrap());
    assert_eq!(fs::read_to_string(bundle.path("writable/copied")).unwrap(), "to the volume\n");
    bundle.ok(&["start", "c"]);
    assert_eq!(
        bundle.ok(&["exec", "c", "cat", "/copied", "/made/for/it/copied"]),
        "from the host\nto the volume\n"
    );
    bundle.ok(&["exec", "c", "sh", "-c", "echo from the guest > /back"]);
    assert_eq!(within(pid, || fs::read_to_string("/back").unwrap()), "from the guest\n");
    bundle.ok(&["delete", "--force", "c"]);
    assert_eq!(reap(pid), 137);
    assert_eq!(bundle.output("c"), "readable");
    drop(bundle);
    before.check();
}

#[test]
fn a_container_of_a_pod_has_the_name_of_the_one_that_it_is_told_to_join() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("cat /proc/sys/kernel/hostname");
    let elsewhere = "\"path\": \"/proc/1/ns/uts\", \"type\": \"uts\"";
    bundle.edit("\"hostname\": \"mote\"", "\"hostname\": \"pod\"");
    let first = bundle.create("pod-first");
    bundle.edit("\"hostname\": \"pod\"", "\"hostname\": \"\"");
    bundle.edit("\"type\": \"uts\"", elsewhere);
    let (status, said) = bundle.create_with("pod-second", &[]);
    assert!(
        status == 1 && said.contains("uts namespace /proc/1/ns/uts: a container in a VM cannot"),
        "{said}"
    );
    bundle.edit("/proc/1/ns/uts", &format!("/proc/{first}/ns/uts"));
    // Of the namespaces, the network's alone is one that both can be in.
    bundle
        .edit("\"type\": \"network\"", &format!("\"path\": \"/proc/{first}/ns/net\", \"type\": \"network\""));
    let second = bundle.create("pod-second");
    let network = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(network(first), network(second));
    bundle.ok(&["start", "pod-second"]);
    assert_eq!(reap(second), 0);
    assert_eq!(bundle.output("pod-second"), "pod\n");
    for (id, pid) in [("pod-first", Some(first)), ("pod-second", None)] {
        bundle.ok(&["delete", "--force", id]);
        assert_eq!(pid.map(reap), pid.map(|_| 137));
    }
    drop(bundle);
    before.check();
}

/// A folder of the host's that a container's root has links to where its mounts are to be, with a file in it.
fn trap(bundle: &Bundle) -> PathBuf {
    let trap = bundle.path("trap");
    fs::create_dir(&trap).unwrap();
    fs::write(trap.join("file"), "the host's").unwrap();
    trap
}

fn assert_nobody_fell_into(trap: &Path) {
    let names: Vec<_> = fs::read_dir(trap).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
    assert_eq!(fs::read_to_string(trap.join("file")).unwrap(), "the host's");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&text(trap)), "{mounts}");
}

/// Has the container mount a folder at `target`.
fn mount(bundle: &Bundle, target: &str) {
    let source = bundle.path("volume");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "the volume's").unwrap();
    let mount = format!(
        r#""mounts": [{{"destination": "{target}", "source": "{}", "type": "bind", "options": ["rbind"]}},"#,
        text(&source)
    );
    bundle.edit("\"mounts\": [", &mount);
}

#[test]
fn links_in_a_containers_root_lead_nowhere_but_into_it() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("cat /link/file; exec sleep 1000");
    let trap = trap(&bundle);
    let inside = text(&bundle.path("rootfs")) + &text(&trap);
    fs::create_dir_all(&inside).unwrap();
    fs::create_dir(bundle.path("rootfs/processes")).unwrap();
    fs::remove_dir(bundle.path("rootfs/proc")).unwrap();
    symlink("/../processes", bundle.path("rootfs/proc")).unwrap();
    symlink(&trap, bundle.path("rootfs/link")).unwrap();
    mount(&bundle, "/link");
    let pid = bundle.create("c");
    within(pid, || {
        // By the same name, another folder.
        assert_eq!(fs::read_to_string(trap.join("file")).unwrap(), "the volume's");
        assert!(fs::exists(format!("/processes/{pid}")).unwrap());
    });
    bundle.ok(&["start", "c"]);
    assert_eq!(bundle.ok(&["exec", "c", "cat", &text(&trap.join("file"))]), "the volume's");
    bundle.ok(&["delete", "--force", "c"]);
    assert_eq!(reap(pid), 137);
    assert_nobody_fell_into(&trap);
    drop(bundle);
    before.check();
}

#[test]
fn links_in_a_containers_root_that_lead_nowhere_make_nothing_on_the_host() {
    adopt_orphans();
    let before = Leftovers::before();
    for (name, target) in [
        ("dangling", "TRAP/made"),
        ("dangling", "../../../../../../../../../../../..TRAP/made"),
        ("dangling/below", "TRAP"),
        ("loop", "loop"),
        ("proc", "TRAP/made"),
        ("dev", "TRAP/made"),
    ] {
        let bundle = Bundle::new("exec sleep 1000");
        let trap = trap(&bundle);
        let link = bundle.path("rootfs").join(name.split('/').next().unwrap());
        let _ = fs::remove_dir(&link);
        symlink(target.replace("TRAP", &text(&trap)), &link).unwrap();
        mount(&bundle, &format!("/{name}"));
        // Whether the guest makes something of it is its own affair: its links lead into its root only.
        let (status, _) = bundle.create_with("c", &[]);
        if status == 0 {
            let pid = bundle.pid("c.pid");
            within(pid, || assert!(!fs::exists(trap.join("file")).unwrap()));
            bundle.ok(&["delete", "--force", "c"]);
            reap(pid);
        }
        assert_nobody_fell_into(&trap);
    }
    before.check();
}
