//! Standard streams: separate, binary-safe, with back-pressure and proper ends.

use std::{
    io::{Read, Write},
    process::Stdio,
};

use mote_tests::harness::{collect, mote_run, received, run, sh, shell_status, temporary, wait};

/// Bytes without a pattern that a short period would hide.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

#[test]
fn three_streams_do_not_mix() {
    let output = run(mote_run(&[]).args(["--", "sh", "-c", "cat; echo err >&2; echo out"]), b"in\n");
    assert_eq!((output.text().as_str(), output.stderr.as_str()), ("in\nout\n", "err\n"));
}

#[test]
fn bytes_pass_unchanged_through_pipes() {
    let bytes = noise(8 << 20);
    let output = run(mote_run(&[]).args(["--", "cat"]), &bytes);
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(output.stdout == bytes, "{} bytes came back, {} went in", output.stdout.len(), bytes.len());
}

#[test]
fn bytes_pass_unchanged_through_files() {
    let folder = temporary();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let bytes = noise(16 << 20);
    std::fs::write(&from, &bytes).unwrap();
    let mut child = mote_run(&[])
        .args(["--", "cat"])
        .stdin(std::fs::File::open(&from).unwrap())
        .stdout(std::fs::File::create(&to).unwrap())
        .spawn()
        .unwrap();
    assert!(wait(&mut child).success());
    assert!(std::fs::read(&to).unwrap() == bytes);
}

#[test]
fn the_end_of_input_reaches_the_command() {
    assert_eq!(run(mote_run(&[]).args(["--", "wc", "-c"]), b"12345").text(), "5\n");
    let mut child =
        mote_run(&[]).args(["--", "cat"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    assert!(wait(&mut child).success());
}

#[test]
fn a_closed_output_is_a_broken_pipe_in_the_guest() {
    let mut child = mote_run(&[])
        .args(["--", "sh", "-c", "yes; echo status $? >&2"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let stderr = collect(child.stderr.take());
    let mut some = [0; 100];
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    assert_eq!(shell_status(wait(&mut child)), 0);
    assert_eq!(String::from_utf8(received(&stderr)).unwrap(), "status 141\n");
}

#[test]
fn a_slow_reader_loses_nothing() {
    let mut child = mote_run(&[])
        .args(["--", "sh", "-c", "seq 1 400000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody reads until the guest has filled every buffer on the way: the pipe is full when it cannot take one byte more.
    let mut stdout = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut first = [0; 1];
    stdout.read_exact(&mut first).unwrap();
    stdout.read_to_string(&mut text).unwrap();
    assert!(wait(&mut child).success());
    assert_eq!(text.lines().count(), 400_000);
    assert!(text.ends_with("\n400000\n"));
}

#[test]
fn input_that_nobody_reads_does_not_hold_the_end_up() {
    let mut child =
        mote_run(&[]).args(["--", "true"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&noise(4 << 20)));
    assert!(wait(&mut child).success());
    // The pipe breaks when the command is gone.
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn output_of_the_past_is_not_lost_to_a_background_process() {
    // The background process keeps the stream open; the command's own end is the end.
    let output = sh("sleep 1000 & seq 1 50000");
    assert_eq!(output.status, 0);
    assert!(output.text().ends_with("\n50000\n"));
}

#[test]
fn dev_stdout_can_be_opened() {
    let output = sh("echo one > /dev/stdout; echo two > /dev/stderr; read line < /dev/stdin; echo $?");
    assert_eq!((output.text().as_str(), output.stderr.as_str()), ("one\n1\n", "two\n"));
}
