//! containerd, through its own shim for runc, by means of `ctr`.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use mote_tests::harness::{Leftovers, Terminal, hypervisor, program, run, shell_status, text, wait};
use tempfile::TempDir;

use super::{ASKED, Daemon, IMAGE, folder, leave, ok, type_a_line};

/// containerd, with everything below one folder.
struct Containerd {
    /// Some for as long as it runs.
    daemon: Option<Daemon>,
    folder: TempDir,
    before: Leftovers,
}

impl Containerd {
    fn new() -> Self {
        let before = Leftovers::before();
        let mut containerd = Self { daemon: None, folder: folder(), before };
        let [root, state, socket] = ["root", "state", "socket"].map(|name| containerd.path(name));
        let configuration = format!(
            "version = 2\nroot = \"{root}\"\nstate = \"{state}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n"
        );
        fs::write(containerd.path("config.toml"), configuration).unwrap();
        // The shim has no way to say arguments.
        let runtime = format!(
            "#!/bin/sh\nexec {} --container-hypervisor {} \"$@\"\n",
            program().display(),
            hypervisor()
        );
        fs::write(containerd.path("mote"), runtime).unwrap();
        fs::set_permissions(containerd.path("mote"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("containerd");
        command.args(["--config", &containerd.path("config.toml")]);
        containerd.daemon = Some(Daemon::start(&mut command, "containerd successfully booted"));
        containerd.ok(&["image", "import", "--snapshotter", "native", &containerd.path("image.tar")]);
        containerd
    }

    fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.args(["--address", &self.path("socket")]).args(arguments);
        ctr
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(&mut self.command(arguments))
    }

    /// `ctr run` of the image.
    fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Command {
        let mut ctr = self.command(&["run", "--snapshotter", "native", "--runtime", "io.containerd.runc.v2"]);
        ctr.args(["--runc-binary", &self.path("mote"), "--runc-root", &self.path("runtime")]);
        ctr.args(options).args([IMAGE, id]).args(command);
        ctr
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            for what in ["task", "container"] {
                for id in run(&mut self.command(&[what, "list", "--quiet"]), b"").text().lines() {
                    let force: &[&str] = if what == "task" { &["--force"] } else { &[] };
                    run(self.command(&[what, "rm"]).args(force).arg(id), b"");
                }
            }
        }
        self.daemon = None;
        leave(&self.folder, "default", &self.before);
    }
}

#[test]
fn run_ends_as_its_program_does() {
    let containerd = Containerd::new();
    // Nothing reads its input: ctr does not pass on the end of one.
    let script = "cat /srv/data; echo error >&2; exit 7";
    let output = run(&mut containerd.run(&["--rm"], "mote-one", &["sh", "-c", script]), b"");
    assert_eq!((output.status, output.text().as_str()), (7, "from the image\n"), "{output:?}");
    assert!(output.stderr.contains("error\n"), "{output:?}");
    let output = run(&mut containerd.run(&["--rm"], "mote-two", &["/missing"]), b"");
    assert!(output.status == 1 && output.stderr.contains("no such file or directory"), "{output:?}");
    let mut command = containerd.run(&["--rm", "-t"], "mote-three", &["sh", "-c", "test -t 0 && cat"]);
    // ctr's own terminal goes on turning ends of lines into two characters, the container's has done so already.
    type_a_line(&mut command, "typed\r\r\ntyped\r\r\n");
}

#[test]
fn a_task_is_entered_looked_at_and_ended() {
    let containerd = Containerd::new();
    let mut client = containerd.run(&["--rm"], "mote-one", &["sh", "-c", ASKED]);
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "started");
    let exec = |id: &str, command: &[&str]| {
        let mut exec = containerd.command(&["task", "exec", "--exec-id", id, "mote-one"]);
        run(exec.args(command), b"")
    };
    assert_eq!(exec("a", &["cat", "/srv/data"]).text(), "from the image\n");
    assert_eq!(exec("b", &["sh", "-c", "exit 9"]).status, 9);
    let tasks = || {
        let list = containerd.ok(&["task", "list"]);
        let line = list.lines().nth(1).unwrap_or_default().split_whitespace().map(str::to_owned);
        line.collect::<Vec<_>>()
    };
    let [_, pid, status] = &tasks()[..] else { panic!("one task") };
    assert_eq!(status, "RUNNING");
    assert!(containerd.ok(&["task", "ps", "mote-one"]).contains(&format!("\n{pid} ")));
    assert!(containerd.ok(&["task", "metrics", "mote-one"]).contains("memory.usage_in_bytes"));
    containerd.ok(&["task", "pause", "mote-one"]);
    assert_eq!(tasks()[2], "PAUSED");
    containerd.ok(&["task", "resume", "mote-one"]);
    containerd.ok(&["task", "kill", "--signal", "SIGTERM", "mote-one"]);
    assert_eq!(lines.next().unwrap().unwrap(), "asked");
    assert_eq!(shell_status(wait(&mut client)), 3);
    assert_eq!(containerd.ok(&["task", "list", "--quiet"]), "");
}
