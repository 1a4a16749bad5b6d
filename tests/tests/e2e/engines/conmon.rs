//! conmon, called as podman and CRI-O call it.

use std::{
    fs,
    io::{BufRead, BufReader, pipe},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
};

use mote_tests::harness::{Bundle, Leftovers, adopt_orphans, hypervisor, program, text, wait};

/// Where conmon reports to.
const REPORT_FD: i32 = 3;

/// Starts conmon for a bundle's container; it stays our child. Returns it, and what it reports first.
fn conmon(bundle: &Bundle, id: &str, options: &[&str]) -> (Child, serde_json::Value) {
    let path = |name: &str| text(&bundle.path(name));
    let (reader, writer) = pipe().unwrap();
    let mut conmon = Command::new("conmon");
    conmon.args(["--sync", "--api-version", "1", "--cid", id, "--cuuid", id, "--name", id]);
    conmon.args(["--runtime", &text(&program())]);
    let hypervisor = format!("--container-hypervisor={}", hypervisor());
    for argument in [format!("--root={}", path("state")), hypervisor] {
        conmon.args(["--runtime-arg", &argument]);
    }
    conmon.args(["--bundle", &path(""), "--log-path", &format!("k8s-file:{}", path("log"))]);
    conmon.args(["--exit-dir", &path("exits"), "--socket-dir-path", &path("sockets")]).args(options);
    conmon.env("_OCI_SYNCPIPE", REPORT_FD.to_string());
    conmon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let descriptor = writer.as_raw_fd();
    // SAFETY: the closure makes one system call between fork and exec, on descriptors that are open.
    unsafe {
        conmon.pre_exec(move || match nix::libc::dup2(descriptor, REPORT_FD) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let child = conmon.spawn().unwrap();
    drop(writer);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}")))
}

/// What the log has of a container's stream, which it says with each line.
fn logged(bundle: &Bundle, stream: &str) -> String {
    let log = fs::read_to_string(bundle.path("log")).unwrap();
    let marked = format!(" {stream} F ");
    log.lines().filter_map(|line| Some(line.split_once(&marked)?.1.to_owned() + "\n")).collect()
}

#[test]
fn a_container_is_created_logged_and_its_status_kept() {
    adopt_orphans();
    let before = Leftovers::before();
    let bundle = Bundle::new("echo out; echo error >&2; exit 5");
    fs::create_dir(bundle.path("exits")).unwrap();
    fs::create_dir(bundle.path("sockets")).unwrap();
    let (mut child, report) =
        conmon(&bundle, "mote-conmon", &["--container-pidfile", &text(&bundle.path("pid"))]);
    assert_eq!(report["data"], bundle.pid("pid"), "{report}");
    assert_eq!(bundle.status("mote-conmon"), "created");
    bundle.ok(&["start", "mote-conmon"]);
    wait(&mut child);
    assert_eq!(fs::read_to_string(bundle.path("exits/mote-conmon")).unwrap(), "5");
    assert_eq!((logged(&bundle, "stdout"), logged(&bundle, "stderr")), ("out\n".into(), "error\n".into()));
    bundle.ok(&["delete", "mote-conmon"]);
    drop(bundle);
    before.check();
}
