//! Engines from the distribution, with `mote` for their runtime. Each is on paths of its own, and stopped by the test that started it.

mod conmon;
mod containerd;
mod docker;
mod podman;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use mote_tests::harness::{HANG, Leftovers, Terminal, run, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tempfile::TempDir;

use crate::archive::{Layer, save};

const IMAGE: &str = "localhost/engine-test:1";

/// Ends with status 3 when it is asked to, and says so.
const ASKED: &str = "trap 'echo asked; exit 3' TERM; echo started; while :; do sleep 0.1; done";

/// A folder for all that an engine writes, with an image to load.
fn folder() -> TempDir {
    const NAMES: &[&str] = &["sh", "cat", "echo", "hostname", "ip", "ps", "sleep", "test", "touch", "true"];
    let folder = tempfile::Builder::new().prefix("mote-engine-").tempdir().unwrap();
    let layer = Layer::new()
        .busybox(NAMES)
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        .file("srv/data", b"from the image\n");
    let config = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
    save(&folder.path().join("image.tar"), IMAGE, &config, vec![layer]);
    folder
}

/// What a command of an engine prints; it must succeed.
fn ok(command: &mut Command) -> String {
    let output = run(command, b"");
    assert_eq!(output.status, 0, "{command:?}: {output:?}");
    output.text()
}

/// Removes an engine's folder and cgroups when it has been stopped, and looks for what it has left.
fn leave(folder: &TempDir, cgroups: &str, before: &Leftovers) {
    remove_empty_cgroups(cgroups);
    if !std::thread::panicking() {
        // Its files are in the folder, which goes with us; anything else is too much.
        fs::remove_dir_all(folder.path()).unwrap();
        before.check();
    }
}

/// Has a command that passes lines on do so in a terminal; `echoed` is what the terminal then shows.
fn type_a_line(command: &mut Command, echoed: &str) {
    let mut terminal = Terminal::start(command, 24, 80);
    terminal.type_in("typed\n");
    terminal.read_until(echoed);
    terminal.type_in("\x04");
    assert!(terminal.wait().success());
}

/// A service that runs until it is dropped.
struct Daemon(Child);

impl Daemon {
    /// Starts it, and waits until its log has `ready`.
    fn start(command: &mut Command, ready: &'static str) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = BufReader::new(child.stderr.take().unwrap());
        let daemon = Self(child);
        let (sender, lines) = mpsc::channel();
        // Reads on for as long as it lives: nobody may have to wait for its log to be read.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                // Nobody listens any more once it is ready.
                let _ = sender.send(line);
            }
        });
        let mut seen = Vec::new();
        loop {
            let line = lines.recv_timeout(HANG);
            let line = line.unwrap_or_else(|_| panic!("{command:?} is not ready: {}", seen.join("\n")));
            if line.contains(ready) {
                return daemon;
            }
            seen.push(line);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        // Fails if it has ended by itself.
        let _ = kill(pid, Signal::SIGTERM);
        wait(&mut self.0);
    }
}

/// Removes the cgroups that an engine keeps its containers' in, and leaves: those that are empty.
fn remove_empty_cgroups(name: &str) {
    let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for tree in trees.chain([Path::new("/sys/fs/cgroup").into()]) {
        let inside = fs::read_dir(tree.join(name)).into_iter().flatten().flatten();
        for path in inside.map(|entry| entry.path()).chain([tree.join(name)]) {
            let _ = fs::remove_dir(path);
        }
    }
}
