//! Root file systems made of folders, and how they are found again.

use std::fs;
use std::path::{Path, PathBuf};

use super::Store;
use crate::digest::Digest;
use crate::erofs::Writer;
use crate::error::Error;
use crate::folder::{Fingerprint, Folder, ReadError};
use crate::image;
use crate::job::Job;
use crate::staging::{Staged, replace};

impl Store {
    /// The image of `folder`, absolute: the one in the store, if the folder has not changed since that was made, and
    /// else a new one.
    ///
    /// Whether it has changed is told from a walk over the tree that opens no file. The path is that of a read-only
    /// file named by its content, so equal folders share an image. Owners, modes, modification times, extended
    /// attributes, hard links, device nodes, pipes and sockets are kept as they are, and mount points are followed.
    /// A sparse file takes its full length in the image, which has holes itself there.
    ///
    /// A folder that changes while it is packed gives [`Error::FolderChanged`] and no image; it is for the caller to
    /// decide whether to try again. As any exchange of a file for another one is such a change, whoever can write to
    /// the folder cannot bring in a file from outside of it.
    ///
    /// # Errors
    ///
    /// An [`Error`] about the folder or the store; the store is then as it was.
    pub fn folder_image(&self, folder: &Path) -> Result<PathBuf, Error> {
        let folder = Folder::open(folder)?;
        if self.path.starts_with(folder.path()) {
            return Err(Error::StoreInFolder {
                store: self.path.clone(),
                folder: folder.path().to_path_buf(),
            });
        }
        let fingerprint = folder.fingerprint()?;
        if let Some(image) = self.look_up(&fingerprint) {
            return Ok(image);
        }
        let job = Job::quiet();
        let _adding = self.adding(&job)?;
        let tmp = self.tmp();
        let name = format!("folder-{}", fingerprint.digest().hex());
        // Whoever comes second waits here.
        let staged = Staged::new(&tmp, &name, || job.check()).map_err(self.failed(&tmp))?;
        // It may have changed since.
        let fingerprint = folder.fingerprint()?;
        match self.look_up(&fingerprint) {
            Some(image) => Ok(image),
            None => self.pack(&folder, &fingerprint, staged),
        }
    }

    fn pack(&self, folder: &Folder, before: &Fingerprint, staged: Staged) -> Result<PathBuf, Error> {
        let tmp = self.tmp();
        before.outlast_tick().map_err(|source| Error::unreadable(folder.path(), source))?;
        let file = || staged.file().try_clone();
        let scratch = self.scratch().map_err(self.failed(&tmp))?;
        let mut writer = Writer::new(file().map_err(self.failed(&tmp))?, scratch);
        let tree = folder.read(&mut writer).map_err(|error| match error {
            ReadError::Read(error) => error,
            ReadError::Write(source) => self.failed(&tmp)(source),
        })?;
        let mut written = writer.finish(&tree).map_err(self.failed(&tmp))?;
        if folder.fingerprint()? != *before {
            return Err(Error::FolderChanged { path: folder.path().to_path_buf() });
        }
        let digest = Digest::of_file(&mut written).map_err(self.failed(&tmp))?;
        let path = self.image_path(&digest);
        // An equal folder gave the same image before.
        let is_new = image::check(&path).is_err();
        if is_new {
            staged.publish(&path).map_err(|source| self.withdraw(&path, self.failed(&path)(source)))?;
        }
        let entry = self.entry_path(before);
        if let Err(source) = replace(&tmp, &entry, format!("{digest}\n").as_bytes()) {
            let error = self.failed(&entry)(source);
            return Err(if is_new { self.withdraw(&path, error) } else { error });
        }
        Ok(path)
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
        let entry = fs::read_to_string(self.entry_path(fingerprint)).ok()?;
        let image = self.image_path(&Digest::parse(entry.strip_suffix('\n')?)?);
        image::check(&image).is_ok().then_some(image)
    }

    fn entry_path(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.path.join("folders").join(format!("sha256-{}", fingerprint.digest().hex()))
    }
}
