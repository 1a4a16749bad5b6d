//! podman.

use std::{fs, process::Command};

use mote_tests::harness::{Leftovers, Output, Terminal, hypervisor, program, run, text};
use nix::mount::umount;
use tempfile::TempDir;

use super::{ASKED, IMAGE, folder, leave, ok, type_a_line};

/// podman, with everything below one folder.
struct Podman {
    folder: TempDir,
    before: Leftovers,
    /// Whether podman had mounted its folder of network namespaces already, which it does once and for all.
    had_networks: bool,
}

/// Where it keeps network namespaces; that cannot be elsewhere.
const NETWORKS: &str = "/run/netns";

fn has_networks() -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {NETWORKS} "))
}

impl Podman {
    fn new() -> Self {
        let before = Leftovers::before();
        let podman = Self { folder: folder(), before, had_networks: has_networks() };
        let configuration = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n\
             [engine.runtimes]\nmote = [\"{}\"]\n",
            program().display()
        );
        fs::write(podman.path("containers.conf"), configuration).unwrap();
        podman.ok(&["load", "--quiet", "--input", &podman.path("image.tar")]);
        podman
    }

    fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut podman = Command::new("podman");
        podman.env("CONTAINERS_CONF", self.path("containers.conf")).env("TMPDIR", self.folder.path());
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "state")] {
            podman.args([option, &self.path(name)]);
        }
        // Of the storage drivers, this one mounts nothing.
        podman.args(["--storage-driver", "vfs", "--runtime", "mote"]);
        podman.args(["--runtime-flag", &format!("container-hypervisor={}", hypervisor())]).args(arguments);
        podman
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(&mut self.command(arguments))
    }

    /// `podman run` of the image.
    fn run(&self, options: &[&str], command: &[&str], input: &[u8]) -> Output {
        let mut podman = self.command(&["run", "--network", "none"]);
        run(podman.args(options).arg(IMAGE).args(command), input)
    }

    /// Starts a container called `c`.
    fn start(&self, options: &[&str], command: &[&str]) {
        let output = self.run(&[&["--detach", "--name", "c"], options].concat(), command, b"");
        assert_eq!(output.status, 0, "{output:?}");
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for what in ["pod", "container"] {
            run(&mut self.command(&[what, "rm", "--all", "--force", "--time", "0"]), b"");
        }
        if !self.had_networks && has_networks() {
            // Fails if somebody else has begun to use it.
            let _ = umount(NETWORKS);
        }
        leave(&self.folder, "libpod_parent", &self.before);
    }
}

#[test]
fn run_ends_as_its_program_does() {
    let podman = Podman::new();
    let output = podman.run(&["--rm", "-i"], &["sh", "-c", "cat; echo error >&2; exit 7"], b"input\n");
    assert_eq!((output.status, output.text().as_str()), (7, "input\n"), "{output:?}");
    assert!(output.stderr.contains("error\n"), "{output:?}");
    for (command, status) in [("/missing", 127), ("/srv/data", 126)] {
        let output = podman.run(&["--rm"], &[command], b"");
        assert_eq!(output.status, status, "{output:?}");
    }
    let output = podman.run(&["--rm"], &["ip", "address", "show", "up"], b"");
    assert!(output.text().contains("127.0.0.1/8") && !output.text().contains("\n2:"), "{output:?}");
    let command = ["run", "--network", "none", "--rm", "-it", IMAGE, "sh", "-c", "test -t 0 && cat"];
    type_a_line(&mut podman.command(&command), "typed\r\ntyped\r\n");
}

#[test]
fn a_container_is_entered_looked_at_and_stopped() {
    let podman = Podman::new();
    podman.start(&["--health-cmd", "test -e /healthy", "--health-interval", "disable"], &["sh", "-c", ASKED]);
    while podman.ok(&["logs", "c"]).is_empty() {
        podman.ok(&["exec", "c", "true"]);
    }
    assert_eq!(podman.ok(&["logs", "c"]), "started\n");
    assert_eq!(run(&mut podman.command(&["exec", "c", "sh", "-c", "exit 9"]), b"").status, 9);
    assert_eq!(run(&mut podman.command(&["exec", "-i", "c", "cat"]), b"in").text(), "in");
    let pid = podman.ok(&["inspect", "--format", "{{.State.Pid}}", "c"]);
    // Without options, what there is on the host; with those of ps, what there is in the guest.
    assert_eq!(podman.ok(&["top", "c", "pid"]), format!("PID\n{pid}"));
    assert!(podman.ok(&["top", "c", "-o", "pid,args"]).contains("1 sh -c trap"));
    assert_eq!(run(&mut podman.command(&["healthcheck", "run", "c"]), b"").status, 1);
    podman.ok(&["exec", "c", "touch", "/healthy"]);
    podman.ok(&["healthcheck", "run", "c"]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.Health.Status}}", "c"]), "healthy\n");
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.Status}}", "c"]), "paused\n");
    podman.ok(&["unpause", "c"]);
    podman.ok(&["stop", "--time", "1000", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "3\n");
    assert_eq!(podman.ok(&["logs", "c"]), "started\nasked\n");
    assert_eq!(
        podman.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "c"]),
        "exited 3\n"
    );
    podman.ok(&["start", "c"]);
    podman.ok(&["kill", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    podman.ok(&["rm", "c"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn a_container_without_memory_left_is_said_to_have_none() {
    let podman = Podman::new();
    let hungry = ["busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=50000000"];
    let options = ["run", "--network", "none", "--name", "c", "--memory", "32m", IMAGE];
    let mut command = podman.command(&[&options, hungry.as_slice()].concat());
    let output = run(command.current_dir(podman.folder.path()), b"");
    assert_eq!(output.status, 137, "{output:?}");
    let known = podman.ok(&["inspect", "--format", "{{.State.OOMKilled}}", "c"]) == "true\n";
    // The sign for it conmon leaves in its working folder, where not every podman looks.
    assert!(known || podman.folder.path().join("oom").exists());
}

#[test]
fn files_are_copied_and_become_an_image() {
    let podman = Podman::new();
    fs::create_dir(podman.folder.path().join("volume")).unwrap();
    let volume = format!("{}:/volume", podman.path("volume"));
    podman.start(&["--volume", &volume, "--tmpfs", "/memory"], &["sleep", "1000"]);
    let file = podman.path("copied");
    fs::write(&file, "from the host\n").unwrap();
    podman.ok(&["cp", &file, "c:/srv/copied"]);
    podman.ok(&["cp", &file, "c:/volume/copied"]);
    assert_eq!(
        podman.ok(&["exec", "c", "cat", "/srv/copied", "/volume/copied"]),
        "from the host\n".repeat(2)
    );
    assert!(!fs::exists("/srv/copied").unwrap(), "on the host");
    let output = run(&mut podman.command(&["cp", &file, "c:/memory/copied"]), b"");
    assert!(output.status != 0 && output.stderr.contains("read-only file system"), "{output:?}");
    podman.ok(&["exec", "c", "sh", "-c", "echo from the guest > /srv/made"]);
    podman.ok(&["cp", "c:/srv/made", &podman.path("back")]);
    assert_eq!(fs::read_to_string(podman.path("back")).unwrap(), "from the guest\n");
    podman.ok(&["commit", "--quiet", "c", "localhost/committed"]);
    let command =
        ["run", "--network", "none", "--rm", "localhost/committed", "cat", "/srv/data", "/srv/made"];
    assert_eq!(podman.ok(&command), "from the image\nfrom the guest\n");
}

#[test]
fn an_image_is_built() {
    let podman = Podman::new();
    let recipe = format!("FROM {IMAGE}\nRUN echo built > /srv/built\nCMD [\"cat\", \"/srv/built\"]\n");
    fs::write(podman.path("Containerfile"), recipe).unwrap();
    let context = ["--file", &podman.path("Containerfile"), &podman.path("")];
    let build = ["build", "--network", "none", "--isolation", "oci", "--tag", "localhost/built"];
    podman.ok(&[&build[..], &context[..]].concat());
    assert_eq!(podman.ok(&["run", "--network", "none", "--rm", "localhost/built"]), "built\n");
}

#[test]
fn a_pod_of_one_container_is_played() {
    let podman = Podman::new();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: pod}}\nspec:\n  containers:\n  - name: only\n    \
         image: {IMAGE}\n    command: [sh, -c, \"{ASKED}\"]\n"
    );
    let file = podman.path("pod.yaml");
    fs::write(&file, pod).unwrap();
    podman.ok(&["play", "kube", "--network", "none", &file]);
    assert_eq!(podman.ok(&["exec", "pod-only", "hostname"]), "pod\n");
    assert_eq!(podman.ok(&["pod", "inspect", "--format", "{{.State}}", "pod"]), "Running\n");
    while podman.ok(&["logs", "pod-only"]).is_empty() {
        podman.ok(&["exec", "pod-only", "true"]);
    }
    podman.ok(&["pod", "stop", "--time", "1000", "pod"]);
    assert_eq!(podman.ok(&["logs", "pod-only"]), "started\nasked\n");
    // Podman's own cleaning up may still be on its way, and what it unmounts cannot be removed meanwhile (podman issue 11594).
    let is_mounted = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().any(|mount| mount.contains(&podman.path("root")) && mount.contains("/userdata/shm "))
    };
    for _ in 0..20 {
        if is_mounted() {
            podman.ok(&["pod", "ps", "--quiet"]);
        }
    }
    podman.ok(&["play", "kube", "--down", &file]);
    assert_eq!(podman.ok(&["pod", "ps", "--quiet"]), "");
}
