//! Every failure has its own error and leaves the store as it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use mote_rootfs_builder::{Error, Store};
use nix::unistd::{Uid, setfsuid};
use support::{Scene, is_root};

#[test]
fn a_folder_that_cannot_be_packed_is_named() {
    let scene = Scene::new();
    let error = |path: &Path| scene.store().folder_image(path).unwrap_err();
    let missing = error(&scene.path().join("none"));
    assert!(matches!(&missing, Error::FolderMissing { path } if path.ends_with("none")), "{missing}");
    let file = error(&scene.folder().join("file"));
    assert!(matches!(&file, Error::NotAFolder { path } if path.ends_with("file")), "{file}");
    let below = error(&scene.folder().join("file/below"));
    assert!(matches!(&below, Error::NotAFolder { .. }), "{below}");
    fs::create_dir(scene.path().join("empty")).unwrap();
    let empty = error(&scene.path().join("empty"));
    assert!(matches!(&empty, Error::FolderEmpty { path } if path.ends_with("empty")), "{empty}");
    symlink("round", scene.path().join("round")).unwrap();
    let round = error(&scene.path().join("round"));
    assert!(matches!(&round, Error::Unreadable { .. }), "{round}");
    assert_eq!(scene.stored(), []);
}

#[test]
fn a_store_does_not_go_into_its_own_image() {
    let scene = Scene::new();
    let error = scene.store().folder_image(scene.path()).unwrap_err();
    assert!(matches!(error, Error::StoreInFolder { .. }), "{error}");
}

#[test]
fn what_cannot_be_read_is_named() {
    // Root reads everything: this thread becomes somebody else, as far as files are concerned.
    let scene = Scene::new();
    let locked = scene.folder().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::write(locked.join("file"), "").unwrap();
    let nobody = Uid::from_raw(65_534);
    // Opened before it is given away: root would not use it.
    let store = scene.store();
    if is_root() {
        let status = Command::new("chown").args(["-R", "65534"]).arg(scene.path()).status().unwrap();
        assert!(status.success());
        setfsuid(nobody);
    }
    let error = |named: &Path| {
        let error = store.folder_image(&scene.folder()).unwrap_err();
        assert!(matches!(&error, Error::Unreadable { path, .. } if path == named), "{error}");
        assert_eq!(scene.stored(), []);
    };
    for mode in [0o000, 0o444] {
        fs::set_permissions(&locked, fs::Permissions::from_mode(mode)).unwrap();
        error(if mode == 0 { locked.clone() } else { locked.join("file") }.as_path());
    }
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    let secret = scene.folder().join("secret");
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    error(&secret);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let scene = Scene::new();
    let error = Store::open(scene.folder().join("file/store")).unwrap_err();
    assert!(matches!(&error, Error::Store { .. }), "{error}");
    assert!(error.source().is_some());
    if is_root() {
        for path in [scene.path(), &scene.folder()] {
            std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
        }
        setfsuid(Uid::from_raw(65_534));
    }
    let store = scene.store();
    let tmp = scene.store_path().join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o500)).unwrap();
    let error = store.folder_image(&scene.folder()).unwrap_err();
    assert!(matches!(&error, Error::Store { path, .. } if *path == tmp), "{error}");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(scene.stored(), []);
}

/// Runs the test `name` again as a process of its own, through `command` and with `variable` set to `value`.
fn again(command: &mut Command, name: &str, variable: &str, value: &Path) -> std::process::Child {
    command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(variable, value)
        .spawn()
        .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

#[test]
fn a_full_disk_is_named_as_such() {
    const STORE: &str = "MOTE_TEST_FULL_STORE";
    let name = "a_full_disk_is_named_as_such";
    if let Some(path) = std::env::var_os(STORE) {
        full_disk(Path::new(&path));
        return;
    }
    // A small file system that nobody else sees, and that ends with the process.
    let mount_point = tempfile::tempdir().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let status = again(&mut unshare, name, STORE, mount_point.path()).wait().unwrap();
    assert!(status.success(), "in a mount namespace of its own: {status}");
}

fn full_disk(path: &Path) {
    use nix::mount::{MsFlags, mount};
    let size = |size: &str, flags| {
        mount(Some("none"), path, Some("tmpfs"), flags, Some(size)).unwrap();
    };
    size("size=256k", MsFlags::empty());
    let store = Store::open(path.join("store")).unwrap();
    let scene = Scene::new();
    let small = store.folder_image(&scene.folder()).unwrap();
    fs::write(scene.folder().join("large"), vec![1; 1 << 20]).unwrap();
    let listing = || {
        let mut found = Vec::new();
        for folder in ["blobs/sha256", "images", "folders", "tmp"] {
            let entries = fs::read_dir(path.join("store").join(folder)).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found.sort();
        found
    };
    let before = listing();
    let error = store.folder_image(&scene.folder()).unwrap_err();
    assert!(matches!(&error, Error::NoSpace { store, .. } if store.starts_with(path)), "{error}");
    assert_eq!(listing(), before);

    // Room for the image alone, and not one block more for its index entry: an operation of this process fails.
    let large = image_length(&scene);
    let used = fs::metadata(&small).unwrap().len() + 4096;
    size(&format!("size={}", large + used), MsFlags::MS_REMOUNT);
    let error = store.folder_image(&scene.folder()).unwrap_err();
    assert!(matches!(&error, Error::NoSpace { .. }), "{error}");
    assert_eq!(listing(), before);

    size("size=8m", MsFlags::MS_REMOUNT);
    store.folder_image(&scene.folder()).unwrap();
    assert_eq!(listing().len(), before.len() + 2);
}

/// The bytes that the image of the scene's folder has.
fn image_length(scene: &Scene) -> u64 {
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    fs::metadata(image).unwrap().len()
}

#[test]
fn what_a_killed_process_left_does_no_harm() {
    let scene = Scene::new();
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    let whole = fs::read(&image).unwrap();
    // It was killed while it packed: the temporary is there, and neither the image nor its entry.
    for (path, _) in scene.stored() {
        if path.parent().unwrap().ends_with("folders") {
            let fingerprint = path.file_name().unwrap().to_str().unwrap().replace("sha256-", "folder-");
            fs::write(scene.store_path().join("tmp").join(fingerprint), vec![7; 1 << 20]).unwrap();
        }
        fs::remove_file(path).unwrap();
    }
    assert_eq!(scene.store().folder_image(&scene.folder()).unwrap(), image);
    assert_eq!(fs::read(&image).unwrap(), whole);
    fs::write(scene.store_path().join("tmp/blob-of-another"), "part").unwrap();
    assert_eq!(scene.stored().len(), 3);
    let removed = scene.store().prune(false).unwrap();
    assert_eq!((removed.freed, scene.stored().len()), (4, 2));
    // With everything else goes what was made of folders, but not what is held.
    let held = scene.store().hold(&image).unwrap();
    scene.store().prune(true).unwrap();
    assert_eq!(scene.stored().len(), 1);
    drop(held);
    scene.store().prune(true).unwrap();
    assert_eq!(scene.stored(), []);
    assert!(scene.store().hold(&image).unwrap().is_none());
}
