//! The store: images as they came, and the root file systems made of them.
//!
//! ```text
//! oci-layout, index.json    the images, as an OCI image layout: other tools can read it
//! blobs/sha256/HEX          their manifests, configurations and layers, each once, named by its SHA-256
//! images/sha256-HEX.erofs   a root file system, named by the layers that it is made of, or, made of a folder, by its own SHA-256
//! folders/sha256-HEX        named by a folder's fingerprint; has one line: the digest of its root file system
//! tmp/                      what is being written, each locked by who writes it
//! lock                      locked by those who add, together, or by one who collects garbage, alone
//! index.lock                locked while index.json is changed
//! ```
//!
//! Whatever has its final name is complete and on disk. So a process can be killed, and a disk can fill up, at any moment.
//!
//! The store is its owner's alone (mode 0700): an image contains the set-user-id programs and the secrets of what it was made of.

pub(crate) mod blobs;
mod export;
mod folders;
mod garbage;
mod images;
pub(crate) mod index;
mod rootfs;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::digest::Digest;
use crate::error::Error;
use crate::job::Job;
use crate::staging;

pub use garbage::Removed;
pub use images::Image;
pub use rootfs::Rootfs;

/// The system's store, for root.
const SYSTEM_STORE: &str = "/var/lib/mote";

/// A store of images on disk. Any number of processes may use the same one.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

/// The right to add to the store: nothing is collected meanwhile.
#[derive(Debug)]
pub(crate) struct Adding {
    _lock: File,
}

impl Store {
    /// Where the store of the calling user is: `/var/lib/mote` for root; for others `mote` in `$XDG_DATA_HOME`, if
    /// that is an absolute path, and else in `~/.local/share`.
    ///
    /// # Errors
    ///
    /// [`Error::NoHome`], if the environment does not tell.
    pub fn default_location() -> Result<PathBuf, Error> {
        if geteuid().is_root() {
            return Ok(SYSTEM_STORE.into());
        }
        user_location(|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// Opens the store at `path`, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] or [`Error::NoSpace`], if it cannot be made; [`Error::Store`] also for root, if others may change what is in it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        if path.exists() {
            check_owner(&path).map_err(|source| Error::in_store(&path, &path, source))?;
        }
        for folder in ["blobs/sha256", "images", "folders", "tmp"] {
            let folder = path.join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|source| Error::in_store(&path, &folder, source))?;
        }
        let path = path.canonicalize().map_err(|source| Error::in_store(&path, &path, source))?;
        Ok(Self { path })
    }

    /// Where it is, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    fn image_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("images").join(format!("sha256-{}.erofs", digest.hex()))
    }

    /// An operation on `path`, in this store, failed.
    fn failed(&self, path: &Path) -> impl Fn(io::Error) -> Error {
        move |source| Error::in_store(&self.path, path, source)
    }

    /// Keeps the collector of garbage away until the result is dropped.
    pub(crate) fn adding(&self, job: &Job<'_>) -> Result<Adding, Error> {
        let (path, file) = self.lock_file("lock")?;
        staging::lock_shared(&file, &|| job.check()).map_err(|error| self.stopped(job, &path, error))?;
        Ok(Adding { _lock: file })
    }

    /// The file `name` of the store, to be locked.
    fn lock_file(&self, name: &str) -> Result<(PathBuf, File), Error> {
        let path = self.path.join(name);
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(self.failed(&path))?;
        Ok((path, file))
    }

    /// The error of an operation on `path`, which may have been stopped.
    fn stopped(&self, job: &Job<'_>, path: &Path, error: io::Error) -> Error {
        if job.is_stopped() { Error::Interrupted } else { self.failed(path)(error) }
    }

    /// Keeps the root file system at `path`, of this store, from being collected until the result is dropped. `None`, if it is
    /// gone already.
    ///
    /// # Errors
    /// [`Error::Store`], if it cannot be opened.
    pub fn hold(&self, path: &Path) -> Result<Option<File>, Error> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(self.failed(path))?,
        };
        staging::lock_shared(&file, &|| Ok(())).map_err(self.failed(path))?;
        let links = file.metadata().map_err(self.failed(path))?.nlink();
        Ok((links > 0).then_some(file))
    }
}

/// What root takes out of its store must be what root put in.
fn check_owner(path: &Path) -> io::Result<()> {
    let metadata = path.metadata()?;
    match metadata.uid() {
        _ if !geteuid().is_root() => Ok(()),
        0 if metadata.mode() & 0o022 == 0 => Ok(()),
        0 => Err(io::Error::other("others than root may write to it")),
        user => Err(io::Error::other(format!("it belongs to user {user}, not to root"))),
    }
}

/// The store of a user whose environment is `variable`.
fn user_location(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Error> {
    let data = variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let home = || variable("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".local/share"));
    data.or_else(home).map(|data| data.join("mote")).ok_or(Error::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_store_is_in_the_data_folder() {
        let location = |data: Option<&str>, home: Option<&str>| {
            user_location(|name| match name {
                "XDG_DATA_HOME" => data.map(PathBuf::from),
                "HOME" => home.map(PathBuf::from),
                other => panic!("{other}"),
            })
            .ok()
        };
        assert_eq!(location(Some("/data"), Some("/home/u")), Some("/data/mote".into()));
        assert_eq!(location(None, Some("/home/u")), Some("/home/u/.local/share/mote".into()));
        assert_eq!(location(Some("relative"), Some("/home/u")), Some("/home/u/.local/share/mote".into()));
        assert_eq!(location(Some(""), Some("")), None);
        assert_eq!(location(None, None), None);
    }
}
