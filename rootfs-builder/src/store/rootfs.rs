//! Root file systems made of an image's layers.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Image, Store};
use crate::digest::{Digest, Hashing};
use crate::erofs::Writer;
use crate::error::Error;
use crate::image;
use crate::job::Job;
use crate::layer::{self, Budget, LayerError, decompress, pipe};
use crate::staging::Staged;
use crate::tree::Tree;

/// Hashed first. Changes whenever an image of the same layers would be another one.
const VERSION: &str = "mote image 1";

/// A root file system of the store's, which stays there at least for as long as this value lives.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    _held: File,
}

impl Rootfs {
    /// The EROFS image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The name of the root file system that layers with these (unpacked) digests give: on every machine the same bytes.
pub(super) fn recipe(layers: &[Digest]) -> Digest {
    let lines = layers.iter().map(|layer| format!("\n{layer}"));
    Digest::of_bytes(std::iter::once(VERSION.to_owned()).chain(lines).collect::<String>().as_bytes())
}

impl Store {
    /// The root file system of an image of this store: the one that is there, or else a new one.
    ///
    /// # Errors
    /// [`Error::Layer`] if a layer cannot be applied, and those of the store.
    pub fn rootfs(&self, image: &Image, job: &Job<'_>) -> Result<Rootfs, Error> {
        loop {
            let path = self.image_path(&recipe(image.unpacked()));
            if image::check(&path).is_err() {
                let _adding = self.adding(job)?;
                self.build(image, &path, job)?;
            }
            // Somebody may remove it in between.
            if let Some(rootfs) = self.ready(image)? {
                return Ok(rootfs);
            }
        }
    }

    /// The root file system of an image of this store, if it was made before.
    ///
    /// # Errors
    /// Those of the store.
    pub fn ready(&self, image: &Image) -> Result<Option<Rootfs>, Error> {
        let path = self.image_path(&recipe(image.unpacked()));
        if image::check(&path).is_err() {
            return Ok(None);
        }
        Ok(self.hold(&path)?.map(|held| Rootfs { path, _held: held }))
    }

    /// Makes the root file system `path`, unless somebody does so meanwhile.
    pub(super) fn build(&self, image: &Image, path: &Path, job: &Job<'_>) -> Result<(), Error> {
        let tmp = self.tmp();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let staged =
            Staged::new(&tmp, &name, || job.check()).map_err(|error| self.stopped(job, &tmp, error))?;
        if image::check(path).is_ok() {
            return Ok(());
        }
        let scratch = self.scratch().map_err(self.failed(&tmp))?;
        let mut writer = Writer::new(staged.file().try_clone().map_err(self.failed(&tmp))?, scratch);
        let mut tree = Tree::new();
        let mut budget = Budget::new(job.limits);
        for (blob, unpacked) in image.layers().iter().zip(image.unpacked()) {
            self.apply(*blob, *unpacked, &mut budget, &mut tree, &mut writer, job)?;
        }
        writer.finish(&tree).map_err(self.failed(&tmp))?;
        staged.publish(path).map_err(self.failed(path))
    }

    fn apply(
        &self,
        blob: Digest,
        unpacked: Digest,
        budget: &mut Budget,
        tree: &mut Tree,
        writer: &mut Writer,
        job: &Job<'_>,
    ) -> Result<(), Error> {
        let path = self.blob_path(blob);
        let file = File::open(&path).map_err(self.failed(&path))?;
        let size = file.metadata().map_err(self.failed(&path))?.len();
        let step = job.progress.step(&format!("Unpacking layer {}", blob.short()), size);
        let packed = job.watch(file, step);
        let applied = std::thread::scope(|scope| {
            let packed = decompress::reader(packed).map_err(LayerError::Read)?;
            let mut plain = Hashing::new(pipe::through_thread(scope, packed));
            layer::apply(&mut plain, budget, tree, writer)?;
            Ok(plain.finish())
        });
        match applied {
            Ok((digest, _)) if digest == unpacked => Ok(()),
            Ok((digest, _)) => Err(Error::Blob {
                digest: blob,
                why: format!("it unpacks to {digest}, and the image's configuration says {unpacked}"),
            }),
            Err(_) if job.is_stopped() => Err(Error::Interrupted),
            Err(LayerError::Write(source)) => Err(self.failed(&self.tmp())(source)),
            Err(source) => Err(Error::Layer { digest: blob, source }),
        }
    }

    /// A file without a name, for what is needed only now.
    pub(crate) fn scratch(&self) -> io::Result<File> {
        let path =
            self.tmp().join(format!("scratch-{}-{:?}", std::process::id(), std::thread::current().id()));
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}
