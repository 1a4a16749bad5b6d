//! The store: images by the digest of their bytes, and an index that leads to them.
//!
//! ```text
//! images/sha256-HEX.erofs   an image, named by its own SHA-256
//! index/sha256-HEX          named by a folder's fingerprint; has one line: the image's sha256-HEX
//! tmp/                      what is being written; belongs to the holder of the lock
//! lock                      locked (flock) while one process packs
//! ```
//!
//! The store is its owner's alone (mode 0700): an image contains the set-user-id programs and the secrets of the
//! folder that it was made of.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::digest::Digest;
use crate::erofs;
use crate::error::Error;
use crate::folder::{Fingerprint, Folder};
use crate::image;
use crate::staging::{self, Staged};

/// The system's store, for root.
const SYSTEM_STORE: &str = "/var/lib/mote";
/// The program that packs images, looked up in `PATH`.
const MKFS: &str = "mkfs.erofs";

/// A store of images on disk. Any number of processes may use the same one.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    mkfs: PathBuf,
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
    /// [`Error::Store`] or [`Error::NoSpace`], if it cannot be made.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        for folder in ["images", "index", "tmp"] {
            let folder = path.join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|source| Error::in_store(&path, &folder, source))?;
        }
        let path = path.canonicalize().map_err(|source| Error::in_store(&path, &path, source))?;
        Ok(Self { path, mkfs: MKFS.into() })
    }

    /// Packs with `program`, which takes the options of `mkfs.erofs`, instead of the `mkfs.erofs` in `PATH`.
    #[must_use]
    pub fn with_mkfs(mut self, program: impl Into<PathBuf>) -> Self {
        self.mkfs = program.into();
        self
    }

    /// The image of `folder`, absolute: the one in the store, if the folder has not changed since that was made, and
    /// else a new one.
    ///
    /// Whether it has changed is told from a walk over the tree that opens no file. The path is that of a read-only
    /// file named by its content, so equal folders share an image. Owners, modes, modification times, extended
    /// attributes, hard links, device nodes, pipes and sockets are kept as they are, and mount points are followed.
    /// A sparse file takes its full length.
    ///
    /// A folder that changes while it is packed gives [`Error::FolderChanged`] and no image; it is for the caller to
    /// decide whether to try again. As any exchange of a file for another one is such a change, whoever can write to
    /// the folder cannot bring in a file from outside of it.
    ///
    /// One process packs at a time, so the call may wait for another one's packing.
    ///
    /// # Errors
    ///
    /// See [`Error`]. The store is then as it was before.
    pub fn folder_image(&self, folder: &Path) -> Result<PathBuf, Error> {
        let folder = Folder::open(folder)?;
        if self.path.starts_with(folder.path()) {
            return Err(Error::StoreInFolder {
                store: self.path.clone(),
                folder: folder.path().to_path_buf(),
            });
        }
        if let Some(image) = self.look_up(&folder.fingerprint()?) {
            return Ok(image);
        }
        // Released when dropped, or by the kernel when this process ends.
        let _lock = self.lock()?;
        // Another process may have packed the folder, or changed it, while this one waited.
        let fingerprint = folder.fingerprint()?;
        match self.look_up(&fingerprint) {
            Some(image) => Ok(image),
            None => self.pack(&folder, &fingerprint),
        }
    }

    /// Packs `folder`. The caller holds the lock.
    fn pack(&self, folder: &Folder, before: &Fingerprint) -> Result<PathBuf, Error> {
        let tmp = self.path.join("tmp");
        let tmp_error = |source| Error::in_store(&self.path, &tmp, source);
        staging::clean(&tmp).map_err(tmp_error)?;
        folder.check_packable()?;
        before.outlast_tick().map_err(|source| Error::unreadable(folder.path(), source))?;

        let image = Staged::new(&tmp, "image").map_err(tmp_error)?;
        erofs::pack(&self.mkfs, folder.path(), image.path(), &self.path)?;
        if folder.fingerprint()? != *before {
            return Err(Error::FolderChanged { path: folder.path().to_path_buf() });
        }
        image.settle().map_err(tmp_error)?;
        let digest =
            File::open(image.path()).and_then(|mut file| Digest::of_file(&mut file)).map_err(tmp_error)?;
        let entry = Staged::with(&tmp, "index", format!("{digest}\n").as_bytes()).map_err(tmp_error)?;
        self.publish(image, entry, &digest, before)
    }

    /// Gives `image` and then its index `entry` their names. Both are on disk by now.
    fn publish(
        &self,
        image: Staged,
        entry: Staged,
        digest: &Digest,
        fingerprint: &Fingerprint,
    ) -> Result<PathBuf, Error> {
        let image_path = self.image_path(digest);
        // An equal folder gave the same image before.
        let is_new = image::check(&image_path).is_err();
        if is_new {
            image.publish(&image_path).map_err(|source| {
                self.withdraw(&image_path, Error::in_store(&self.path, &image_path, source))
            })?;
        }
        let entry_path = self.index_path(fingerprint);
        if let Err(source) = entry.publish(&entry_path) {
            let error = Error::in_store(&self.path, &entry_path, source);
            return Err(if is_new { self.withdraw(&image_path, error) } else { error });
        }
        Ok(image_path)
    }

    /// Takes back an image that was published in an attempt which then failed with `error`.
    fn withdraw(&self, image: &Path, error: Error) -> Error {
        // If even this fails, then a complete image stays that nothing leads to: it does no harm.
        let _ = fs::remove_file(image);
        error
    }

    /// The image that the index has for `fingerprint`. An entry that leads nowhere counts as none, as packing again
    /// replaces it.
    fn look_up(&self, fingerprint: &Fingerprint) -> Option<PathBuf> {
        let entry = fs::read_to_string(self.index_path(fingerprint)).ok()?;
        let image = self.image_path(&Digest::parse(entry.strip_suffix('\n')?)?);
        image::check(&image).is_ok().then_some(image)
    }

    fn lock(&self) -> Result<File, Error> {
        let path = self.path.join("lock");
        let lock = || -> io::Result<File> {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            while let Err(error) = file.lock() {
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(file)
        };
        lock().map_err(|source| Error::in_store(&self.path, &path, source))
    }

    fn image_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("images").join(format!("{digest}.erofs"))
    }

    fn index_path(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.path.join("index").join(fingerprint.digest().to_string())
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
