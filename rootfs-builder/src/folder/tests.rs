//! What changes a fingerprint, and what does not.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn print(path: &Path) -> Fingerprint {
    let fingerprint = Folder::open(path).unwrap().fingerprint().unwrap();
    // As packing does: a change within the current tick would go unseen.
    fingerprint.outlast_tick().unwrap();
    fingerprint
}

#[test]
fn reading_leaves_the_fingerprint_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "one").unwrap();
    let before = print(folder.path());
    fs::read(folder.path().join("file")).unwrap();
    fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(print(folder.path()), before);
}

#[test]
fn every_change_changes_the_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::write(root.join("file"), "one").unwrap();
    let mut seen = vec![print(root)];
    let mut changed = |what: &str| {
        let now = print(root);
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    let modified = fs::metadata(root.join("file")).unwrap().modified().unwrap();
    fs::write(root.join("file"), "two").unwrap();
    let file = OpenOptions::new().write(true).open(root.join("file")).unwrap();
    file.set_modified(modified).unwrap();
    changed("content of the same length with the time set back");
    fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    changed("permissions");
    fs::rename(root.join("file"), root.join("other")).unwrap();
    changed("a name");
    fs::hard_link(root.join("other"), root.join("link")).unwrap();
    changed("a hard link");
    symlink("a", root.join("symlink")).unwrap();
    changed("a symbolic link");
    fs::remove_file(root.join("symlink")).unwrap();
    symlink("b", root.join("symlink")).unwrap();
    changed("its target");
    fs::create_dir(root.join("folder")).unwrap();
    changed("a folder");
    fs::write(root.join("folder/file"), "").unwrap();
    changed("a file in a folder");
    fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
    changed("the folder itself");
}

#[test]
fn entries_are_visited_in_the_order_of_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b", "a", "B", "a-b"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("x"), "").unwrap();
    }
    let folder = Folder::open(folder.path()).unwrap();
    let mut visited = Vec::new();
    folder
        .walk(|path, _| {
            visited.push(path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned());
            Ok::<(), Error>(())
        })
        .unwrap();
    assert_eq!(visited, ["", "B", "B/x", "a", "a/x", "a-b", "a-b/x", "b", "b/x"]);
}

#[test]
fn the_clock_of_stamps_moves_on() {
    let now = || {
        let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap();
        (now.tv_sec(), now.tv_nsec())
    };
    for _ in 0..20 {
        let newest_change = now();
        Fingerprint { digest: Digest::of(Sha256::new()), newest_change }.outlast_tick().unwrap();
        assert!(now() > newest_change);
    }
}
