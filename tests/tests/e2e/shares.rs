//! Folders and files of the host's in a guest: as good as its own, and nothing but what was shared.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use mote_tests::harness::{
    Leftovers, Output, children, collect, in_guest, mote_run, received, run, shell_status, temporary, text,
    wait,
};

/// Where checks find the program that makes them, and the folder that they are about.
const CHECK: &str = "/in-guest";
const FOLDER: &str = "/folder";

/// `mote run` with `source` as the folder of a check.
fn with_folder(source: &Path, options: &str) -> Command {
    let mut command = mote_run(&["-v", &format!("{}:{FOLDER}{options}", text(source))]);
    command.args(["-v", &format!("{}:{CHECK}:ro", text(&in_guest()))]);
    command
}

fn check_in(source: &Path, options: &str, name: &str) -> Output {
    run(with_folder(source, options).args(["--", CHECK, name, FOLDER]), b"")
}

/// Makes a check in a fresh folder, with each of the cache modes.
fn check(name: &str) {
    for options in ["", ":cache=none", ":cache=always"] {
        let folder = temporary();
        let output = check_in(folder.path(), options, name);
        assert_eq!((output.status, output.text().as_str()), (0, "ok\n"), "{name}{options}: {output:?}");
    }
}

fn sh_in(source: &Path, options: &str, script: &str) -> Output {
    run(with_folder(source, options).args(["--", "sh", "-c", script]), b"")
}

#[test]
fn attributes_are_as_on_any_file_system() {
    check("attributes");
}

#[test]
fn names_are_any_bytes() {
    check("names");
}

#[test]
fn files_are_renamed() {
    check("renames");
}

#[test]
fn removed_files_live_on_while_they_are_open() {
    check("removed");
}

#[test]
fn contents_are_what_was_written() {
    check("contents");
}

#[test]
fn holes_are_holes() {
    check("sparse");
}

#[test]
fn files_are_mapped_shared() {
    check("mapped");
}

#[test]
fn locks_lock() {
    check("locks");
}

#[test]
fn extended_attributes_and_access_lists() {
    check("extended");
}

#[test]
fn pipes_sockets_and_devices() {
    check("special");
}

#[test]
fn the_guest_sees_its_own_changes_with_inotify() {
    check("watched");
}

#[test]
fn users_of_the_guest_have_their_rights_and_no_more() {
    check("permissions");
}

#[test]
fn what_the_guest_makes_is_on_the_host() {
    let folder = temporary();
    let script = "echo text > /folder/file; chown 12:34 /folder/file; chmod 640 /folder/file; mkdir -p /folder/a/b; \
                  ln /folder/file /folder/a/b/link; ln -s ../file /folder/a/symbolic";
    let output = sh_in(folder.path(), "", script);
    assert_eq!(output.status, 0, "{output:?}");
    let file = folder.path().join("file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "text\n");
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (12, 34, 0o640));
    assert_eq!(fs::metadata(folder.path().join("a/b/link")).unwrap().ino(), metadata.ino());
    assert_eq!(fs::read_link(folder.path().join("a/symbolic")).unwrap(), Path::new("../file"));
}

#[test]
fn nothing_in_a_read_only_share_can_be_changed() {
    let folder = temporary();
    fs::write(folder.path().join("file"), "as it was").unwrap();
    fs::create_dir(folder.path().join("inner")).unwrap();
    let before = fs::metadata(folder.path().join("file")).unwrap();
    let output = check_in(folder.path(), ":ro", "unchangeable");
    assert_eq!((output.status, output.text().as_str()), (0, "ok\n"), "{output:?}");
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let after = fs::metadata(folder.path().join("file")).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "as it was");
    let all = |metadata: &fs::Metadata| (metadata.mode(), metadata.uid(), metadata.mtime(), metadata.ctime());
    assert_eq!(all(&before), all(&after));
}

/// Starts a guest that says `ready`, and goes on with each line that it gets.
struct Dialogue {
    child: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Dialogue {
    fn new(mut command: Command, script: &str) -> Self {
        let mut child = command
            .args(["--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        let stderr = collect(self.child.stderr.take());
        let status = shell_status(wait(&mut self.child));
        assert_eq!(status, 0, "{}", String::from_utf8_lossy(&received(&stderr)));
    }
}

#[test]
fn what_the_host_changes_is_seen_at_once() {
    let folder = temporary();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "one\n").unwrap();
    fs::create_dir(at("inner")).unwrap();
    fs::write(at("inner/kept"), "kept\n").unwrap();
    // Everything is looked at once before it changes, so that all that can be remembered is.
    let script = "cd /folder; show() { cat file 2>&1; ls -1 inner | tr '\\n' ' '; cat inner/kept 2>&1; }; \
                  show; while read -r line; do show; done";
    let mut guest = Dialogue::new(with_folder(folder.path(), ""), script);
    let shown = |guest: &mut Dialogue| (guest.hear(), guest.hear());
    assert_eq!(shown(&mut guest), ("one".into(), "kept kept".into()));
    // In place, with the same length.
    fs::write(at("file"), "two\n").unwrap();
    guest.say("");
    assert_eq!(shown(&mut guest).0, "two");
    // Longer, by appending.
    fs::OpenOptions::new().append(true).open(at("file")).unwrap().write_all(b"more\n").unwrap();
    guest.say("");
    assert_eq!(guest.hear(), "two");
    assert_eq!(guest.hear(), "more");
    guest.hear();
    // Replaced, as editors do, and things that come and go.
    fs::write(at("file.new"), "three\n").unwrap();
    fs::rename(at("file.new"), at("file")).unwrap();
    fs::write(at("inner/another"), "").unwrap();
    guest.say("");
    assert_eq!(shown(&mut guest), ("three".into(), "another kept kept".into()));
    // A folder that moves away, with another in its place.
    fs::rename(at("inner"), at("old")).unwrap();
    fs::create_dir(at("inner")).unwrap();
    fs::write(at("inner/kept"), "new\n").unwrap();
    fs::remove_file(at("file")).unwrap();
    guest.say("");
    let (file, inner) = shown(&mut guest);
    assert!(file.contains("No such file"), "{file}");
    assert_eq!(inner, "kept new");
    guest.end();
}

#[test]
fn links_lead_nowhere_but_into_the_guest() {
    let outside = temporary();
    let (shared, secret) = (outside.path().join("shared"), outside.path().join("secret"));
    fs::create_dir_all(shared.join("folder")).unwrap();
    fs::write(&secret, "of the host").unwrap();
    // Those of the host, and those that the guest plants.
    symlink(&secret, shared.join("absolute")).unwrap();
    symlink("../secret", shared.join("relative")).unwrap();
    symlink(outside.path(), shared.join("up")).unwrap();
    let script = format!(
        "cd /folder; ln -s {0} planted; ln -s ../../../../../../..{0} dots; ln -s /proc/1/root root; \
         for link in absolute relative up/secret planted dots root{0} folder/../../secret; do \
             cat $link 2>/dev/null && echo \"read $link\"; echo hacked 2>/dev/null > $link; done; \
         rm -rf folder; ln -s {1} folder; echo hacked 2>/dev/null > folder/secret; mkdir folder/new 2>/dev/null; \
         mkdir x && mv x .. 2>/dev/null; true",
        text(&secret),
        text(outside.path()),
    );
    let output = sh_in(&shared, "", &script);
    assert_eq!(output.status, 0, "{output:?}");
    assert!(!output.text().contains("of the host"), "{output:?}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
    let mut names: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| text(&entry.unwrap().file_name())).collect();
    names.sort();
    assert_eq!(names, ["secret", "shared"]);
}

#[test]
fn a_file_alone_can_be_shared() {
    let folder = temporary();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "first\n").unwrap();
    fs::write(at("neighbour"), "hidden\n").unwrap();
    fs::write(at("fixed"), "fixed\n").unwrap();
    let mut command = mote_run(&["-v", &format!("{}:/deep/in/guest", text(&at("file")))]);
    command.args(["-v", &format!("{}:/etc/passwd:ro", text(&at("fixed")))]);
    let script = "cat /deep/in/guest /etc/passwd; echo second >> /deep/in/guest; echo x 2>/dev/null >> /etc/passwd; \
                  ls /deep/in; chmod 600 /deep/in/guest; rm /deep/in/guest 2>/dev/null || echo stays";
    let output = run(command.args(["--", "sh", "-c", script]), b"");
    assert_eq!(output.text(), "first\nfixed\nguest\nstays\n", "{output:?}");
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "first\nsecond\n");
    assert_eq!(fs::metadata(at("file")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(at("fixed")).unwrap(), "fixed\n");
}

#[test]
fn several_shares_stay_apart() {
    let (one, two) = (temporary(), temporary());
    fs::write(one.path().join("file"), "one\n").unwrap();
    fs::write(two.path().join("file"), "two\n").unwrap();
    let volume = |folder: &Path, target: &str| format!("{}:{target}", text(folder));
    let mut command = mote_run(&["-v", &volume(one.path(), "/a/inner")]);
    command.args(["-v", &volume(two.path(), "/a"), "-v", &volume(one.path(), "/fixed:ro")]);
    let script = "cat /a/file /a/inner/file /fixed/file; stat -c %i /a/file /a/inner/file | uniq | wc -l; \
                  echo new > /a/inner/new; cat /fixed/new; echo x 2>/dev/null > /fixed/new || echo refused; \
                  mv /a/inner/new /a/moved && cat /a/moved";
    let output = run(command.args(["--", "sh", "-c", script]), b"");
    assert_eq!(output.text(), "two\none\none\n2\nnew\nrefused\nnew\n", "{output:?}");
    assert_eq!(fs::read_to_string(two.path().join("moved")).unwrap(), "new\n");
    assert!(two.path().join("inner").is_dir(), "the place of the inner volume is made in the outer one");
}

#[test]
fn a_folder_can_be_the_root() {
    let folder = temporary();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("busybox", root.join("bin/sh")).unwrap();
    fs::write(root.join("file"), "of the root\n").unwrap();
    let options = ["--rootfs", &text(&root), "--rootfs-mode", "virtiofs"];
    let script =
        "read line < /file; echo $line; echo changed > /file; read line < /file; echo $line; echo > /new";
    let output = run(mote_run(&options).args(["--", "sh", "-c", script]), b"");
    assert_eq!(output.text(), "of the root\nchanged\n", "{output:?}");
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "of the root\n");
    assert!(!root.join("new").exists());
    let file =
        run(mote_run(&["--rootfs", "/etc/passwd", "--rootfs-mode", "virtiofs"]).args(["--", "true"]), b"");
    file.assert_failed(125, &["/etc/passwd", "not a folder"]);
    run(mote_run(&["--rootfs-mode", "virtiofs"]).args(["--", "true"]), b"").assert_failed(125, &["--rootfs"]);
}

/// How many files the guest walks; far more than it may have descriptors on the host.
const FILES: usize = 100_000;
const DESCRIPTORS: usize = 2500;

#[test]
fn a_hundred_thousand_files_need_few_descriptors() {
    let folder = temporary();
    for outer in 0..100 {
        let outer = folder.path().join(format!("folder-{outer}"));
        fs::create_dir(&outer).unwrap();
        for inner in 0..FILES / 100 {
            fs::write(outer.join(format!("file-{inner}")), "").unwrap();
        }
    }
    let mote = with_folder(folder.path(), ":cache=always");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$@\""), "sh"]);
    command.arg(mote.get_program()).args(mote.get_args());
    let script = format!("ulimit -n 100000; {CHECK} crowd {FOLDER}; echo done; read -r line; true");
    let mut guest = Dialogue::new(command, &script);
    assert_eq!(guest.hear(), format!("{FILES} files"));
    assert_eq!(guest.hear(), "ok");
    assert_eq!(guest.hear(), "done");
    let [sandbox] = children(guest.child.id())[..] else { panic!("one sandbox process") };
    let descriptors = fs::read_dir(format!("/proc/{sandbox}/fd")).unwrap().count();
    assert!(descriptors < 700, "{descriptors} descriptors after all files were closed");
    guest.end();
}

#[test]
fn shares_leave_nothing_behind() {
    let folder = temporary();
    let before = Leftovers::before();
    assert_eq!(sh_in(folder.path(), "", "echo x > /folder/x; exec 5< /folder/x; exit 3").status, 3);
    before.check();
}

#[test]
fn volumes_that_are_none() {
    let folder = temporary();
    let with = |volume: &str| run(mote_run(&["-v", volume]).args(["--", "true"]), b"");
    let here = text(folder.path());
    with(&format!("{here}/missing:/x")).assert_failed(125, &["missing", "No such file"]);
    with(&format!("{here}:x")).assert_failed(125, &["absolute"]);
    with(&format!("{here}:/")).assert_failed(125, &["--rootfs"]);
    with(&format!("{here}:/x/../y")).assert_failed(125, &["'..'"]);
    with(&format!("{here}:/x:fast")).assert_failed(125, &["'fast'", "cache=auto"]);
    with("name:/x").assert_failed(125, &["named volumes"]);
    with("/dev/null:/x").assert_failed(125, &["/dev/null", "neither"]);
    with(&here).assert_failed(125, &["in the guest"]);
    let twice = format!("{here}:/x");
    let output = run(mote_run(&["-v", &twice, "-v", &twice]).args(["--", "true"]), b"");
    output.assert_failed(125, &["two volumes", "/x"]);
}
