//! The default root file system: what is in it, and that it is the same wherever it is made.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_rootfs_builder::image;
use support::{erofs, run};

fn make(cache: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("default-rootfs");
    let printed = run("busybox-static", Command::new(script).env("XDG_CACHE_HOME", cache));
    PathBuf::from(printed.strip_suffix('\n').unwrap())
}

#[test]
fn the_default_rootfs_is_made_once_and_always_the_same() {
    let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let path = make(one.path());
    assert!(path.starts_with(one.path()));
    image::check(&path).unwrap();
    let made = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(make(one.path()), path);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);
    assert_eq!(fs::read(make(two.path())).unwrap(), fs::read(&path).unwrap());
    let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "nothing is left next to the image");

    let nodes = erofs::read(&path);
    assert!(nodes.values().all(|node| node.owner == (0, 0) && node.modified == (0, 0)));
    let node = |path: &str| nodes.get(path.as_bytes()).unwrap_or_else(|| panic!("{path}"));
    for (path, mode) in [
        ("", 0o40755),
        ("bin/busybox", 0o100_755),
        ("bin/sh", 0o120_777),
        ("usr/bin/env", 0o120_777),
        ("tmp", 0o41777),
        ("root", 0o40700),
        ("proc", 0o40755),
        ("etc/passwd", 0o100_644),
        ("etc/resolv.conf", 0o100_644),
    ] {
        assert_eq!(node(path).mode, mode, "{path}");
    }
    assert_eq!(node("bin/sh").content, b"/bin/busybox");
    assert!(node("bin/busybox").content.starts_with(b"\x7fELF"));
    assert!(node("etc/resolv.conf").content.is_empty());
}
