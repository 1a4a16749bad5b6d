//! Whoever is killed, whenever: nothing is left.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use mote_tests::harness::{HANG, Leftovers, children, mote_run, process_ended, run, shell_status, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn start(script: &str) -> Child {
    mote_run(&[])
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn wait_ready(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
}

/// Everything below the sandbox process: QEMU, where there is one.
fn whole_family(sandbox: u32) -> Vec<u32> {
    let mut family = vec![sandbox];
    family.extend(children(sandbox));
    family
}

#[test]
fn of_the_sandbox_process() {
    let before = Leftovers::before();
    let mut child = start("echo ready; exec sleep 1000");
    wait_ready(&mut child);
    let [sandbox] = children(child.id())[..] else { panic!("one sandbox process") };
    let family = whole_family(sandbox);
    send(sandbox, Signal::SIGKILL);
    assert_eq!(shell_status(wait(&mut child)), 128 + 9);
    for pid in family {
        assert!(process_ended(pid, HANG), "{pid} is still there");
    }
    before.check();
}

#[test]
fn of_the_caller() {
    let before = Leftovers::before();
    let mut child = start("echo ready; exec sleep 1000");
    wait_ready(&mut child);
    let [sandbox] = children(child.id())[..] else { panic!("one sandbox process") };
    let family = whole_family(sandbox);
    send(child.id(), Signal::SIGKILL);
    wait(&mut child);
    for pid in family {
        assert!(process_ended(pid, HANG), "{pid} is still there");
    }
    // Whoever comes next removes the cgroup that nobody was left to remove.
    assert_eq!(run(mote_run(&[]).args(["--", "true"]), b"").status, 0);
    before.check();
}

#[test]
fn of_the_sandbox_process_at_many_moments() {
    let before = Leftovers::before();
    // Each try comes a little further: a budget of CPU time for the sandbox is a moment that does not depend on the clock.
    for spins in [0u32, 200, 2_000, 20_000, 60_000] {
        let mut child = start("true");
        let mut found = Vec::new();
        for _ in 0..=spins {
            found = children(child.id());
            if spins == 0 && !found.is_empty() {
                break;
            }
            if process_ended(child.id(), std::time::Duration::ZERO) {
                break;
            }
        }
        let family: Vec<u32> = found.iter().flat_map(|sandbox| whole_family(*sandbox)).collect();
        for sandbox in &found {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(i32::try_from(*sandbox).unwrap()), Signal::SIGKILL);
        }
        wait(&mut child);
        for pid in family {
            assert!(process_ended(pid, HANG), "{pid} is still there");
        }
    }
    before.check();
}

#[test]
fn of_the_guest_while_the_command_runs() {
    let before = Leftovers::before();
    let call = |script: &str| run(mote_run(&[]).args(["--", "sh", "-c", script]), b"");
    call("reboot -f; sleep 1000").assert_failed(125, &["rebooted while the command was running"]);
    call("poweroff -f; sleep 1000").assert_failed(125, &["powered off while the command was running"]);
    before.check();
}

#[test]
fn by_a_signal_before_the_command_runs() {
    let before = Leftovers::before();
    let mut child = start("echo ready; exec sleep 1000");
    send(child.id(), Signal::SIGTERM);
    // Wherever it came: before `mote` listens, during the boot, or to the command.
    assert_eq!(shell_status(wait(&mut child)), 128 + 15);
    before.check();
}
