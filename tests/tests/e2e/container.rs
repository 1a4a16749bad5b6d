//! The life of a container, verb by verb.

use std::{fs, io::Read, process::Stdio};

use mote_tests::harness::{Bundle, Leftovers, adopt_orphans, collect, reap, received, run, text};

/// A program that ends with status 9 when it is asked to, and says so.
const ASKED: &str = "trap 'echo asked; exit 9' TERM; echo started; while :; do sleep 0.1; done";

#[test]
fn from_create_to_delete() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new(ASKED);
    let pid = bundle.create("c");
    assert_eq!(bundle.status("c"), "created");
    assert_eq!(bundle.output("c"), "", "nothing runs before start");
    let state = bundle.ok(&["state", "c"]);
    for part in [
        "\"ociVersion\": \"1.2.0\"",
        "\"id\": \"c\"",
        &format!("\"pid\": {pid}"),
        &format!("\"bundle\": \"{}\"", bundle.path("").display().to_string().trim_end_matches('/')),
        "\"owner\": \"\"",
    ] {
        assert!(state.contains(part), "{part} is not in {state}");
    }
    assert!(!state.ends_with('\n'));

    bundle.ok(&["start", "c"]);
    assert_eq!(bundle.status("c"), "running");
    bundle.mote(&["start", "c"]).assert_refused(1, "cannot start an already running container");
    bundle.mote(&["delete", "c"]).assert_refused(1, "cannot delete container c that is not stopped: running");
    assert_eq!(bundle.ok(&["list", "-q"]), "c\n");
    assert!(bundle.ok(&["list", "--format", "json"]).starts_with("[{\"ociVersion\""));

    // What it prints first comes after its trap; each turn is a conversation with the guest.
    while bundle.output("c").is_empty() {
        bundle.ok(&["exec", "c", "true"]);
    }
    bundle.ok(&["kill", "c", "TERM"]);
    assert_eq!(reap(pid), 9);
    assert_eq!(bundle.output("c"), "started\nasked\n");
    let state = bundle.ok(&["state", "c"]);
    assert!(state.contains("\"status\": \"stopped\"") && state.contains("\"pid\": 0"), "{state}");
    assert!(state.contains("\"exitStatus\": 9"), "its status is kept: {state}");
    bundle.mote(&["kill", "c", "KILL"]).assert_refused(1, "container not running");
    bundle.ok(&["kill", "--all", "c", "9"]);
    bundle.mote(&["start", "c"]).assert_refused(1, "cannot start a container that has stopped");
    bundle.mote(&["exec", "c", "true"]).assert_refused(255, "cannot exec in a stopped container");
    bundle.ok(&["delete", "c"]);
    bundle.mote(&["state", "c"]).assert_refused(1, "container does not exist");
    bundle.mote(&["delete", "c"]).assert_refused(1, "container does not exist");
    bundle.ok(&["delete", "--force", "c"]);
    assert!(fs::read_dir(bundle.path("state")).unwrap().next().is_none());
    drop(bundle);
    before.check();
}

#[test]
fn exec_has_streams_and_a_status_of_its_own() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    let pid = bundle.create("c");
    bundle.ok(&["start", "c"]);
    let output = run(
        &mut bundle.command(&[
            "exec",
            "-e",
            "A=b",
            "--cwd",
            "/tmp",
            "--user",
            "5:6",
            "c",
            "sh",
            "-c",
            "cat; echo $A $PWD $(id -u):$(id -g); echo problem >&2; exit 7",
        ]),
        b"input\n",
    );
    assert_eq!(output.status, 7, "{output:?}");
    assert_eq!(output.text(), "input\nb /tmp 5:6\n");
    assert_eq!(output.stderr, "problem\n");
    // Flags end where the command begins.
    assert_eq!(bundle.ok(&["exec", "c", "echo", "--detach", "-t"]), "--detach -t\n");
    bundle.mote(&["exec", "c", "nope"]).assert_refused(255, "executable file not found in $PATH");
    bundle.mote(&["exec", "c", "/bin/nope"]).assert_refused(255, "stat /bin/nope: no such file or directory");
    assert_eq!(bundle.mote(&["exec", "c", "sh", "-c", "kill -KILL $$"]).status, 128 + 9);

    // Detached: a process stands for it, and ends with its status after its output.
    let pid_file = text(&bundle.path("exec.pid"));
    let mut child = bundle
        .command(&["exec", "--detach", "--pid-file", &pid_file, "c", "sh", "-c", "echo late; exit 5"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let late = collect(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let relay = bundle.pid("exec.pid");
    assert_eq!(received(&late), b"late\n");
    assert_eq!(reap(relay), 5);

    // Many at once, one of which nobody reads from.
    let mut stuck = bundle.command(&["exec", "c", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let several: Vec<_> = (0..8)
        .map(|number| {
            let script = format!("echo {number}; exit {number}");
            bundle.command(&["exec", "c", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (number, child) in several.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), i32::try_from(number).ok());
        assert_eq!(output.stdout, format!("{number}\n").into_bytes());
    }
    // Whoever kills what stands for it ends it.
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    bundle.ok(&["delete", "--force", "c"]);
    assert_eq!(reap(pid), 128 + 9);
}

/// What a file of the host's cgroup of a process says, in version 2 or 1.
fn host_cgroup(pid: u32, controller: &str, v2: &str, v1: &str) -> String {
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let found = all.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (tree, file) = if controllers.is_empty() { ("", v2) } else { (controllers, v1) };
        let has = controllers.is_empty() || controllers.split(',').any(|name| name == controller);
        has.then(|| fs::read_to_string(format!("/sys/fs/cgroup/{tree}{path}/{file}")).ok()).flatten()
    });
    found.unwrap_or_else(|| panic!("no {v2}, no {v1}: {all}")).trim().to_owned()
}

#[test]
fn pause_update_events_and_ps() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    let pid = bundle.create("c");
    bundle.mote(&["pause", "c"]).assert_refused(1, "container not running");
    bundle.ok(&["start", "c"]);
    bundle.mote(&["resume", "c"]).assert_refused(1, "container not paused");
    bundle.ok(&["pause", "c"]);
    assert_eq!(bundle.status("c"), "paused");
    bundle
        .mote(&["exec", "c", "true"])
        .assert_refused(255, "cannot exec in a paused container (use --ignore-paused to override)");
    bundle.ok(&["resume", "c"]);
    assert_eq!(bundle.status("c"), "running");

    // Flags may stand after the id.
    bundle.ok(&["update", "c", "--pids-limit", "42", "--memory=50M", "--cpu-quota", "30000"]);
    bundle.ok(&["update", "c", "--cpu-period", "60000", "--cpu-share", "512"]);
    let limits = bundle.ok(&["exec", "c", "cat", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(limits, format!("42\n{}\n", 50 << 20));
    assert_eq!(bundle.ok(&["exec", "c", "cat", "/sys/fs/cgroup/cpu.max"]), "30000 60000\n");
    // The host's cgroup follows, but leaves the sandbox the memory of its machine, 512 MiB.
    let memory = || host_cgroup(pid, "memory", "memory.max", "memory.limit_in_bytes");
    let mib = memory().parse::<u64>().unwrap() >> 20;
    assert!((513..=1024).contains(&mib), "{mib} MiB");
    let quota = || host_cgroup(pid, "cpu", "cpu.max", "cpu.cfs_quota_us");
    assert!(["30000 60000", "30000"].contains(&quota().as_str()), "{}", quota());
    assert!(["20", "512"].contains(&host_cgroup(pid, "cpu", "cpu.weight", "cpu.shares").as_str()));
    bundle
        .mote(&["update", "c", "--memory", "600M"])
        .assert_refused(1, "cannot raise the memory limit to 600 MiB: the container's machine has 512 MiB");
    bundle.ok(&["update", "c", "--memory=-1", "--cpu-quota=-1"]);
    assert!(memory().parse::<u64>().is_ok_and(|bytes| bytes >> 40 > 0) || memory() == "max", "{}", memory());
    assert!(["max 60000", "-1"].contains(&quota().as_str()), "{}", quota());
    let output = run(&mut bundle.command(&["update", "-r", "-", "c"]), br#"{"pids":{"limit":43}}"#);
    assert_eq!(output.status, 0, "{output:?}");
    let stats = bundle.ok(&["events", "--stats", "c"]);
    assert!(stats.starts_with("{\"") && stats.contains("\"limit\":43") && stats.ends_with("}\n"), "{stats}");
    assert!(stats.contains("\"sandbox\":{") && stats.contains(&format!("\"pid\":{pid}")), "{stats}");

    assert_eq!(bundle.ok(&["ps", "--format", "json", "c"]), format!("[{pid}]\n"));
    let table = bundle.ok(&["ps", "c"]);
    assert!(table.starts_with("UID") && table.contains("sleep 1000"), "{table}");
    bundle.ok(&["delete", "--force", "c"]);
    assert_eq!(reap(pid), 128 + 9);
}

#[test]
fn events_tell_of_a_process_that_was_killed_for_want_of_memory() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    let pid = bundle.create("c");
    bundle.ok(&["start", "c"]);
    bundle.ok(&["update", "c", "--memory", "16M"]);
    let mut events =
        bundle.command(&["events", "--interval", "1h", "c"]).stdout(Stdio::piped()).spawn().unwrap();
    let said = collect(events.stdout.take().map(|stream| stream.take(24)));
    // It says nothing when it begins to watch: as often as it takes.
    let line = loop {
        let output = bundle.mote(&["exec", "c", "sh", "-c", "x=$(yes | head -c 99999999)"]);
        assert_ne!(output.status, 0, "{output:?}");
        match said.try_recv() {
            Ok(line) => break String::from_utf8(line).unwrap(),
            Err(error) => assert_eq!(error, std::sync::mpsc::TryRecvError::Empty),
        }
    };
    assert!(line.starts_with("{\"id\":\"c\",\"type\":\"oom\"}"), "{line}");
    assert_eq!(bundle.status("c"), "running");
    events.kill().unwrap();
    events.wait().unwrap();
    bundle.ok(&["delete", "--force", "c"]);
    assert_eq!(reap(pid), 128 + 9);
}

#[test]
fn hooks_are_told_and_can_refuse() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("exit 0");
    let log = bundle.path("hooks");
    let hook = |name: &str| {
        format!(
            r#""{name}": [{{"path": "/bin/sh", "args": ["sh", "-c", "(echo {name}; cat; echo) >> {}"]}}]"#,
            log.display()
        )
    };
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let hooks: Vec<_> = kinds.iter().map(|name| hook(name)).collect();
    bundle.edit("{", &format!("{{\"hooks\": {{ {} }},", hooks.join(",")));
    let pid = bundle.create("c");
    bundle.ok(&["start", "c"]);
    assert_eq!(reap(pid), 0);
    bundle.ok(&["delete", "c"]);
    let told = fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = told.lines().collect();
    let names: Vec<_> = lines.iter().step_by(2).copied().collect();
    assert_eq!(names, kinds);
    for (state, word) in
        lines.iter().skip(1).step_by(2).zip(["creating", "creating", "creating", "running", "stopped"])
    {
        assert!(
            state.contains(&format!("\"status\":\"{word}\"")) && state.contains("\"id\":\"c\""),
            "{state}"
        );
    }

    // One that fails undoes the create, and the last hooks still learn of it.
    fs::remove_file(&log).unwrap();
    bundle.edit("echo createContainer; cat; echo)", "exit 3)");
    let (status, said) = bundle.create_with("c", &[]);
    assert_eq!(status, 1);
    assert!(said.contains("error running createContainer hook #0: exit status 3"), "{said}");
    let told = fs::read_to_string(&log).unwrap();
    let names: Vec<_> = told.lines().step_by(2).collect();
    assert_eq!(names, ["prestart", "createRuntime", "poststop"]);
    assert!(fs::read_dir(bundle.path("state")).unwrap().next().is_none());
    drop(bundle);
    before.check();
}

#[test]
fn hooks_of_create_container_are_in_its_network() {
    adopt_orphans();
    let bundle = Bundle::new("exit 0");
    let hook = |name: &str| {
        let file = text(&bundle.path(name));
        let script = format!("/bin/busybox readlink /proc/self/ns/net > {file}");
        format!(r#""{name}": [{{"path": "/bin/sh", "args": ["sh", "-c", "{script}"]}}]"#)
    };
    let kinds = ["createRuntime", "createContainer", "poststart"];
    bundle.edit("{", &format!("{{\"hooks\": {{ {} }},", kinds.map(hook).join(",")));
    let pid = bundle.create("c");
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let (containers, hosts) = (namespace(&pid.to_string()), namespace("self"));
    bundle.ok(&["start", "c"]);
    assert_eq!(reap(pid), 0);
    bundle.ok(&["delete", "c"]);
    assert_ne!(containers, hosts);
    let seen = kinds.map(|name| fs::read_to_string(bundle.path(name)).unwrap());
    assert_eq!(seen.map(|text| std::path::PathBuf::from(text.trim())), [hosts.clone(), containers, hosts]);
}

#[test]
fn what_is_asked_wrongly_is_refused_as_runc_does() {
    let bundle = Bundle::new("exit 0");
    let folder = text(&bundle.path(""));
    for id in ["a/b", "..", ".", "a b", ""] {
        bundle.mote(&["create", "--bundle", &folder, id]).assert_refused(1, "invalid container ID format");
    }
    bundle
        .mote(&["create", "--bundle", "/nowhere", "c"])
        .assert_refused(1, "JSON specification file config.json not found");
    let usage = |arguments: &[&str], words: &str| {
        let output = bundle.mote(arguments);
        assert_eq!(output.status, 1, "{output:?}");
        assert!(output.text().starts_with("Incorrect Usage."), "{output:?}");
        assert!(output.stderr.contains(words), "{output:?}");
    };
    usage(&["create"], "\"create\" requires exactly 1 argument(s)");
    usage(&["start", "a", "b"], "\"start\" requires exactly 1 argument(s)");
    usage(&["state"], "\"state\" requires exactly 1 argument(s)");
    let output = bundle.mote(&["frobnicate"]);
    assert_eq!((output.status, output.stderr.as_str()), (3, "No help topic for 'frobnicate'\n"));
    assert_eq!(bundle.mote(&["create", "--no-such-flag", "c"]).status, 1);
    for verb in ["start", "state", "pause", "resume", "kill", "ps"] {
        bundle.mote(&[verb, "unknown"]).assert_refused(1, "container does not exist");
    }
    bundle.mote(&["kill", "unknown", "BADSIG"]).assert_refused(1, "unknown signal \\\"BADSIG\\\"");
    bundle.mote(&["checkpoint", "c"]).assert_refused(1, "not there yet");
    bundle
        .mote(&["create", "--bundle", &folder, "--console-socket", "/nowhere", "c"])
        .assert_refused(1, "cannot use console socket");
    let (status, said) = bundle.create_with("c", &["--pid-file", "/nowhere/pid"]);
    assert_eq!(status, 1);
    assert!(said.contains("/nowhere/pid"), "{said}");
    assert!(fs::read_dir(bundle.path("state")).unwrap().next().is_none(), "what failed was undone");

    // With a log file, the error is there for programs, and on standard error for people.
    let log = text(&bundle.path("log.json"));
    let output = bundle.mote(&["--log", &log, "--log-format", "json", "state", "unknown"]);
    assert_eq!((output.status, output.stderr.as_str()), (1, "container does not exist\n"));
    let line = fs::read_to_string(&log).unwrap();
    assert!(
        line.contains("\"level\":\"error\"") && line.contains("\"msg\":\"container does not exist\""),
        "{line}"
    );
}
