//! Images: imported, and run as they say.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mote_tests::harness::{Leftovers, Output, hypervisor, program, run, shell_status, temporary, text, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tar::EntryType;

use crate::archive::{Layer, save, sha256};

/// Content of which every block is another one.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at / 97 + at / 4096) % 251).unwrap()).collect()
}

/// Lengths around those at which content goes from beside the inode to blocks.
const LENGTHS: [usize; 9] = [0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 1_000_000];

/// An archive of `docker save` with an image of two layers that uses everything.
fn archive(folder: &Path) -> PathBuf {
    const NAMES: &[&str] =
        &["sh", "cat", "id", "env", "stat", "sha256sum", "ls", "wc", "pwd", "sleep", "touch", "tail", "dd"];
    let below = Layer::new()
        .busybox(NAMES)
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nweb:x:34:\nlog:x:40:web\n")
        .add(EntryType::Directory, "data", 0o700, 33, "", b"")
        .file("data/seed", b"seed\n")
        .file("gone", b"")
        .add(EntryType::Symlink, "usr", 0o777, 0, "./", b"")
        .add(EntryType::Regular, "special", 0o6755, 33, "", b"s")
        .add(EntryType::Link, "linked", 0o6755, 33, "special", b"")
        .add(EntryType::Char, "zero", 0o666, 0, "", b"");
    let mut above = Layer::new().file(".wh.gone", b"").file("usr/new", b"through a link\n");
    for length in LENGTHS {
        above = above.file(&format!("content/{length}"), &content(length));
    }
    for number in 0..1500 {
        above = above.file(&format!("many/a-file-with-a-rather-long-name-{number}"), b"x");
    }
    let config = json!({
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["id; echo $GREETING-$HOME; pwd"],
        "Env": ["GREETING=hello", "PATH=/bin"],
        "WorkingDir": "/work/made",
        "User": "web",
        "StopSignal": "SIGUSR1",
        "Volumes": { "/data": {} },
        "Labels": { "a": "label" },
    });
    let path = folder.join("app.tar");
    save(&path, "localhost/app:1", &config, vec![below, above]);
    path
}

/// A store that has the image `localhost/app:1`.
struct Imported {
    folder: tempfile::TempDir,
}

impl Imported {
    fn new() -> Self {
        let imported = Self { folder: temporary() };
        let path = archive(imported.folder.path());
        let output = imported.image(&["import", &text(&path)]);
        assert_eq!(output.status, 0, "{output:?}");
        assert_eq!(output.text().trim().len(), 64, "{output:?}");
        imported
    }

    fn store(&self) -> String {
        text(&self.folder.path().join("store"))
    }

    fn image(&self, arguments: &[&str]) -> Output {
        run(Command::new(program()).args(["image", "--store", &self.store()]).args(arguments), b"")
    }

    /// `mote run` of the image, with options before its name and a command behind it.
    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut mote = Command::new(program());
        mote.args(["run", "--hypervisor", &hypervisor(), "--store", &self.store(), "--pull", "never"]);
        mote.args(options).arg("app:1").args(command);
        mote
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Output {
        let before = Leftovers::before();
        let output = run(&mut self.command(options, command), b"");
        before.check();
        output
    }
}

#[test]
fn an_image_runs_as_it_says() {
    let app = Imported::new();
    let own = app.run(&[], &[]);
    assert_eq!(own.text(), "uid=33(web) gid=34(web) groups=40(log)\nhello-/srv/web\n/work/made\n", "{own:?}");
    // Without a command of its own, and with everything overruled.
    let options = ["-e", "GREETING=bye", "-w", "/data", "-u", "0", "--entrypoint", "/bin/sh"];
    let other = app.run(&options, &["-c", "id -u; echo $GREETING-$HOME; pwd; cat seed", "--", "-x"]);
    assert_eq!(other.text(), "0\nbye-/root\n/data\nseed\n", "{other:?}");
    app.run(&["-u", "nobody"], &[]).assert_failed(125, &["nobody"]);
    let by_number = app.run(&["-u", "5:web"], &["id"]);
    assert_eq!(by_number.text(), "uid=5 gid=34(web)\n", "{by_number:?}");
}

#[test]
fn the_guest_sees_what_was_in_the_layers() {
    let app = Imported::new();
    let script = "cat /new; ls /gone 2>/dev/null; stat -c '%n %a %u %g %h %Y %F' /special /linked /zero /data; \
                  ls /many | wc -l; cat /many/* | wc -c; sha256sum /content/*; dd if=/zero count=1 2>/dev/null | wc -c";
    let output = app.run(&["-u", "0"], &[script]);
    let mut expected = "through a link\n\
                        /special 6755 33 33 2 1000000000 regular file\n\
                        /linked 6755 33 33 2 1000000000 regular file\n\
                        /zero 666 0 0 1 1000000000 character special file\n\
                        /data 700 33 33 2 1000000000 directory\n\
                        1500\n1500\n"
        .to_owned();
    let mut lengths = LENGTHS.map(|length| length.to_string());
    lengths.sort();
    for length in lengths {
        let digest = sha256(&content(length.parse().unwrap()));
        expected += &format!("{digest}  /content/{length}\n");
    }
    expected += "512\n";
    assert_eq!(output.text(), expected, "{output:?}");
}

#[test]
fn volumes_are_written_to_even_in_a_read_only_root() {
    let app = Imported::new();
    let script = "touch /x; cat /data/seed; echo more >> /data/seed && tail -n 1 /data/seed";
    let output = app.run(&["--read-only"], &[script]);
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
    // The file is root's, and the folder the user's.
    assert!(output.stderr.contains("seed: Permission denied"), "{output:?}");
    let output = app.run(&["--read-only", "-u", "0"], &[script]);
    assert_eq!(output.text(), "seed\nmore\n", "{output:?}");
    assert_eq!(app.run(&[], &["cat /data/seed"]).text(), "seed\n", "and it is forgotten");
}

#[test]
fn who_is_asked_to_end_gets_the_image_s_stop_signal() {
    let app = Imported::new();
    let script = "trap 'echo stopped; exit 7' USR1; echo ready; while :; do sleep 1; done";
    let mut child = app.command(&[], &[script]).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(shell_status(wait(&mut child)), 7);
    assert_eq!(lines.next().unwrap().unwrap(), "stopped");
}

#[test]
fn images_are_listed_inspected_exported_and_removed() {
    let app = Imported::new();
    let list = app.image(&["list"]).text();
    let mut lines = list.lines();
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
        "REPOSITORY TAG IMAGE ID CREATED SIZE"
    );
    let line = lines.next().unwrap();
    assert!(line.starts_with("localhost/app  1  ") && lines.next().is_none(), "{list}");
    let json = app.image(&["list", "--format", "json"]).text();
    assert!(json.contains("\"localhost/app:1\"") && json.contains("\"a\": \"label\""), "{json}");
    let inspected: serde_json::Value =
        serde_json::from_str(&app.image(&["inspect", "app:1"]).text()).unwrap();
    assert_eq!(inspected[0]["Config"]["WorkingDir"], "/work/made");
    assert_eq!(inspected[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    let id = inspected[0]["Id"].as_str().unwrap();

    let exported = text(&app.folder.path().join("exported.tar"));
    assert_eq!(app.image(&["export", "app:1", "--output", &exported]).status, 0);
    let removed = app.image(&["remove", "app:1"]).text();
    assert_eq!(removed, format!("Untagged: localhost/app:1\nDeleted: {id}\n"));
    app.run(&[], &[]).assert_failed(125, &["app:1", "no such image"]);
    app.image(&["inspect", "app:1"]).assert_failed(125, &["app:1", "no such image"]);
    // From a pipe, as an archive that another program writes.
    let mut import = Command::new(program());
    import.args(["image", "--store", &app.store(), "import", "-q", "-"]);
    let output = run(&mut import, &fs::read(exported).unwrap());
    assert_eq!(output.text().trim(), id, "{output:?}");
    assert_eq!(app.run(&[], &["echo back"]).text(), "back\n");
    assert_eq!(app.image(&["prune", "--all"]).status, 0);
    assert_eq!(app.image(&["list", "--quiet"]).text(), "");
}

#[test]
fn an_image_that_runs_is_not_removed() {
    let app = Imported::new();
    let mut child = app.command(&[], &["echo ready; read line"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    app.image(&["remove", "app:1"]).assert_failed(125, &["app:1", "in use"]);
    assert!(app.image(&["prune", "--all"]).text().contains("Freed: 0 B"));
    drop(child.stdin.take());
    wait(&mut child);
    assert_eq!(app.image(&["remove", "app:1"]).status, 0);
}
