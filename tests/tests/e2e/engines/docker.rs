//! Docker.

use std::{fs, process::Command};

use mote_tests::harness::{Leftovers, Terminal, hypervisor, program, run, text};
use serde_json::json;
use tempfile::TempDir;

use super::{ASKED, Daemon, IMAGE, folder, leave, ok, type_a_line};

/// Docker, with everything below one folder.
struct Docker {
    /// Some for as long as it runs.
    daemon: Option<Daemon>,
    folder: TempDir,
    before: Leftovers,
}

impl Docker {
    fn new() -> Self {
        let before = Leftovers::before();
        let mut docker = Self { daemon: None, folder: folder(), before };
        let arguments = ["--container-hypervisor", &hypervisor()];
        let configuration = json!({
            "runtimes": { "mote": { "path": program(), "runtimeArgs": arguments } },
            // For builds, which cannot be told.
            "default-runtime": "mote",
            "data-root": docker.path("data"),
            "exec-root": docker.path("exec"),
            "pidfile": docker.path("pid"),
            "hosts": [docker.socket()],
            // It mounts nothing.
            "storage-driver": "vfs",
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
        });
        fs::write(docker.path("daemon.json"), configuration.to_string()).unwrap();
        let mut command = Command::new("dockerd");
        command.args(["--config-file", &docker.path("daemon.json")]);
        docker.daemon = Some(Daemon::start(&mut command, "API listen on"));
        docker.ok(&["load", "--quiet", "--input", &docker.path("image.tar")]);
        docker
    }

    fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name))
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.path("socket"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        // Its own builder asks the runtime; the other one is a program of its own.
        docker.env("DOCKER_HOST", self.socket()).env("DOCKER_BUILDKIT", "0").args(arguments);
        docker.env("DOCKER_CONFIG", self.folder.path());
        docker
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(&mut self.command(arguments))
    }

    /// `docker run` of the image.
    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        let mut docker = self.command(&["run", "--runtime", "mote", "--network", "none"]);
        docker.args(options).arg(IMAGE).args(command);
        docker
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let all = run(&mut self.command(&["ps", "--all", "--quiet"]), b"").text();
            run(self.command(&["rm", "--force"]).args(all.lines()), b"");
        }
        self.daemon = None;
        leave(&self.folder, "docker", &self.before);
    }
}

#[test]
fn run_ends_as_its_program_does() {
    let docker = Docker::new();
    let script = "cat; echo error >&2; exit 7";
    let output = run(&mut docker.run(&["--rm", "-i"], &["sh", "-c", script]), b"input\n");
    assert_eq!((output.status, output.text().as_str()), (7, "input\n"), "{output:?}");
    assert!(output.stderr.contains("error\n"), "{output:?}");
    for (command, status) in [("/missing", 127), ("/srv/data", 126)] {
        let output = run(&mut docker.run(&["--rm"], &[command]), b"");
        assert_eq!(output.status, status, "{output:?}");
    }
    let mut command = docker.run(&["--rm", "-it"], &["sh", "-c", "test -t 0 && cat"]);
    type_a_line(&mut command, "typed\r\ntyped\r\n");
}

#[test]
fn a_container_is_entered_looked_at_and_stopped() {
    let docker = Docker::new();
    ok(&mut docker.run(&["--detach", "--name", "one"], &["sh", "-c", ASKED]));
    while docker.ok(&["logs", "one"]).is_empty() {
        docker.ok(&["exec", "one", "true"]);
    }
    assert_eq!(docker.ok(&["logs", "one"]), "started\n");
    assert_eq!(run(&mut docker.command(&["exec", "one", "sh", "-c", "exit 9"]), b"").status, 9);
    assert_eq!(run(&mut docker.command(&["exec", "-i", "one", "cat"]), b"in").text(), "in");
    let pid = docker.ok(&["inspect", "--format", "{{.State.Pid}}", "one"]);
    assert_eq!(docker.ok(&["top", "one", "-o", "pid"]), format!("PID\n{pid}"));
    docker.ok(&["pause", "one"]);
    assert_eq!(docker.ok(&["inspect", "--format", "{{.State.Status}}", "one"]), "paused\n");
    docker.ok(&["unpause", "one"]);
    docker.ok(&["update", "--memory", "64m", "--memory-swap", "64m", "one"]);
    assert_eq!(docker.ok(&["exec", "one", "cat", "/sys/fs/cgroup/memory.max"]), "67108864\n");
    docker.ok(&["stop", "--time", "1000", "one"]);
    assert_eq!(docker.ok(&["wait", "one"]), "3\n");
    assert_eq!(docker.ok(&["logs", "one"]), "started\nasked\n");
    docker.ok(&["start", "one"]);
    docker.ok(&["kill", "one"]);
    assert_eq!(docker.ok(&["wait", "one"]), "137\n");
    docker.ok(&["rm", "one"]);
    let hungry = ["busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=50000000"];
    let output = run(&mut docker.run(&["--name", "one", "--memory", "32m"], &hungry), b"");
    assert_eq!(output.status, 137, "{output:?}");
    assert_eq!(docker.ok(&["inspect", "--format", "{{.State.OOMKilled}}", "one"]), "true\n");
    docker.ok(&["rm", "one"]);
    assert_eq!(docker.ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn files_are_copied_and_become_an_image() {
    let docker = Docker::new();
    ok(&mut docker.run(&["--detach", "--name", "one"], &["sleep", "1000"]));
    let file = docker.path("copied");
    fs::write(&file, "from the host\n").unwrap();
    docker.ok(&["cp", &file, "one:/srv/copied"]);
    assert_eq!(docker.ok(&["exec", "one", "cat", "/srv/copied"]), "from the host\n");
    docker.ok(&["exec", "one", "sh", "-c", "echo from the guest > /srv/made"]);
    docker.ok(&["cp", "one:/srv/made", &docker.path("back")]);
    assert_eq!(fs::read_to_string(docker.path("back")).unwrap(), "from the guest\n");
    docker.ok(&["commit", "one", "committed"]);
    docker.ok(&["rm", "--force", "one"]);
    let committed = ["run", "--runtime", "mote", "--network", "none", "--rm", "committed"];
    let files = ["cat", "/srv/data", "/srv/made"];
    assert_eq!(docker.ok(&[&committed[..], &files[..]].concat()), "from the image\nfrom the guest\n");
}

#[test]
fn an_image_is_built() {
    let docker = Docker::new();
    let context = docker.folder.path().join("context");
    fs::create_dir(&context).unwrap();
    let recipe = format!("FROM {IMAGE}\nRUN echo built > /srv/built\nCMD [\"cat\", \"/srv/built\"]\n");
    fs::write(context.join("Dockerfile"), recipe).unwrap();
    docker.ok(&["build", "--network", "none", "--tag", "built", &text(&context)]);
    assert_eq!(docker.ok(&["run", "--network", "none", "--rm", "built"]), "built\n");
}
