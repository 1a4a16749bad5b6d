//! Wrong input: a clear line, the right status, nothing left behind.

use std::{fs, os::unix::net::UnixListener, path::Path, process::Command};

use mote_initrd::Archive;
use mote_tests::harness::{
    Bundle, Leftovers, Output, adopt_orphans, hypervisor, installed, mote_run, program, reap, run, temporary,
    text,
};
use nix::{sys::stat::Mode, unistd::mkfifo};

fn with(options: &[&str]) -> Output {
    let before = Leftovers::before();
    let output = run(mote_run(options).args(["--", "true"]), b"");
    before.check();
    output
}

#[test]
fn numbers_out_of_range() {
    with(&["--cpus", "0"]).assert_failed(125, &["--cpus", "0"]);
    with(&["--cpus", "33"]).assert_failed(125, &["--cpus", "33"]);
    with(&["--memory", "31m"]).assert_failed(125, &["32m"]);
    with(&["--memory", "lots"]).assert_failed(125, &["--memory"]);
    with(&["--memory", "900t"]).assert_failed(125, &["this host has only"]);
    with(&["--user", "none"]).assert_failed(125, &["--user", "none"]);
    with(&["--user", "0:none"]).assert_failed(125, &["--user", "none"]);
    let other = run(Command::new(program()).args(["run", "--hypervisor", "xen", "--", "true"]), b"");
    other.assert_failed(125, &["xen", "kvm"]);
    with(&["--no-such-option"]).assert_failed(125, &["--no-such-option"]);
    run(&mut mote_run(&[]), b"").assert_failed(125, &["IMAGE"]);
    run(mote_run(&["--pull", "never", "true"]).arg("x"), b"").assert_failed(125, &["true", "no such image"]);
}

#[test]
fn kernels_that_are_none() {
    let folder = temporary();
    let good = fs::read(installed("vmlinux")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        text(&path)
    };
    let mut other_machine = good.clone();
    other_machine[18] = 183; // aarch64
    for (kernel, word) in [
        (text(&folder.path().join("missing")), "no such file"),
        (
            file("text", b"not a kernel at all, but long enough to hold an ELF header and then some more"),
            "not an ELF file",
        ),
        (file("empty", b""), "not an ELF file"),
        (file("truncated", &good[..good.len() / 2]), "truncated"),
        (file("header-only", &good[..64]), "truncated"),
        (file("other", &other_machine), "another architecture"),
        (text(folder.path()), "a folder, not a file"),
    ] {
        let output = with(&["--kernel", &kernel]);
        output.assert_failed(125, &[word, &kernel]);
    }
}

#[test]
fn other_files_that_cannot_be_used() {
    with(&["--console", "/no/such/folder/log"]).assert_failed(125, &["/no/such/folder/log"]);
    with(&["--log", "/no/such/folder/log"]).assert_failed(125, &["/no/such/folder/log"]);
    with(&["--initrd", "/no/such/initrd"]).assert_failed(125, &["/no/such/initrd"]);
}

#[test]
fn pipes_sockets_and_devices_are_told_from_files_and_nobody_waits_for_them() {
    let folder = temporary();
    let at = |name: &str| text(&folder.path().join(name));
    mkfifo(Path::new(&at("pipe")), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for (path, kind) in [(at("pipe"), "a pipe"), (at("socket"), "a socket"), ("/dev/zero".into(), "a device")]
    {
        let not_a_file = format!("{path}: {kind}, not a file");
        with(&["--kernel", &path]).assert_failed(125, &[&not_a_file]);
        with(&["--initrd", &path]).assert_failed(125, &[&not_a_file]);
        with(&["--rootfs", &path]).assert_failed(125, &[&path, "not a regular file"]);
        with(&["--rootfs-mode", "virtiofs", "--rootfs", &path]).assert_failed(125, &[&path, "not a folder"]);
        with(&["-v", &format!("{path}:/there")]).assert_failed(125, &[&path]);
    }
    with(&["--log", &at("pipe")]).assert_failed(125, &["nobody reads it"]);
    with(&["--console", &at("pipe")]).assert_failed(125, &["nobody reads it"]);
}

#[test]
fn pipes_where_containers_have_their_files() {
    let before = Leftovers::before();
    let bundle = Bundle::new("exec sleep 1000");
    let pipe = bundle.path("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let refused = |word: &str| {
        let (status, said) = bundle.create_with("c", &[]);
        assert!(status == 1 && said.contains(word), "{said}");
    };
    let network = format!("\"path\": \"{}\", \"type\": \"network\"", text(&pipe));
    bundle.edit("\"type\": \"network\"", &network);
    refused(&text(&pipe));
    bundle.edit(&network, "\"type\": \"network\"");

    adopt_orphans();
    let pid = bundle.create("c");
    bundle
        .mote(&["exec", "--process", &text(&pipe), "c"])
        .assert_refused(255, "a pipe that nobody writes to");
    bundle
        .mote(&["update", "--resources", &text(&pipe), "c"])
        .assert_refused(1, "a pipe that nobody writes to");
    bundle.ok(&["delete", "--force", "c"]);
    reap(pid);

    fs::remove_file(bundle.path("config.json")).unwrap();
    fs::rename(&pipe, bundle.path("config.json")).unwrap();
    refused("a pipe, not a file");
    drop(bundle);
    before.check();
}

#[test]
fn a_hypervisor_that_is_not_there() {
    if hypervisor() == "kvm" {
        // The lab has no QEMU.
        let output = run(Command::new(program()).args(["run", "--hypervisor", "qemu", "--", "true"]), b"");
        output.assert_failed(125, &["qemu-system-x86_64 is not installed", "qemu-system-x86"]);
        return;
    }
    let output = run(
        Command::new(program()).env("PATH", "/nowhere").args(["run", "--hypervisor", "qemu", "--", "true"]),
        b"",
    );
    output.assert_failed(125, &["qemu-system-x86_64 is not installed"]);
    // Where KVM runs real guests, asking for it is no error.
    let check = run(Command::new(program()).arg("check"), b"").text();
    let forced = run(Command::new(program()).args(["run", "--hypervisor", "kvm", "--", "true"]), b"");
    if check.contains("runs real guests") {
        assert_eq!(forced.status, 0, "{forced:?}");
    } else {
        forced.assert_failed(125, &["KVM is not usable here", "/dev/kvm"]);
    }
}

/// Boots an initial ramdisk whose `/init` is a shell script.
fn boot_script(script: &str) -> Output {
    let folder = temporary();
    let initrd = folder.path().join("initrd");
    let mut archive = Archive::new();
    archive.directory("bin", 0o755).unwrap();
    archive.file("bin/busybox", 0o755, &fs::read("/bin/busybox").unwrap()).unwrap();
    archive.file("init", 0o755, format!("#!/bin/busybox sh\n{script}\n").as_bytes()).unwrap();
    fs::write(&initrd, archive.finish()).unwrap();
    with(&["--initrd", &text(&initrd)])
}

#[test]
fn guests_that_end_too_early_are_told_apart() {
    boot_script("exec /bin/busybox poweroff -f")
        .assert_failed(125, &["powered off before its agent was ready"]);
    boot_script("exec /bin/busybox reboot -f").assert_failed(125, &["rebooted before its agent was ready"]);
    // A panic shows the kernel's last words.
    boot_script("exit 3")
        .assert_failed(125, &["panicked before its agent was ready", "Attempted to kill init"]);
}
