//! What the tests share: a folder and a store to play with, and real programs to compare with.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part, and fails by panicking")]

pub(crate) mod erofs;
pub(crate) mod layout;
pub(crate) mod registry;
pub(crate) mod tree;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_rootfs_builder::Store;
use nix::libc;

/// A folder with one file to pack, and next to it a store.
pub(crate) struct Scene {
    temporary: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let scene = Self { temporary: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.folder()).unwrap();
        fs::write(scene.folder().join("file"), "content").unwrap();
        scene
    }

    pub(crate) fn path(&self) -> &Path {
        self.temporary.path()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.path().join("folder")
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(self.store_path()).unwrap()
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.path().join("store")
    }

    /// Every path in the store with its length, except for the locks and lists.
    pub(crate) fn stored(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        for folder in ["blobs/sha256", "images", "folders", "tmp"] {
            for entry in fs::read_dir(self.store_path().join(folder)).unwrap() {
                let entry = entry.unwrap();
                found.push((entry.path(), entry.metadata().unwrap().len()));
            }
        }
        found.sort();
        found
    }
}

/// Runs a program that must succeed, and returns its standard output.
pub(crate) fn run(package: &str, command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("this test runs {:?}, of the package {package}: {error}", command.get_program());
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Sets an extended attribute.
pub(crate) fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).unwrap(), CString::new(name).unwrap());
    // SAFETY: `path` and `name` end with a NUL, and `value` has the length that is given.
    let status =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(status, 0, "{name:?} of {path:?}: {}", io::Error::last_os_error());
}
