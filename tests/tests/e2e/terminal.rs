//! `mote run -t`: the user's terminal is the command's.

use mote_tests::harness::{HANG, Leftovers, Terminal, children, mote_run, process_ended, run, shell_status};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn shell() -> Terminal {
    let mut terminal = Terminal::start(mote_run(&["-t"]).args(["--", "sh"]), 31, 97);
    terminal.read_until("# ");
    terminal
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

#[test]
fn size_and_changes_of_size_follow() {
    let mut terminal = shell();
    terminal.type_in("stty size\r");
    terminal.read_until("31 97");
    terminal.resize(40, 120);
    // The new size arrives when it arrives.
    terminal.type_in("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo resized-$((1 + 1))\r");
    terminal.read_until("resized-2");
    terminal.type_in("exit 5\r");
    assert_eq!(shell_status(terminal.wait()), 5);
    assert!(terminal.is_restored());
}

#[test]
fn it_is_a_terminal_with_a_name() {
    let mut terminal = shell();
    terminal.type_in("tty; echo TERM=$TERM\r");
    terminal.read_until("/dev/pts/0");
    terminal.read_until("TERM=");
    terminal.type_in("exit\r");
    assert!(terminal.wait().success());
}

#[test]
fn control_c_goes_to_the_command_only() {
    let mut terminal = shell();
    // Only once the command runs is the terminal the command's, and Ctrl-C a signal.
    terminal.type_in("sh -c 'echo on-$((1 + 1)); exec sleep 1000'\r");
    terminal.read_until("on-2");
    terminal.type_in("\x03");
    terminal.read_until("# ");
    terminal.type_in("echo still-$((40 + 2))\r");
    terminal.read_until("still-42");
    terminal.type_in("exit\r");
    terminal.wait();
    assert!(terminal.is_restored());
}

#[test]
fn the_terminal_is_restored_however_it_ends() {
    let before = Leftovers::before();
    // The sandbox process is killed: the caller restores.
    let mut terminal = shell();
    assert!(!terminal.is_restored(), "raw while the command runs");
    let [sandbox] = children(terminal.pid())[..] else { panic!("one sandbox process") };
    kill(pid(sandbox), Signal::SIGKILL).unwrap();
    assert_eq!(shell_status(terminal.wait()), 128 + 9);
    assert!(terminal.is_restored());

    // The caller is killed: the sandbox process restores, and goes.
    let mut terminal = shell();
    let [sandbox] = children(terminal.pid())[..] else { panic!("one sandbox process") };
    kill(pid(terminal.pid()), Signal::SIGKILL).unwrap();
    terminal.wait();
    assert!(process_ended(sandbox, HANG));
    assert!(terminal.is_restored());

    // A signal for the caller.
    let mut terminal =
        Terminal::start(mote_run(&["-t"]).args(["--", "sh", "-c", "echo on; exec sleep 1000"]), 24, 80);
    terminal.read_until("on");
    kill(pid(terminal.pid()), Signal::SIGTERM).unwrap();
    assert_eq!(shell_status(terminal.wait()), 128 + 15);
    assert!(terminal.is_restored());
    before.check();
}

#[test]
fn there_must_be_one() {
    run(mote_run(&["-t"]).args(["--", "true"]), b"").assert_failed(125, &["--tty", "terminal"]);
}
