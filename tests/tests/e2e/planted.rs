//! What others of the host's users have put where root's `mote` keeps its things, processes that are stopped, and clocks that jump.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{PermissionsExt, chown, symlink},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use mote_tests::harness::{
    Bundle, Leftovers, adopt_orphans, mote_run, program, reap, run, temporary, text, wait,
};
use nix::{
    sys::{
        signal::{Signal, kill},
        time::TimeSpec,
        wait::{WaitPidFlag, waitpid},
    },
    time::{ClockId, clock_settime},
    unistd::Pid,
};

use crate::jail::ORDINARY;

const VICTIM: &str = "do not touch";

/// A bundle, and a file of root's that others would like to have changed.
fn with_victim() -> (Bundle, std::path::PathBuf) {
    let bundle = Bundle::new("exec sleep 1000");
    let victim = bundle.path("victim");
    fs::write(&victim, VICTIM).unwrap();
    fs::create_dir(bundle.path("state")).unwrap();
    (bundle, victim)
}

fn assert_untouched(bundle: &Bundle, in_state: usize) {
    assert_eq!(fs::read_to_string(bundle.path("victim")).unwrap(), VICTIM);
    assert_eq!(fs::read_dir(bundle.path("state")).unwrap().count(), in_state);
}

#[test]
fn a_state_folder_that_is_not_roots_alone_is_refused() {
    let before = Leftovers::before();
    let (bundle, _) = with_victim();
    let state = bundle.path("state");
    for (owner, mode, words) in [
        (ORDINARY, 0o700, "belongs to user"),
        (0, 0o777, "others than root may write"),
        (0, 0o770, "others than root may write"),
        (0, 0o1777, "others than root may write"),
    ] {
        chown(&state, Some(owner), None).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
        let (status, said) = bundle.create_with("c", &[]);
        assert!(status == 1 && said.contains(words) && said.contains(&text(&state)), "{said}");
        for verb in [&["state", "c"][..], &["kill", "c", "KILL"], &["delete", "--force", "c"], &["list"]] {
            bundle.mote(verb).assert_refused(1, words);
        }
        assert_untouched(&bundle, 0);
    }
    drop(bundle);
    before.check();
}

#[test]
fn what_lies_where_a_container_would_is_left_alone() {
    let before = Leftovers::before();
    let (bundle, victim) = with_victim();
    let elsewhere = temporary();
    fs::write(elsewhere.path().join("state.json"), "{}").unwrap();
    symlink(elsewhere.path(), bundle.path("state/link")).unwrap();
    symlink(&victim, bundle.path("state/file")).unwrap();
    fs::create_dir(bundle.path("state/theirs")).unwrap();
    chown(bundle.path("state/theirs"), Some(ORDINARY), None).unwrap();
    for id in ["link", "file", "theirs"] {
        let (status, said) = bundle.create_with(id, &[]);
        assert!(status == 1 && said.contains("already exists"), "{said}");
        for verb in ["state", "start", "delete"] {
            bundle.mote(&[verb, id]).assert_refused(1, id);
        }
        bundle.mote(&["delete", "--force", id]).assert_refused(1, id);
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    assert_untouched(&bundle, 3);
    drop((bundle, elsewhere));
    before.check();
}

#[test]
fn pid_files_and_console_sockets_that_lead_elsewhere() {
    adopt_orphans();
    let before = Leftovers::before();
    let (bundle, victim) = with_victim();
    // The name under which a pid file is written before it has its own.
    symlink(&victim, bundle.path(".c.pid")).unwrap();
    let (status, said) = bundle.create_with("c", &[]);
    assert!(status == 1 && said.contains(".c.pid"), "{said}");
    assert_untouched(&bundle, 0);
    fs::remove_file(bundle.path(".c.pid")).unwrap();
    // A link that has its own name is replaced.
    symlink(&victim, bundle.path("c.pid")).unwrap();
    let pid = bundle.create("c");
    assert!(fs::symlink_metadata(bundle.path("c.pid")).unwrap().is_file());
    bundle.ok(&["delete", "--force", "c"]);
    reap(pid);
    assert_untouched(&bundle, 0);

    bundle.edit("\"terminal\": false", "\"terminal\": true");
    symlink(bundle.path("nowhere"), bundle.path("dangling")).unwrap();
    for name in ["victim", "dangling", "rootfs"] {
        let path = text(&bundle.path(name));
        let (status, said) = bundle.create_with("c", &["--console-socket", &path]);
        assert!(status == 1 && said.contains(&path), "{said}");
        assert_untouched(&bundle, 0);
    }
    drop(bundle);
    before.check();
}

#[test]
fn an_image_store_that_is_not_roots_alone_is_refused() {
    let folder = temporary();
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    for (owner, mode, words) in
        [(ORDINARY, 0o700, "belongs to user"), (0, 0o777, "others than root may write")]
    {
        chown(&store, Some(owner), None).unwrap();
        fs::set_permissions(&store, fs::Permissions::from_mode(mode)).unwrap();
        let output = run(Command::new(program()).args(["image", "--store", &text(&store), "list"]), b"");
        assert_ne!(output.status, 0, "{output:?}");
        assert!(output.stderr.contains(words) && output.stderr.contains(&text(&store)), "{output:?}");
        assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(pid, signal).unwrap();
    if signal == Signal::SIGSTOP {
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    }
}

#[test]
fn a_container_whose_process_was_stopped_keeps_nobody_waiting() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("exec sleep 1000");
    let pid = bundle.create("c");
    bundle.ok(&["start", "c"]);
    send(pid, Signal::SIGSTOP);
    assert_eq!(bundle.status("c"), "paused");
    assert!(bundle.ok(&["list"]).contains("paused"));
    for (verb, status) in [
        (&["kill", "c", "TERM"][..], 1),
        (&["exec", "c", "true"], 255),
        (&["ps", "c"], 1),
        (&["resume", "c"], 1),
    ] {
        bundle.mote(verb).assert_refused(status, "stopped by a signal");
    }
    bundle.mote(&["delete", "c"]).assert_refused(1, "not stopped: paused");
    send(pid, Signal::SIGCONT);
    assert_eq!(bundle.status("c"), "running");
    bundle.ok(&["exec", "c", "true"]);
    send(pid, Signal::SIGSTOP);
    bundle.ok(&["kill", "c", "KILL"]);
    assert_eq!(reap(pid), 128 + 9);
    bundle.ok(&["delete", "c"]);
    let pid = bundle.create("c");
    send(pid, Signal::SIGSTOP);
    bundle.ok(&["delete", "--force", "c"]);
    assert_eq!(reap(pid), 128 + 9);
    assert_eq!(fs::read_dir(bundle.path("state")).unwrap().count(), 0);
    drop(bundle);
    before.check();
}

/// The wall clock of the lab, which goes right again when this is dropped.
struct WallClock {
    started: (SystemTime, Instant),
}

impl WallClock {
    /// Fails on machines whose clock is not a test's to set.
    fn of_the_lab() -> Self {
        assert!(std::env::var_os("MOTE_LAB").is_some(), "sets the clock: to be run in the lab only");
        Self { started: (SystemTime::now(), Instant::now()) }
    }

    /// Has it go wrong by so many hours.
    fn set(&self, hours: i64) {
        let right = self.started.0 + self.started.1.elapsed();
        let right = right.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let wrong = i64::try_from(right.as_secs()).unwrap() + hours * 3600;
        let wrong = Duration::from_secs(u64::try_from(wrong).unwrap());
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(wrong)).unwrap();
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[test]
fn the_hosts_clock_jumps_and_everything_goes_on() {
    let clock = WallClock::of_the_lab();
    // So that there are hours to go back.
    clock.set(1000);
    adopt_orphans();
    let before = Leftovers::before();
    for hours in [1006, 990] {
        let mut child = mote_run(&[])
            .args(["--", "sh", "-c", "echo ready; read line; sleep 1; echo $line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        clock.set(hours);
        child.stdin.take().unwrap().write_all(b"and on\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "and on");
        assert!(wait(&mut child).success());
    }
    let bundle = Bundle::new("exec sleep 1000");
    let pid = bundle.create("c");
    let jumps = [1006, 990, 1006, 990, 1000].into_iter();
    for (hours, verb) in jumps.zip([
        &["start", "c"][..],
        &["exec", "c", "true"],
        &["pause", "c"],
        &["resume", "c"],
        &["kill", "c", "KILL"],
    ]) {
        clock.set(hours);
        bundle.ok(verb);
    }
    assert_eq!(reap(pid), 128 + 9);
    bundle.ok(&["delete", "c"]);
    drop(bundle);
    before.check();
}
