//! However a container ends, and whoever is killed: `delete` leaves nothing.

use std::fs;

use mote_tests::harness::{Bundle, HANG, Leftovers, adopt_orphans, hypervisor, process_ended, reap};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn nothing_left(bundle: &Bundle) {
    assert!(fs::read_dir(bundle.path("state")).unwrap().next().is_none());
}

#[test]
fn of_the_sandbox_process() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("exec sleep 1000");
    for started in [false, true] {
        let pid = bundle.create("c");
        if started {
            bundle.ok(&["start", "c"]);
        }
        send(pid, Signal::SIGKILL);
        assert!(process_ended(pid, HANG));
        // Nobody has waited for it yet.
        assert_eq!(bundle.status("c"), "stopped");
        bundle.mote(&["kill", "c"]).assert_refused(1, "container not running");
        bundle.ok(&["delete", "c"]);
        assert_eq!(reap(pid), 128 + 9);
        nothing_left(&bundle);
    }
    drop(bundle);
    before.check();
}

#[test]
fn for_want_of_memory_which_the_host_sees() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("exec busybox dd if=/dev/zero of=/dev/null bs=50000000");
    bundle.edit("\"resources\": {", "\"resources\": {\"memory\": {\"limit\": 33554432},");
    let pid = bundle.create("c");
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let file = cgroups.lines().find_map(|line| match line.split(':').collect::<Vec<_>>()[..] {
        ["0", "", path] => Some(format!("/sys/fs/cgroup{path}/memory.events")),
        [_, "memory", path] => Some(format!("/sys/fs/cgroup/memory{path}/memory.oom_control")),
        _ => None,
    });
    let file = file.unwrap_or_else(|| panic!("no cgroup for memory in {cgroups}"));
    let killed = || {
        let text = fs::read_to_string(&file).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap_or_else(|| panic!("{text}")).parse::<u32>().unwrap()
    };
    assert_eq!(killed(), 0);
    bundle.ok(&["start", "c"]);
    assert_eq!(reap(pid), 128 + 9);
    assert!(killed() >= 1, "{}", fs::read_to_string(&file).unwrap());
    assert!(bundle.ok(&["state", "c"]).contains("\"exitStatus\": 137"), "{}", bundle.ok(&["state", "c"]));
    bundle.ok(&["delete", "c"]);

    // Who is killed by somebody has memory enough.
    let bundle = Bundle::new("exec sleep 1000");
    bundle.edit("\"resources\": {", "\"resources\": {\"memory\": {\"limit\": 33554432},");
    let pid = bundle.create("c");
    bundle.ok(&["start", "c"]);
    bundle.ok(&["kill", "c", "KILL"]);
    assert_eq!(reap(pid), 128 + 9);
    assert_eq!(killed(), 0);
    bundle.ok(&["delete", "c"]);
    drop(bundle);
    before.check();
}

#[test]
fn by_signals_for_the_process_that_stands_for_it() {
    adopt_orphans();
    let bundle = Bundle::new("trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done");
    let pid = bundle.create("c");
    bundle.ok(&["start", "c"]);
    while bundle.output("c").is_empty() {
        // Each turn is a conversation with the guest.
        bundle.ok(&["exec", "c", "true"]);
    }
    send(pid, Signal::SIGTERM);
    assert_eq!(reap(pid), 4);
    bundle.ok(&["delete", "c"]);

    // One that was never started has nobody to take it.
    let pid = bundle.create("c");
    bundle.ok(&["kill", "c", "TERM"]);
    assert_eq!(reap(pid), 128 + 15);
    bundle.ok(&["delete", "c"]);
    nothing_left(&bundle);
}

#[test]
fn delete_takes_what_was_only_created_and_with_force_what_runs() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("exec sleep 1000");
    let pid = bundle.create("a");
    bundle.ok(&["delete", "a"]);
    assert_eq!(reap(pid), 128 + 9);
    for verb in [None, Some("start"), Some("pause")] {
        let pid = bundle.create("a");
        if let Some(verb) = verb {
            bundle.ok(&["start", "a"]);
            if verb == "pause" {
                bundle.ok(&["pause", "a"]);
            }
        }
        bundle.ok(&["delete", "--force", "a"]);
        assert_eq!(reap(pid), 128 + 9);
    }
    nothing_left(&bundle);
    drop(bundle);
    before.check();
}

#[test]
fn stale_state_is_a_stopped_container() {
    let bundle = Bundle::new("exit 0");
    adopt_orphans();
    let pid = bundle.create("c");
    send(pid, Signal::SIGKILL);
    assert_eq!(reap(pid), 128 + 9);
    // As after a restart of the host: its number is somebody else's now.
    let path = bundle.path("state/c/state.json");
    let state = fs::read_to_string(&path).unwrap();
    fs::write(&path, state.replace(&format!("\"pid\":{pid}"), "\"pid\":1")).unwrap();
    assert_eq!(bundle.status("c"), "stopped");
    bundle.ok(&["delete", "c"]);
    // What is left of a `create` that was killed has no state at all.
    fs::create_dir(bundle.path("state/half")).unwrap();
    bundle.mote(&["state", "half"]).assert_refused(1, "container does not exist");
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    bundle.ok(&["delete", "--force", "half"]);
    nothing_left(&bundle);
}

#[test]
fn two_commands_at_once() {
    adopt_orphans();
    let bundle = Bundle::new("exec sleep 1000");
    let pid = bundle.create("c");
    let (status, said) = bundle.create_with("c", &[]);
    assert_eq!(status, 1);
    assert!(said.contains("container with given ID already exists"), "{said}");
    let mut starts: Vec<_> = (0..4).map(|_| bundle.command(&["start", "c"]).spawn().unwrap()).collect();
    let started =
        starts.iter_mut().filter(|_| true).map(|child| child.wait().unwrap()).filter(|s| s.success()).count();
    assert_eq!(started, 1, "one of them started it");
    let mut deletes: Vec<_> =
        (0..4).map(|_| bundle.command(&["delete", "--force", "c"]).spawn().unwrap()).collect();
    assert!(deletes.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(reap(pid), 128 + 9);
    nothing_left(&bundle);
}

/// How many containers come and go. Each takes more than a second of real time, and the lane without KVM is the slower one.
fn many() -> usize {
    if hypervisor() == "kvm" { 100 } else { 20 }
}

#[test]
fn of_many_in_a_loop_leaves_nothing() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("exit 3");
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let open = descriptors();
    let mut left = many();
    while left > 0 {
        // Several at a time, and all of them gone before the next.
        let ids: Vec<_> = (0..left.min(5)).map(|number| format!("many-{number}")).collect();
        let pids: Vec<_> = ids.iter().map(|id| bundle.create(id)).collect();
        ids.iter().for_each(|id| drop(bundle.ok(&["start", id])));
        pids.into_iter().for_each(|pid| assert_eq!(reap(pid), 3));
        ids.iter().for_each(|id| drop(bundle.ok(&["delete", id])));
        left -= ids.len();
    }
    assert_eq!(descriptors(), open);
    nothing_left(&bundle);
    drop(bundle);
    before.check();
}
