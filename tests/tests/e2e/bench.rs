//! `mote bench`: that it measures, what it says, and that nothing is left of it.

use std::{
    fs,
    process::{Command, Stdio},
};

use mote_tests::{
    figures::figures,
    harness::{
        Leftovers, Output, collect, hypervisor, program, received, run, shell_status, temporary, text, wait,
    },
};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::Value;

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("bench").args(arguments);
    command
}

/// Runs it on the lane's hypervisor; nothing may be left.
fn call(arguments: &[&str]) -> Output {
    let before = Leftovers::before();
    let output = run(bench(arguments).args(["--hypervisor", &hypervisor()]), b"");
    before.check();
    output
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status, 0, "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn boot_measures_phases_and_draws_them() {
    let folder = temporary();
    let page = folder.path().join("page.html");
    let arguments =
        ["boot", "--runs", "3", "--warm-up", "0", "--parallel", "2", "--json", "--html", &text(&page)];
    let report = json(&call(&arguments));
    let subject = &report["subjects"][0];
    assert_eq!(subject["exit"]["count"], 3);
    let phases = subject["phases"].as_array().unwrap();
    let since: Vec<u64> = phases.iter().map(|phase| phase["since"]["median_ns"].as_u64().unwrap()).collect();
    assert!(since.is_sorted() && since[0] > 0, "{report}");
    assert!(phases.iter().any(|phase| phase["phase"] == "hello-received"), "{report}");
    assert!(subject["counts"]["minor_faults"].as_u64().unwrap() > 0, "{report}");
    let exits = &subject["counts"]["kvm"]["exits"];
    assert_eq!(exits.as_u64().is_some_and(|exits| exits > 100), hypervisor() == "kvm", "{report}");
    // What the benchmark of the project reads.
    assert!(figures(&report).unwrap().iter().any(|figure| figure.name.ends_with("to hello")));

    let page = fs::read_to_string(page).unwrap();
    assert!(page.matches("<svg").count() >= 3 && page.contains("hello received"));
    for foreign in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(foreign), "the page needs {foreign}");
    }
}

#[test]
fn containers_are_measured_command_by_command() {
    let report = json(&call(&["container", "--runs", "2", "--warm-up", "0", "--json"]));
    let figures = figures(&report).unwrap();
    let value = |name: &str| figures.iter().find(|figure| figure.name.ends_with(name)).unwrap().value;
    let parts: f64 = ["create", "start", "end", "delete"].into_iter().map(value).sum();
    assert!(value("exec") > 0.0 && parts > 0.0 && parts <= value("all of it") * 1.001, "{report}");
    // A program that fails, and one that is not there: what was made for it goes.
    call(&["container", "--runs", "1", "--program", "/bin/false"]).assert_failed(125, &["program failed"]);
    call(&["container", "--runs", "1", "--program", "/bin/none"])
        .assert_failed(125, &["mote create failed", "/bin/none"]);
    call(&["container", "--rootfs", "/none"]).assert_failed(125, &["--rootfs /none"]);
}

#[test]
fn boot_measures_others_beside_mote() {
    let arguments = [
        "boot",
        "-n",
        "2",
        "--warm-up",
        "0",
        "--vs",
        "other=printf 'it is RE'; echo ADY; exec sleep 1000",
        "--marker",
        "READY",
    ];
    let output = call(&arguments);
    assert_eq!(output.status, 0, "{output:?}");
    let comparison = output.text().split("until the marker").last().unwrap().to_owned();
    assert!(comparison.contains("other") && comparison.contains("mote"), "{output:?}");
}

#[test]
fn memory_weighs_machines() {
    let report = json(&call(&["memory", "--vms", "2,1", "--json"]));
    let mib = |value: &Value| value.as_u64().unwrap() >> 20;
    let machine = &report["machine"];
    assert!((1..64).contains(&mib(&machine["sandbox"]["rss"])), "{report}");
    assert!((8..128).contains(&mib(&machine["guest_ram"]["rss"])), "{report}");
    assert!(report["agent"]["rss_bytes"].as_u64().unwrap() > 0, "{report}");
    let vms: Vec<_> = report["steps"].as_array().unwrap().iter().map(|step| step["vms"].as_u64()).collect();
    assert_eq!(vms, [Some(1), Some(2)]);
    let ram = |step: usize| report["steps"][step]["guest_ram"]["rss"].as_u64().unwrap();
    assert!(ram(1) > ram(0), "{report}");
}

#[test]
fn io_measures_every_path() {
    let report =
        json(&call(&["io", "--runs", "1", "--size", "2m", "--samples", "50", "--folders", "2", "--json"]));
    let figures = figures(&report).unwrap();
    assert_eq!(figures.len(), 18, "{report}");
    for figure in figures {
        // Where the guest's clock is coarse, a short thing may take no time at all; a rate is never nothing.
        assert!(figure.value > 0.0 && figure.value.is_finite(), "{figure:?}");
    }
}

#[test]
fn wrong_input_is_refused_before_anything_is_measured() {
    call(&["boot", "--runs", "0"]).assert_failed(125, &["--runs", "0"]);
    call(&["boot", "--html", "/no/such/folder/page.html"]).assert_failed(125, &["/no/such/folder"]);
    call(&["boot", "--vs", "x=true"]).assert_failed(125, &["--marker"]);
    call(&["boot", "--vs", "true", "--marker", "x"]).assert_failed(125, &["NAME=COMMAND"]);
    call(&["io", "--size", "3"]).assert_failed(125, &["--size"]);
    call(&["memory", "--vms", "0"]).assert_failed(125, &["--vms"]);
    call(&["boot", "--kernel", "/no/such/kernel"]).assert_failed(125, &["/no/such/kernel"]);
}

#[test]
fn others_that_fail_are_told() {
    let with = |command: &str| {
        call(&["boot", "-n", "1", "--warm-up", "0", "--limit", "30", "--vs", command, "--marker", "READY"])
    };
    with("x=echo no bundle >&2; exit 3").assert_failed(125, &["'x'", "READY", "no bundle"]);
    with("x=/no/such/program").assert_failed(125, &["'x'", "READY"]);
    with("x=echo hello; exec sleep 1000").assert_failed(125, &["within 30 s", "hello"]);
}

#[test]
fn an_interrupt_takes_a_container_away() {
    let before = Leftovers::before();
    let folder = temporary();
    let mut child = bench(&["container", "--hypervisor", &hypervisor(), "--runs", "1000000"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = collect(child.stderr.take());
    let scratch = || fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
    while !scratch().any(|path| path.join("state/bench/control").exists()) {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(shell_status(wait(&mut child)), 130);
    let words = String::from_utf8(received(&stderr)).unwrap();
    assert!(words.contains("interrupted"), "{words}");
    assert_eq!(scratch().count(), 0);
    before.check();
}

#[test]
fn an_interrupt_ends_everything() {
    let before = Leftovers::before();
    let folder = temporary();
    let fifo = folder.path().join("started");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let rival = format!("x=echo $$ > {}; exec sleep 1000", text(&fifo));
    let mut child =
        bench(&["boot", "--hypervisor", &hypervisor(), "-p", "2", "--vs", &rival, "--marker", "READY"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let stderr = collect(child.stderr.take());
    // Waits until it is the rival's turn.
    let pids = fs::read_to_string(&fifo).unwrap();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(shell_status(wait(&mut child)), 130);
    let words = String::from_utf8(received(&stderr)).unwrap();
    assert!(words.contains("interrupted") && words.contains("discarded"), "{words}");
    for pid in pids.lines() {
        assert!(mote_tests::harness::process_ended(pid.parse().unwrap(), mote_tests::harness::HANG));
    }
    before.check();
}
