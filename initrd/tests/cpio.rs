//! Archives of random entries, unpacked by the program that everyone else unpacks them with.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use mote_initrd::{Archive, DeviceKind};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Folder,
    File(Vec<u8>),
    Link(Vec<u8>),
    Device { block: bool, major: u32, minor: u32 },
}

/// Path to permissions and kind; sorted, so that a folder comes before what lies in it.
type Tree = BTreeMap<Vec<u8>, (u32, Kind)>;

fn name() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = any::<u8>().prop_filter("a byte of a name", |byte| !matches!(byte, 0 | b'/'));
    prop_oneof![
        3 => "[a-c]".prop_map(String::into_bytes),
        2 => vec(any_byte, 1..20),
        1 => (200_usize..=255).prop_map(|length| vec![b'n'; length]),
    ]
    .prop_filter("a name", |name| name != b"." && name != b".." && name != b"TRAILER!!!")
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Folder),
        4 => vec(any::<u8>(), 0..5000).prop_map(Kind::File),
        2 => vec(1_u8.., 1..300).prop_map(Kind::Link),
        1 => (any::<bool>(), 0_u32..4096, 0_u32..1 << 20)
            .prop_map(|(block, major, minor)| Kind::Device { block, major, minor }),
    ]
}

/// A tree whose entries each lie in the root or in a folder of it. Owners may read and enter what is unpacked: that
/// leaves the comparison possible without privileges.
fn tree() -> impl Strategy<Value = Tree> {
    vec((any::<prop::sample::Index>(), name(), 0_u32..=0o7777, kind()), 0..30).prop_map(|entries| {
        let mut folders = vec![Vec::new()];
        let mut tree = Tree::new();
        for (parent, name, mode, kind) in entries {
            let parent = parent.get(&folders);
            let path = if parent.is_empty() { name } else { [parent, &b"/"[..], &name].concat() };
            if path.len() > 2000 || tree.contains_key(&path) {
                continue;
            }
            let mode = mode | if kind == Kind::Folder { 0o700 } else { 0o400 };
            if kind == Kind::Folder {
                folders.push(path.clone());
            }
            tree.insert(path, (mode, kind));
        }
        tree
    })
}

fn pack(tree: &Tree) -> Vec<u8> {
    let mut archive = Archive::new();
    for (path, (mode, kind)) in tree {
        match kind {
            Kind::Folder => archive.directory(path, *mode),
            Kind::File(bytes) => archive.file(path, *mode, bytes),
            Kind::Link(target) => archive.symlink(path, target),
            Kind::Device { block, major, minor } => {
                let kind = if *block { DeviceKind::Block } else { DeviceKind::Char };
                archive.device(path, *mode, kind, *major, *minor)
            }
        }
        .unwrap();
    }
    archive.finish()
}

fn cpio(arguments: &[&str], folder: &Path, archive: &[u8]) -> Vec<u8> {
    let mut child = Command::new("cpio")
        .args(arguments)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test runs the program cpio: install the package cpio");
    child.stdin.take().unwrap().write_all(archive).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "cpio: {}: {errors}", output.status);
    output.stdout
}

/// Reads back what was unpacked below `folder`.
fn read(root: &Path, folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let found = if kind.is_dir() {
            read(root, &path, tree);
            Kind::Folder
        } else if kind.is_file() {
            assert_eq!((metadata.nlink(), metadata.mtime()), (1, 0), "{path:?}");
            Kind::File(fs::read(&path).unwrap())
        } else if kind.is_symlink() {
            Kind::Link(fs::read_link(&path).unwrap().into_os_string().into_vec())
        } else {
            let number = metadata.rdev();
            let major = u32::try_from((number >> 8) & 0xfff).unwrap();
            let minor = u32::try_from((number & 0xff) | ((number >> 12) & 0xfff00)).unwrap();
            Kind::Device { block: kind.is_block_device(), major, minor }
        };
        tree.insert(name, (metadata.mode() & 0o7777, found));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cpio_unpacks_what_was_packed(mut tree in tree()) {
        let folder = tempfile::tempdir().unwrap();
        if fs::metadata(folder.path()).unwrap().uid() != 0 {
            // Only root makes device nodes; `cpio_lists_device_nodes` covers them for everybody.
            tree.retain(|_, (_, kind)| !matches!(kind, Kind::Device { .. }));
        }
        let archive = pack(&tree);
        prop_assert_eq!(archive.len() % 4, 0);
        prop_assert_eq!(&archive, &pack(&tree));
        cpio(&["-idm", "--quiet"], folder.path(), &archive);
        for (mode, kind) in tree.values_mut() {
            if matches!(kind, Kind::Link(_)) {
                *mode = 0o777;
            }
        }
        let mut unpacked = Tree::new();
        read(folder.path(), folder.path(), &mut unpacked);
        prop_assert_eq!(unpacked, tree);
    }
}

#[test]
fn cpio_lists_device_nodes() {
    let mut archive = Archive::new();
    archive.directory("dev", 0o755).unwrap();
    archive.device("dev/console", 0o600, DeviceKind::Char, 5, 1).unwrap();
    archive.device("dev/last", 0o660, DeviceKind::Block, 4095, 1_048_575).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let listing = cpio(&["-itvn", "--quiet"], folder.path(), &archive.finish());
    let lines: Vec<String> = OsStr::from_bytes(&listing)
        .to_str()
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
            "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
            "brw-rw---- 1 0 0 4095, 1048575 Jan 1 1970 dev/last",
        ]
    );
}
