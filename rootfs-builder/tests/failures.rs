//! Every failure has its own error and leaves the store as it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error as _;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use mote_rootfs_builder::{Error, Store};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, setfsuid};
use support::{Scene, is_root};

/// Packs a changed folder with `program`, which has to fail, in a store that has an image already.
fn fails(scene: &Scene, program: &Path) -> Error {
    scene.store().folder_image(&scene.folder()).unwrap();
    fs::write(scene.folder().join("more"), vec![1; 100_000]).unwrap();
    let before = scene.stored();
    let error = scene.store().with_mkfs(program).folder_image(&scene.folder()).unwrap_err();
    assert_eq!(scene.stored(), before);
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error
}

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
    if is_root() {
        for path in [scene.path(), &scene.folder(), &locked] {
            std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
        }
        setfsuid(nobody);
    }
    let error = |named: &Path| {
        let error = scene.store().folder_image(&scene.folder()).unwrap_err();
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
fn a_name_that_mkfs_would_cut_off_is_refused() {
    let scene = Scene::new();
    let long = scene.folder().join("n".repeat(255));
    fs::write(&long, "").unwrap();
    let error = scene.store().folder_image(&scene.folder()).unwrap_err();
    assert!(matches!(&error, Error::NameTooLong { path } if *path == long), "{error}");
    assert_eq!(scene.stored(), []);
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

#[test]
fn a_missing_mkfs_names_its_package() {
    let scene = Scene::new();
    let error = fails(&scene, Path::new("/nonexistent/mkfs.erofs"));
    assert!(matches!(error, Error::MkfsMissing { .. }), "{error}");
    assert!(error.to_string().contains("erofs-utils"), "{error}");
}

#[test]
fn a_failing_mkfs_is_quoted() {
    let scene = Scene::new();
    let script = scene.script("mkfs", "seq 100000 >&2; echo 'the last words' >&2; exit 3");
    let error = fails(&scene, &script);
    assert!(
        matches!(&error, Error::MkfsFailed { message, status, .. }
            if message == "99998; 99999; 100000; the last words" && status.code() == Some(3)),
        "{error}"
    );
    let error = fails(&scene, &scene.script("silent", "exit 1"));
    assert!(matches!(&error, Error::MkfsFailed { .. }), "{error}");
    let error = fails(&scene, &scene.script("nothing", "exit 0"));
    assert!(matches!(&error, Error::MkfsImage { .. }), "{error}");
}

#[test]
fn a_file_size_limit_is_a_failure() {
    let scene = Scene::new();
    // The kernel kills whoever goes beyond the limit, and fails the write of whoever ignores that.
    for (name, trap) in [("killed", ""), ("told", "trap '' XFSZ; ")] {
        let script = scene.script(name, &format!("{trap}ulimit -f 8; exec mkfs.erofs \"$@\""));
        let error = fails(&scene, &script);
        assert!(matches!(&error, Error::MkfsFailed { .. }), "{error}");
    }
}

#[test]
fn a_change_while_packing_is_noticed() {
    let scene = Scene::new();
    for (name, change) in [
        ("touch", "touch \"$folder/file\""),
        ("swap", "mv \"$folder/file\" \"$folder/x\"; mv \"$folder/x\" \"$folder/file\""),
        ("delete", "rm \"$folder/file\""),
    ] {
        let script = scene.script(name, &format!("mkfs.erofs \"$@\"; {change}"));
        let error = fails(&scene, &script);
        assert!(matches!(&error, Error::FolderChanged { .. }), "{name}: {error}");
        fs::write(scene.folder().join("file"), "content").unwrap();
    }
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
        for folder in ["images", "index", "tmp"] {
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
fn a_killed_process_takes_mkfs_with_it_and_its_rest_is_cleaned_up() {
    const SCENE: &str = "MOTE_TEST_KILLED_SCENE";
    let name = "a_killed_process_takes_mkfs_with_it_and_its_rest_is_cleaned_up";
    if let Some(path) = std::env::var_os(SCENE) {
        let path = Path::new(&path);
        let store = Store::open(path.join("store")).unwrap().with_mkfs(path.join("mkfs"));
        panic!("still alive: {:?}", store.folder_image(&path.join("folder")));
    }
    let scene = Scene::new();
    let [alive, never] = ["alive", "never"].map(|name| {
        let pipe = scene.path().join(name);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        pipe
    });
    // Holds a pipe open for as long as it lives, and waits on another one for what never comes.
    scene.script(
        "mkfs",
        &format!("exec 3>'{}'; echo started >&3; read -r _ <'{}'", alive.display(), never.display()),
    );
    let alive = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(alive).unwrap();
    let mut child = again(&mut Command::new("env"), name, SCENE, scene.path());
    assert_eq!(next(&alive), b"started\n");
    assert_eq!(scene.stored().len(), 1, "the temporary");

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(next(&alive), b"", "the program in the place of mkfs.erofs has ended");

    let image = scene.store().folder_image(&scene.folder()).unwrap();
    assert!(image.exists());
    assert!(scene.stored().iter().all(|(path, _)| !path.parent().unwrap().ends_with("tmp")));
}

/// Waits for what comes through `pipe`; nothing, when everyone who held its other end has died.
fn next(mut pipe: &File) -> Vec<u8> {
    let mut ends = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut ends, PollTimeout::from(20_000_u16)).unwrap();
    assert_eq!(ready, 1, "nothing came for 20 seconds");
    let mut bytes = vec![0; 100];
    let length = pipe.read(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}
