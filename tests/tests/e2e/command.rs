//! The command: its status, its surroundings, the signals that reach it.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use mote_tests::harness::{Leftovers, collect, mote_run, received, run, sh, shell_status, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn its_status_is_ours() {
    assert_eq!(sh("exit 0").status, 0);
    assert_eq!(sh("exit 7").status, 7);
    assert_eq!(sh("kill -KILL $$").status, 128 + 9);
    assert_eq!(sh("kill -SEGV $$").status, 128 + 11);
}

#[test]
fn not_found_is_127_and_not_executable_126() {
    let call = |command: &str| run(mote_run(&[]).args(["--", command]), b"");
    call("no-such-command").assert_failed(127, &["no-such-command", "not found"]);
    call("/no/such/command").assert_failed(127, &["/no/such/command", "not found"]);
    call("/etc/passwd").assert_failed(126, &["/etc/passwd", "ermission denied"]);
    call("/etc").assert_failed(126, &["/etc"]);
}

#[test]
fn it_finds_what_was_asked_for() {
    let script = "echo $A-$B-$HOME; pwd; id -u; id -g; hostname; nproc";
    let output = run(
        mote_run(&[
            "-e",
            "A=1 2",
            "-e",
            "B",
            "--workdir",
            "/usr",
            "--user",
            "12:34",
            "--hostname",
            "box",
            "--cpus",
            "2",
        ])
        .env("B", "from here")
        .args(["--", "sh", "-c", script]),
        b"",
    );
    assert_eq!(output.text(), "1 2-from here-/\n/usr\n12\n34\nbox\n2\n", "{output:?}");
}

#[test]
fn arguments_and_environment_are_bytes() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let odd = OsStr::from_bytes(b"a\xff \n'\"$");
    let output = run(
        mote_run(&["-e"])
            .arg(OsStr::from_bytes(b"X=\xfe"))
            .args(["--", "sh", "-c", "printf %s \"$1$X\"", "-"])
            .arg(odd),
        b"",
    );
    assert_eq!(output.stdout, b"a\xff \n'\"$\xfe", "{output:?}");
}

#[test]
fn a_wrong_folder_or_host_name_is_said() {
    run(mote_run(&["--workdir", "/nowhere"]).args(["--", "true"]), b"")
        .assert_failed(125, &["/nowhere", "No such file"]);
    run(mote_run(&["--workdir", "here"]).args(["--", "true"]), b"").assert_failed(125, &["absolute"]);
    run(mote_run(&["--hostname", ""]).args(["--", "true"]), b"").assert_failed(125, &["host name"]);
}

#[test]
fn userland_finds_what_it_expects() {
    let output = sh(
        "for f in /proc/self/status /sys/kernel /dev/null /dev/ptmx /dev/pts/ptmx /dev/fd/0 /dev/stdout /dev/shm \
                     /sys/fs/cgroup/cgroup.controllers; do [ -e $f ] || echo missing $f; done; \
                     touch /run/a /tmp/b /dev/shm/c && grep -c . /sys/fs/cgroup/cgroup.controllers; date +%Y",
    );
    let text = output.text();
    let lines: Vec<_> = text.lines().collect();
    let [controllers, year] = lines[..] else { panic!("{output:?}") };
    assert_eq!(controllers, "1");
    assert!(year.parse::<u32>().unwrap() >= 2025, "the clock is the host's: {year}");
}

/// Starts a command that says when it is ready, sends the signal, and returns status and output.
fn signalled(signal: Signal, script: &str) -> (i32, String) {
    let before = Leftovers::before();
    let mut child = mote_run(&[])
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let rest = collect(Some(stdout));
    let status = shell_status(wait(&mut child));
    let text = String::from_utf8(received(&rest)).unwrap();
    before.check();
    (status, text)
}

#[test]
fn signals_reach_it() {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2] {
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!("trap 'echo got {name}; exit 42' {name}; echo ready; while :; do sleep 1; done");
        assert_eq!(signalled(signal, &script), (42, format!("got {name}\n")));
    }
}

#[test]
fn a_signal_that_it_does_not_catch_ends_it() {
    assert_eq!(signalled(Signal::SIGTERM, "echo ready; exec sleep 1000").0, 128 + 15);
}
