//! A host that fails us, or that others have prepared: a clear line, nobody else's file touched, nothing left behind.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{OpenOptionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use mote_tests::harness::{Leftovers, children, mote_run, run, temporary, text, wait};
use nix::{
    fcntl::OFlag,
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn limited(command: &mut Command, resource: Resource, most: u64) -> &mut Command {
    // SAFETY: the closure makes one system call between fork and exec.
    unsafe { command.pre_exec(move || Ok(setrlimit(resource, most, most)?)) }
}

#[test]
fn a_process_that_was_stopped_goes_on() {
    let before = Leftovers::before();
    let mut child: Child = mote_run(&[])
        .args(["--", "sh", "-c", "echo ready; cat; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let [sandbox] = children(child.id())[..] else { panic!("one sandbox process") };
    for pid in [sandbox, child.id()] {
        send(pid, Signal::SIGSTOP);
        send(pid, Signal::SIGCONT);
    }
    drop(child.stdin.take());
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "end\n");
    assert!(wait(&mut child).success());
    before.check();
}

#[test]
fn a_full_disk_costs_the_log_and_nothing_else() {
    let before = Leftovers::before();
    let output = run(mote_run(&["--console", "/dev/full"]).args(["--", "echo", "hi"]), b"");
    assert_eq!((output.status, output.text().as_str()), (0, "hi\n"), "{output:?}");
    assert!(output.stderr.contains("kernel log can no longer be written"), "{output:?}");
    let output = run(mote_run(&["--log", "/dev/full", "--debug"]).args(["--", "echo", "hi"]), b"");
    assert_eq!((output.status, output.text().as_str()), (0, "hi\n"), "{output:?}");
    // Each of the two processes says it once.
    let lines = output.stderr.lines();
    assert!(lines.clone().count() <= 2 && lines.clone().all(|line| line.contains("/dev/full")), "{output:?}");
    before.check();
}

/// A named pipe, and if it is to be read, somebody who has it open and reads nothing.
fn pipe(path: &Path, read: bool) -> Option<fs::File> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    read.then(|| File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).unwrap())
}

#[test]
fn a_pipe_that_nobody_reads_is_no_log_file() {
    let before = Leftovers::before();
    let folder = temporary();
    let path = folder.path().join("pipe");
    pipe(&path, false);
    for option in ["--console", "--log"] {
        let output = run(mote_run(&[option, &text(&path)]).args(["--", "true"]), b"");
        output.assert_failed(125, &[&text(&path), "nobody reads it"]);
    }
    drop(folder);
    before.check();
}

#[test]
fn a_full_pipe_costs_the_log_and_nothing_else() {
    let before = Leftovers::before();
    let folder = temporary();
    for (option, said) in
        [("--console", "kernel log can no longer be written"), ("--log", "cannot write to the log file")]
    {
        let path = folder.path().join(option);
        let reader = pipe(&path, true).unwrap();
        // Full but for less than a line, so that there is room for no second one.
        let mut filled =
            File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        while filled.write(&[b'.'; 4096]).is_ok() {}
        let output = run(mote_run(&[option, &text(&path), "--debug"]).args(["--", "echo", "hi"]), b"");
        assert_eq!((output.status, output.text().as_str()), (0, "hi\n"), "{output:?}");
        assert!(output.stderr.contains(said), "{output:?}");
        drop((filled, reader));
    }
    drop(folder);
    before.check();
}

#[test]
fn output_that_finds_no_room_is_said_to_be_lost() {
    let before = Leftovers::before();
    let mut command = mote_run(&[]);
    command.args(["--", "sh", "-c", "while echo; do :; done; exit 3"]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdin(Stdio::null()).stdout(full).output().unwrap();
    // As with a pipe that nobody reads: the write fails, or the signal comes first.
    assert!(matches!(output.status.code(), Some(3 | 141)), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("output is lost: No space left on device"), "{said}");
    before.check();
}

#[test]
fn no_descriptors_left() {
    let before = Leftovers::before();
    for most in [4, 6, 9, 12, 15] {
        let output = run(limited(mote_run(&[]).args(["--", "true"]), Resource::RLIMIT_NOFILE, most), b"");
        output.assert_failed(125, &["mote: "]);
        before.check();
    }
}

#[test]
fn no_processes_left() {
    let before = Leftovers::before();
    // The limit is one of ordinary users; whose other processes count.
    let mut command = mote_run(&[]);
    limited(command.args(["--", "true"]), Resource::RLIMIT_NPROC, 0);
    let output = run(command.uid(23456).gid(23456), b"");
    output.assert_failed(125, &["mote: "]);
    before.check();
}

#[test]
fn links_that_others_have_planted_are_not_followed() {
    let before = Leftovers::before();
    let folder = temporary();
    let victim = folder.path().join("victim");
    fs::create_dir(&victim).unwrap();
    // Where the verdict on KVM is kept: a folder of an ordinary user's, who plants a link in it.
    let runtime = folder.path().join("runtime");
    fs::create_dir(&runtime).unwrap();
    symlink(&victim, runtime.join("mote")).unwrap();
    let output = run(mote_run(&[]).env("XDG_RUNTIME_DIR", &runtime).args(["--", "echo", "hi"]), b"");
    assert_eq!(output.text(), "hi\n", "{output:?}");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{}", text(&victim));
    before.check();
}
