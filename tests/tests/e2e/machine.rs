//! The machine: processors, memory, console, timeline, `check` and the documents.

use std::process::Command;

use mote_tests::harness::{mote_run, program, run, sh, temporary, text};

#[test]
fn it_has_a_kernel_of_its_own_and_our_agent_as_pid_1() {
    let output = sh("uname -r; cat /proc/1/comm");
    let text = output.text();
    let [release, init] = text.lines().collect::<Vec<_>>()[..] else { panic!("{output:?}") };
    assert!(release.starts_with("6.12."), "{release}");
    assert_eq!(init, "init");
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(release, host.trim());
}

#[test]
fn it_has_as_many_cpus_as_asked_for() {
    for cpus in ["1", "4"] {
        let output = run(mote_run(&["--cpus", cpus]).args(["--", "nproc"]), b"");
        assert_eq!(output.text().trim(), cpus, "{output:?}");
    }
}

#[test]
fn it_has_as_much_memory_as_asked_for() {
    for (size, least, most) in
        [("32m", 10_000, 32 << 10), ("256m", 200_000, 256 << 10), ("4g", 3_700_000, 4 << 20)]
    {
        // A host without that much memory cannot give it.
        let host = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total: u64 = host.split_whitespace().nth(1).unwrap().parse().unwrap();
        let output =
            run(mote_run(&["-m", size]).args(["--", "sh", "-c", "grep MemTotal /proc/meminfo"]), b"");
        if total < most {
            output.assert_failed(125, &["--memory", "this host has only"]);
            continue;
        }
        let kib: u64 =
            output.text().split_whitespace().nth(1).unwrap_or_else(|| panic!("{output:?}")).parse().unwrap();
        assert!((least..=most).contains(&kib), "{size}: {kib} KiB");
    }
}

#[test]
fn the_kernel_log_goes_to_a_file_on_request() {
    let folder = temporary();
    let log = folder.path().join("kernel.log");
    let output = run(mote_run(&["--console", &text(&log)]).args(["--", "echo", "hi"]), b"");
    assert_eq!(output.text(), "hi\n");
    assert!(std::fs::read_to_string(&log).unwrap().contains("Linux version 6.12."));
}

#[test]
fn the_timeline_is_in_order_and_complete() {
    let output = run(mote_run(&["--timeline"]).args(["--", "true"]), b"");
    for phase in [
        "process started",
        "VM created",
        "first vCPU entry",
        "PID 1",
        "hello received",
        "command started",
        "command ended",
    ] {
        assert!(output.stderr.contains(phase), "{phase} is missing: {output:?}");
    }
    let json = run(mote_run(&["--timeline=json"]).args(["--", "true"]), b"");
    let times: Vec<u64> = json
        .stderr
        .split("\"since_exec_ns\":")
        .skip(1)
        .map(|rest| rest.split(['}', ',']).next().unwrap().parse().unwrap())
        .collect();
    assert!(times.len() >= 8 && times.is_sorted(), "{json:?}");
}

#[test]
fn logs_go_where_they_should() {
    let folder = temporary();
    let log = folder.path().join("log");
    let output = run(
        mote_run(&["--log", &text(&log), "--log-format", "json", "--workdir", "/nowhere"])
            .args(["--", "true"]),
        b"",
    );
    output.assert_failed(125, &["/nowhere"]);
    let line = std::fs::read_to_string(&log).unwrap();
    assert!(line.contains("\"level\":\"error\"") && line.contains("/nowhere"), "{line}");
}

#[test]
fn check_knows_this_host() {
    let output = run(Command::new(program()).arg("check"), b"");
    assert_eq!(output.status, 0, "{output:?}");
    for word in ["KVM", "QEMU", "guest kernel", "cgroups", "landlock", "user namespaces", "vsock"] {
        assert!(output.text().contains(word), "{word}: {output:?}");
    }
}

#[test]
fn documents_come_from_the_definitions() {
    let call = |arguments: &[&str]| run(Command::new(program()).args(arguments), b"");
    assert!(call(&["version"]).text().starts_with("mote version "));
    assert!(call(&["run", "--help"]).text().contains("128+N"));
    assert!(call(&["completions", "bash"]).text().contains("complete -F"));
    assert!(call(&["man"]).text().contains(".TH mote"));
    assert_eq!(call(&["--help"]).status, 0);
}
