//! Processes with a terminal.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use mote_protocol::{ErrorCode, ExitStatus, ProcessId, Request, Resize, WindowSize};

use crate::harness::{Command, Host, Said, read_all};

const SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = stream.read(&mut byte).unwrap();
        assert!(count > 0, "{:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_terminal_has_a_size_that_changes() {
    let mut host = Host::start();
    let script = "stty -echo; stty size; tty >/dev/null && echo tty; read line; stty size; exit 5";
    let command = Command { terminal: Some(SIZE), ..Command::shell(script) };
    let mut child = host.run(1, &command);
    let (stdin, stdout) = (child.stdin.as_mut().unwrap(), child.stdout.as_mut().unwrap());
    assert_eq!(read_until(stdout, "tty\r\n"), "24 80\r\ntty\r\n");
    let size = WindowSize { rows: 50, columns: 132 };
    assert_eq!(host.ask(&Request::Resize(Resize { process: child.process, size })), Said::Done);
    stdin.write_all(b"go\n").unwrap();
    assert_eq!(String::from_utf8(read_all(stdout)).unwrap(), "50 132\r\n");
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(5));
    let said = host.ask(&Request::Resize(Resize { process: child.process, size }));
    assert!(matches!(said, Said::Failed { code: ErrorCode::NoSuchProcess, .. }), "{said:?}");
}

#[test]
fn only_a_terminal_can_be_resized() {
    let mut host = Host::start();
    let child = host.run(1, &Command::new(&["cat"]));
    let said = host.ask(&Request::Resize(Resize { process: child.process, size: SIZE }));
    assert!(matches!(said, Said::Failed { code: ErrorCode::InvalidArgument, .. }), "{said:?}");
}

#[test]
fn control_c_reaches_the_foreground_and_the_end_of_input_leaves_the_terminal_open() {
    let mut host = Host::start();
    let script = "stty -echo; trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.02; done";
    // Whoever started the tests may ignore the signal, as `&` in a script does, and a shell cannot trap what was ignored before.
    let program = ["env", "--default-signal=INT", "sh", "-c", script];
    let command = Command { terminal: Some(SIZE), ..Command::new(&program) };
    let mut child = host.run(1, &command);
    let stdout = child.stdout.as_mut().unwrap();
    assert_eq!(read_until(stdout, "ready\r\n"), "ready\r\n");
    child.stdin.as_mut().unwrap().write_all(&[3]).unwrap();
    assert!(read_until(stdout, "interrupted\r\n").ends_with("interrupted\r\n"));
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(9));

    let script = "stty -echo; echo ready; sleep 0.1; test -t 0 && stty size; exit 0";
    let command = Command { terminal: Some(SIZE), ..Command::shell(script) };
    let mut child = host.run(2, &command);
    child.stdin = None;
    let text = String::from_utf8(read_all(child.stdout.as_mut().unwrap())).unwrap();
    assert_eq!(text, "ready\r\n24 80\r\n");
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
}

#[test]
fn all_output_of_a_terminal_arrives_even_if_it_is_read_late() {
    let mut host = Host::start();
    let script = "stty raw -echo; seq 1 60000; exit 0";
    let command = Command { terminal: Some(SIZE), ..Command::shell(script) };
    let mut child = host.run(1, &command);
    let mut other = host.run(2, &Command::new(&["echo", "other"]));
    assert_eq!(read_all(other.stdout.as_mut().unwrap()), b"other\n");
    let expected: String = (1..=60_000).map(|number| format!("{number}\n")).collect();
    let text = String::from_utf8(read_all(child.stdout.as_mut().unwrap())).unwrap();
    assert!(text == expected, "{} of {}", text.len(), expected.len());
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
}

#[test]
fn much_input_reaches_a_terminal_in_order() {
    let mut host = Host::start();
    let script = "stty raw -echo; echo ready; head -c 1000000 | cksum";
    let command = Command { terminal: Some(SIZE), ..Command::shell(script) };
    let mut child = host.run(1, &command);
    let stdout = child.stdout.as_mut().unwrap();
    read_until(stdout, "ready\n");
    let input: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[1] ^ at.to_le_bytes()[0]).collect();
    child.stdin.as_mut().unwrap().write_all(&input).unwrap();
    let text = String::from_utf8(read_all(stdout)).unwrap();
    let mut check = std::process::Command::new("cksum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(&input).unwrap();
    let expected = String::from_utf8(check.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(text, expected);
}

#[test]
fn a_host_that_goes_away_hangs_the_terminal_up() {
    let mut host = Host::start();
    let command = Command { terminal: Some(SIZE), ..Command::new(&["sleep", "1000"]) };
    let mut child = host.run(1, &command);
    child.stdout = None;
    child.stdin = None;
    assert_eq!(host.exit_of(child.process), ExitStatus::Signal(1));
}

#[test]
fn a_terminal_without_streams_still_works() {
    let mut host = Host::start();
    let script = "test -t 0 && seq 1 50000; exit 4";
    let command = Command { terminal: Some(SIZE), streams: [false; 3], ..Command::shell(script) };
    host.run(1, &command);
    assert_eq!(host.exit_of(ProcessId(1)), ExitStatus::Code(4));
}

#[test]
fn a_child_that_keeps_the_terminal_does_not_keep_the_stream() {
    let mut host = Host::start();
    // The session's leader gives the terminal up, so its end does not hang up on the child.
    let script = "setsid sleep 1000 & echo leaving; exit 0";
    let command = Command { terminal: Some(SIZE), ..Command::shell(script) };
    let mut child = host.run(1, &command);
    assert_eq!(read_all(child.stdout.as_mut().unwrap()), b"leaving\r\n");
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
}
