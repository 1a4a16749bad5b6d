//! Removing images, and what is left when nothing uses it any more.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::rootfs::recipe;
use super::{Image, Store};
use crate::digest::Digest;
use crate::error::Error;
use crate::staging;

/// What was removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// The IDs of images that are gone.
    pub deleted: Vec<Digest>,
    /// The bytes that were freed.
    pub freed: u64,
}

impl Store {
    /// Removes the name `text`, and with its last name the image; or the image with the ID `text`. `force` removes an image of which
    /// a machine runs, or that has several names.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::InUse`]; those of the store.
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed, Error> {
        let image = self.find(text)?;
        let name = self.names_image(text)?;
        let goes = match &name {
            Some(name) => image.names().iter().all(|other| other == name),
            None if image.names().len() > 1 && !force => {
                return Err(Error::SeveralNames { id: image.id(), names: image.names().join(", ") });
            }
            None => true,
        };
        if goes && !force && self.is_used(&image)? {
            return Err(Error::InUse { name: text.into() });
        }
        // The same image may have come compressed in several ways.
        let same: HashSet<Digest> =
            self.images()?.iter().filter(|other| other.id() == image.id()).map(Image::digest).collect();
        let mut removed = Removed::default();
        self.change(|entries| {
            let gone = entries.extract_if(.., |entry| match &name {
                Some(name) => entry.name.as_ref() == Some(name),
                None => same.contains(&entry.manifest),
            });
            removed.untagged = gone.filter_map(|entry| entry.name).collect();
            if entries.iter().all(|entry| !same.contains(&entry.manifest)) {
                removed.deleted.push(image.id());
            }
            Ok(())
        })?;
        removed.freed = self.collect(false)?.unwrap_or(0);
        Ok(removed)
    }

    /// Removes images without a name, with `all` every image that no machine runs of, and everything that nothing uses. Waits
    /// until nobody adds anything.
    ///
    /// # Errors
    /// Those of the store.
    pub fn prune(&self, all: bool) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        let mut gone = HashSet::new();
        for image in self.images()? {
            if (all || image.names().is_empty()) && !self.is_used(&image)? {
                gone.insert(image.digest());
                removed.untagged.extend_from_slice(image.names());
                removed.deleted.push(image.id());
            }
        }
        self.change(|entries| {
            entries.retain(|entry| !gone.contains(&entry.manifest));
            Ok(())
        })?;
        let (path, lock) = self.lock_file("lock")?;
        staging::lock(&lock, &|| Ok(())).map_err(self.failed(&path))?;
        removed.freed = self.sweep(true, all)?;
        Ok(removed)
    }

    /// Whether a machine runs of this image.
    fn is_used(&self, image: &Image) -> Result<bool, Error> {
        let path = self.image_path(&recipe(image.unpacked()));
        match File::open(&path) {
            Ok(file) => Ok(file.try_lock().is_err()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed(&path)(error)),
        }
    }

    /// Deletes what nothing uses, unless somebody is adding something: then it stays for the next time. Returns the bytes
    /// that were freed. What was downloaded in part stays unless `partial`.
    pub(crate) fn collect(&self, partial: bool) -> Result<Option<u64>, Error> {
        let (_, lock) = self.lock_file("lock")?;
        match lock.try_lock() {
            Ok(()) => self.sweep(partial, false).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Deletes what nothing uses. Only while nobody adds.
    fn sweep(&self, partial: bool, folders: bool) -> Result<u64, Error> {
        // Nor removes anything else, for which the list would be written anew.
        let (path, lock) = self.lock_file("index.lock")?;
        staging::lock(&lock, &|| Ok(())).map_err(self.failed(&path))?;
        let images = self.images()?;
        let mut blobs = HashSet::new();
        let mut roots = HashSet::new();
        for image in &images {
            blobs.extend([image.digest(), image.id()].iter().chain(image.layers()).map(Digest::hex));
            roots.insert(self.image_path(&recipe(image.unpacked())));
        }
        for entry in self.listing("folders")? {
            let digest = fs::read_to_string(&entry).ok().and_then(|line| Digest::parse(line.trim_end()));
            match digest {
                Some(digest) if !folders => {
                    roots.insert(self.image_path(&digest));
                }
                _ => {
                    self.delete(&entry)?;
                }
            }
        }
        let mut freed = 0;
        for blob in self.listing("blobs/sha256")? {
            if blob.file_name().and_then(|name| name.to_str()).is_none_or(|name| !blobs.contains(name)) {
                freed += self.delete(&blob)?;
            }
        }
        for root in self.listing("images")? {
            // Who holds it, runs of it.
            let is_held = || File::open(&root).is_ok_and(|file| file.try_lock().is_err());
            if !roots.contains(&root) && !is_held() {
                freed += self.delete(&root)?;
            }
        }
        for rest in self.listing("tmp")? {
            let is_partial =
                rest.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"blob-"));
            if partial || !is_partial {
                freed += self.delete(&rest)?;
            }
        }
        Ok(freed)
    }

    fn listing(&self, folder: &str) -> Result<Vec<PathBuf>, Error> {
        let path = self.path.join(folder);
        let entries = fs::read_dir(&path).map_err(self.failed(&path))?;
        entries.map(|entry| Ok(entry.map_err(self.failed(&path))?.path())).collect()
    }

    /// Deletes a file; returns how long it was.
    fn delete(&self, path: &Path) -> Result<u64, Error> {
        let length = fs::symlink_metadata(path).map_err(self.failed(path))?.len();
        fs::remove_file(path).map_err(self.failed(path))?;
        Ok(length)
    }
}
