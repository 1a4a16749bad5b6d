//! Folders on disk in the form in which [`super::erofs`] gives images, to compare the two.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;

use super::erofs::Node;

/// Everything at and below `root`, by its path from there. Inode numbers are made small ones, so that files with several names
/// can be told.
pub(crate) fn read(root: &Path) -> BTreeMap<Vec<u8>, Node> {
    let mut nodes = BTreeMap::new();
    walk(root, root, &mut nodes);
    with_small_numbers(nodes)
}

/// Gives files numbers in the order of their first names; folders have no count of names.
pub(crate) fn with_small_numbers(mut nodes: BTreeMap<Vec<u8>, Node>) -> BTreeMap<Vec<u8>, Node> {
    let mut numbers = BTreeMap::new();
    for node in nodes.values_mut() {
        let next = numbers.len() as u64;
        node.inode = *numbers.entry(node.inode).or_insert(next);
        if node.mode & 0o170_000 == 0o040_000 {
            node.links = 0;
        }
    }
    nodes
}

fn walk(root: &Path, path: &Path, nodes: &mut BTreeMap<Vec<u8>, Node>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let node = Node {
        inode: metadata.ino(),
        mode: metadata.mode(),
        links: u32::try_from(metadata.nlink()).unwrap(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        device: metadata.rdev(),
        content: if metadata.is_file() {
            fs::read(path).unwrap()
        } else if metadata.is_symlink() {
            fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        },
        attributes: attributes(path),
    };
    nodes.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), node);
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(root, &entry.unwrap().path(), nodes);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0_u8; 65536];
    // SAFETY: `path` ends with a NUL, and the kernel writes at most `names.len()` bytes.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(length).unwrap());
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let text = CString::new(name).unwrap();
            let mut value = vec![0_u8; 65536];
            // SAFETY: `path` and `text` end with a NUL, and the kernel writes at most `value.len()` bytes.
            let length = unsafe {
                libc::lgetxattr(path.as_ptr(), text.as_ptr(), value.as_mut_ptr().cast(), value.len())
            };
            value.truncate(usize::try_from(length).unwrap());
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .collect()
}

/// Says where two trees differ, and fails if they do.
pub(crate) fn assert_same(actual: &BTreeMap<Vec<u8>, Node>, expected: &BTreeMap<Vec<u8>, Node>) {
    for (path, node) in expected {
        assert_eq!(actual.get(path), Some(node), "{}", String::from_utf8_lossy(path));
    }
    let names = |nodes: &BTreeMap<Vec<u8>, Node>| -> Vec<String> {
        nodes.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    };
    assert_eq!(names(actual), names(expected));
}
