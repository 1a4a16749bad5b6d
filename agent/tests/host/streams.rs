//! What happens to bytes on their way in and out.

use std::io::{Read, Write};

use mote_protocol::{ExitStatus, ProcessId, Request};

use crate::harness::{Command, Host, Said, read_all};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 13 & 0xff).unwrap()).collect()
}

#[test]
fn megabytes_pass_through_cat_unchanged_however_slowly_they_are_read() {
    let mut host = Host::start();
    let mut child = host.run(1, &Command::new(&["cat"]));
    let sent = pattern(5 * 1024 * 1024 + 123);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let expected = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    // Read nothing until everything between is full: what runs beside it still gets through.
    let mut other = host.run(2, &Command::new(&["echo", "still alive"]));
    assert_eq!(read_all(other.stdout.as_mut().unwrap()), b"still alive\n");
    assert_eq!(host.exit_of(other.process), ExitStatus::Code(0));
    assert!(!writer.is_finished(), "all of it disappeared into buffers");
    let mut received = Vec::new();
    let mut step = 1;
    loop {
        let mut piece = vec![0; step];
        match stdout.read(&mut piece).unwrap() {
            0 => break,
            count => received.extend_from_slice(&piece[..count]),
        }
        step = step * 3 % 70_001 + 1;
    }
    writer.join().unwrap();
    assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
    assert_eq!(host.exit_of(ProcessId(1)), ExitStatus::Code(0));
}

/// Whether a process has nothing to do: it sleeps each of many times that it is looked at. One that is woken again and again runs.
fn rests(pid: i32) -> bool {
    let stat = format!("/proc/{pid}/stat");
    let mut asleep = 0;
    for _ in 0..1_000_000 {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let state = stat.rsplit(')').next().unwrap().split_whitespace().next().unwrap();
        asleep = if state == "S" { asleep + 1 } else { 0 };
        if asleep == 1000 {
            return true;
        }
    }
    false
}

#[test]
fn a_blocked_stream_costs_no_time() {
    let mut host = Host::start();
    let mut writer = host.run(1, &Command::shell("yes"));
    let reader = host.run(2, &Command::new(&["sleep", "1000"]));
    let agent = host.agent_pid().as_raw_pid();
    // Fill the way to a process that reads nothing, until the agent takes no more.
    let stdin = reader.stdin.as_ref().unwrap();
    stdin.set_nonblocking(true).unwrap();
    let mut stdin = stdin;
    loop {
        while stdin.write_all(&[0; 4096]).is_ok() {}
        assert!(rests(agent), "the agent spins");
        if stdin.write(&[0; 1]).is_err() {
            break;
        }
    }
    // And a host that half-closes what it only reads changes nothing.
    let stdout = writer.stdout.as_mut().unwrap();
    stdout.shutdown(std::net::Shutdown::Write).unwrap();
    let mut some = vec![0; 1 << 20];
    stdout.read_exact(&mut some).unwrap();
    assert!(rests(agent), "the agent spins");
}

#[test]
fn the_end_of_the_stream_and_close_stdin_both_end_standard_input() {
    let mut host = Host::start();
    let mut child = host.run(1, &Command::new(&["cat"]));
    child.stdin.as_mut().unwrap().write_all(b"to the end").unwrap();
    child.stdin.as_mut().unwrap().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(child.stdout.as_mut().unwrap()), b"to the end");
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));

    let mut child = host.run(2, &Command::new(&["cat"]));
    assert_eq!(host.ask(&Request::CloseStdin(child.process)), Said::Done);
    assert_eq!(read_all(child.stdout.as_mut().unwrap()), b"");
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
    // The agent has closed the stream.
    assert_eq!(child.stdin.as_mut().unwrap().read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_command_that_closes_its_input_stops_the_host_from_writing() {
    let mut host = Host::start();
    let mut child = host.run(1, &Command::shell("exec <&-; sleep 1000"));
    let stdin = child.stdin.as_mut().unwrap();
    let error = loop {
        if let Err(error) = stdin.write_all(&[0; 65536]) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(host.ask(&Request::CloseStdin(child.process)), Said::Done);
}

#[test]
fn a_host_that_stops_reading_breaks_the_pipe() {
    let mut host = Host::start();
    let mut child = host.run(1, &Command::shell("yes; echo after >&2"));
    let mut some = [0; 1000];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    child.stdout = None;
    assert_eq!(read_all(child.stderr.as_mut().unwrap()), b"after\n");
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
    let mut child = host.run(2, &Command::new(&["yes"]));
    child.stdout = None;
    assert_eq!(host.exit_of(child.process), ExitStatus::Signal(13));
}

#[test]
fn a_command_that_closes_its_output_ends_the_stream_at_once() {
    let mut host = Host::start();
    let mut child = host.run(1, &Command::shell("echo out; exec >&-; read line; exit 3"));
    assert_eq!(read_all(child.stdout.as_mut().unwrap()), b"out\n");
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(3));
}

#[test]
fn streams_end_with_the_command_even_if_its_children_go_on() {
    let mut host = Host::start();
    let script = "(while :; do echo late; done) & sleep 1000 & exec head -c 300000 /dev/zero";
    let mut child = host.run(1, &Command::shell(script));
    let output = read_all(child.stdout.as_mut().unwrap());
    assert!(output.iter().filter(|byte| **byte == 0).count() == 300_000);
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
}

#[test]
fn the_exit_is_reported_after_the_last_byte_was_handed_over() {
    let mut host = Host::start();
    // Fills everything on the way, then leaves a full pipe behind.
    let mut child = host.run(1, &Command::shell("yes & read line; exit 6"));
    let mut other = host.run(2, &Command::shell("sleep 0.3; echo other"));
    assert_eq!(read_all(other.stdout.as_mut().unwrap()), b"other\n");
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let mut other = host.run(3, &Command::shell("sleep 0.2; echo other"));
    assert_eq!(read_all(other.stdout.as_mut().unwrap()), b"other\n");
    assert_eq!(host.exit_of(ProcessId(3)), ExitStatus::Code(0));
    assert!(!host.heard_exit(child.process));
    let output = read_all(child.stdout.as_mut().unwrap());
    assert!(output.len() >= 65536 && output.chunks_exact(2).all(|line| line == b"y\n"));
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(6));
}
