//! Where images come from, other than from registries: archives, layout folders, root folders.
//!
//! What something is, is told by what is in it: a folder with an `index.json` is a layout; an archive that starts like one of
//! `docker save`, `podman save` or `skopeo` is one of those; any other archive or folder is a root file system.

mod archive;
mod docker;
mod layout;
mod root;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::job::Job;
use crate::layer::decompress::{self, Compression};
use crate::name::Name;
use crate::store::{Image, Store};
use archive::Archive;

/// What is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An archive or a folder.
    Path(PathBuf),
    /// An archive on standard input.
    Stdin,
}

impl Source {
    /// How it is called in messages.
    fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Stdin => "standard input".into(),
        }
    }
}

/// Files by their paths in a folder or an archive.
pub(crate) trait Files {
    /// The file at `path`, and its length; `None` if there is none.
    fn open(&self, path: &str) -> io::Result<Option<(Box<dyn Read + Send + '_>, u64)>>;
}

impl Store {
    /// Imports every image of `source`, or a root file system as an image, under `name` or else the name that it brings along.
    ///
    /// # Errors
    /// An [`Error`] about the source or the store. What was copied by then is gone again.
    pub fn import(&self, source: &Source, name: Option<&Name>, job: &Job<'_>) -> Result<Vec<Image>, Error> {
        let result = self.import_from(source, name, job);
        if result.is_err() {
            // What went wrong first is what counts.
            let _ = self.collect(false);
        }
        result
    }

    fn import_from(&self, source: &Source, name: Option<&Name>, job: &Job<'_>) -> Result<Vec<Image>, Error> {
        let shown = source.path();
        let unreadable = |error: io::Error| {
            if job.is_stopped() { Error::Interrupted } else { Error::unreadable(&shown, error) }
        };
        let file = match source {
            Source::Path(path) => {
                let metadata = std::fs::metadata(path).map_err(unreadable)?;
                if metadata.is_dir() && layout::is_layout(path) {
                    return layout::import(self, &layout::Folder(path.clone()), &shown, name, job);
                }
                if metadata.is_dir() {
                    return root::import_folder(self, path, name, job).map(|image| vec![image]);
                }
                let file = File::open(path).map_err(unreadable)?;
                // A pipe has to be copied, as archives are not read front to back.
                if metadata.is_file() { file } else { self.spool(file, &shown, job)? }
            }
            Source::Stdin => self.spool(io::stdin().lock(), &shown, job)?,
        };
        self.import_file(file, &shown, name, job)
    }

    fn import_file(
        &self,
        file: File,
        shown: &Path,
        name: Option<&Name>,
        job: &Job<'_>,
    ) -> Result<Vec<Image>, Error> {
        let unreadable = |error: io::Error| Error::unreadable(shown, error);
        let mut start = [0; 4];
        if file.read_at(&mut start, 0).map_err(unreadable)? == 0 {
            return Err(Error::NotAnImage { path: shown.into(), why: "it is empty".into() });
        }
        let is_packed = Compression::of(&start) != Compression::None;
        let found = if is_packed {
            let plain = decompress::reader(&file).map_err(unreadable)?;
            archive::looks_like_images(plain)
        } else {
            Archive::index(file.try_clone().map_err(unreadable)?).map(|archive| archive.is_some())
        };
        let is_archive =
            found.map_err(|error| Error::NotAnImage { path: shown.into(), why: error.to_string() })?;
        (&file).seek(SeekFrom::Start(0)).map_err(unreadable)?;
        if !is_archive {
            return root::import_tar(self, file, shown, name, job).map(|image| vec![image]);
        }
        let file = if is_packed {
            self.spool(decompress::reader(file).map_err(unreadable)?, shown, job)?
        } else {
            file
        };
        let archive = Archive::index(file);
        let archive =
            archive.map_err(|error| Error::NotAnImage { path: shown.into(), why: error.to_string() })?;
        let Some(archive) = archive else {
            return Err(Error::NotAnImage { path: shown.into(), why: "it is of no known kind".into() });
        };
        if archive.has("index.json") {
            layout::import(self, &archive, shown, name, job)
        } else {
            docker::import(self, &archive, shown, name, job)
        }
    }

    /// Copies a stream to a file without a name.
    fn spool(&self, source: impl Read, shown: &Path, job: &Job<'_>) -> Result<File, Error> {
        let mut file = self.scratch().map_err(|error| Error::in_store(self.path(), self.path(), error))?;
        let step = job.progress.step(&format!("Reading {}", shown.display()), 0);
        let mut source = job.watch(source, step).take(job.limits.bytes.saturating_add(1));
        let mut chunk = vec![0; 256 * 1024];
        let mut total = 0;
        loop {
            let length = match source.read(&mut chunk) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if job.is_stopped() => return Err(Error::Interrupted),
                Err(error) => return Err(Error::unreadable(shown, error)),
            };
            total += length as u64;
            if total > job.limits.bytes {
                return Err(Error::TooLarge { limit: job.limits.bytes });
            }
            if length == 0 {
                return Ok(file);
            }
            let bytes = chunk.get(..length).unwrap_or_default();
            file.write_all(bytes).map_err(|error| Error::in_store(self.path(), self.path(), error))?;
        }
    }
}

/// Reads a document of a source whole.
fn document(files: &dyn Files, path: &str, what: &'static str, shown: &Path) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::Document { what, why };
    let opened = files.open(path).map_err(|error| Error::unreadable(shown, error))?;
    let (file, length) = opened.ok_or_else(|| bad(format!("there is no {path}")))?;
    if length > crate::oci::LONGEST_DOCUMENT {
        return Err(bad("it is longer than 4 MiB".into()));
    }
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(|error| Error::unreadable(shown, error))?;
    Ok(bytes)
}
