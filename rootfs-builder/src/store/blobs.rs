//! Blobs: checked before they get their name.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::Store;
use crate::digest::{Digest, Hashing};
use crate::error::Error;
use crate::job::Job;
use crate::oci::LONGEST_DOCUMENT;
use crate::staging::Staged;

/// The bytes that are copied at a time.
const CHUNK: usize = 256 * 1024;

/// Where the blobs of an image come from.
pub(crate) trait Blobs {
    /// The blob with this digest, or what claims to be it.
    fn open(&self, digest: Digest) -> Result<Box<dyn Read + Send + '_>, Error>;
}

impl Store {
    pub(super) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is there. `size` is what somebody claims.
    pub(crate) fn has_blob(&self, digest: Digest, size: u64) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == size => Ok(true),
            Ok(metadata) => Err(wrong_size(digest, metadata.len(), size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed(&path)(error)),
        }
    }

    /// The content of a small blob.
    pub(crate) fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(self.failed(&path))?;
        file.take(LONGEST_DOCUMENT).read_to_end(&mut bytes).map_err(self.failed(&path))?;
        Ok(bytes)
    }

    /// Adds a small blob.
    pub(crate) fn put_document(&self, bytes: &[u8], job: &Job<'_>) -> Result<Digest, Error> {
        let digest = Digest::of_bytes(bytes);
        let path = self.blob_path(digest);
        if !path.exists() {
            let staged = self.stage_blob(digest, job)?;
            let write = staged.file().set_len(0).and_then(|()| staged.file().write_all(bytes));
            write.and_then(|()| staged.publish(&path)).map_err(self.failed(&path))?;
        }
        Ok(digest)
    }

    /// Waits until nobody else writes this blob, and returns the file to write it to, with what is there of it already.
    pub(crate) fn stage_blob(&self, digest: Digest, job: &Job<'_>) -> Result<Staged, Error> {
        let tmp = self.tmp();
        let name = format!("blob-{}", digest.hex());
        Staged::take(&tmp, &name, || job.check()).map_err(|error| self.stopped(job, &tmp, error))
    }

    /// Gives a blob that was checked its name.
    pub(crate) fn publish_blob(&self, digest: Digest, staged: Staged) -> Result<(), Error> {
        let path = self.blob_path(digest);
        staged.publish(&path).map_err(self.failed(&path))
    }

    /// Adds a blob from `source`, unless it is there. It must have this digest and size.
    pub(crate) fn copy_blob(
        &self,
        source: &dyn Blobs,
        digest: Digest,
        size: u64,
        job: &Job<'_>,
    ) -> Result<(), Error> {
        if self.has_blob(digest, size)? {
            return Ok(());
        }
        let staged = self.stage_blob(digest, job)?;
        if self.has_blob(digest, size)? {
            return Ok(());
        }
        let path = self.blob_path(digest);
        staged.file().set_len(0).map_err(self.failed(&path))?;
        let step = job.progress.step(&format!("Copying blob {}", digest.short()), size);
        let plain = job.watch(source.open(digest)?, step);
        // One byte more than there should be tells that there are too many.
        let mut hashing = Hashing::new(plain.take(size.saturating_add(1)));
        self.pour(&mut hashing, staged.file(), digest, job)?;
        check(digest, size, hashing.finish())?;
        staged.publish(&path).map_err(self.failed(&path))
    }

    /// Adds a blob of which neither digest nor size is known.
    pub(crate) fn add_blob(
        &self,
        source: impl Read,
        what: &str,
        job: &Job<'_>,
    ) -> Result<(Digest, u64), Error> {
        let step = job.progress.step(&format!("Copying {what}"), 0);
        let mut source = job.watch(source, step);
        self.write_blob(job, |out| {
            let mut chunk = vec![0; CHUNK];
            loop {
                let length = match source.read(&mut chunk) {
                    Ok(0) => return Ok(()),
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) if job.is_stopped() => return Err(Error::Interrupted),
                    Err(source) => return Err(Error::unreadable(what.as_ref(), source)),
                };
                let written = out.write_all(chunk.get(..length).unwrap_or_default());
                // What went wrong is known to whoever called this.
                written.map_err(|error| self.failed(&self.tmp())(error))?;
            }
        })
    }

    /// Adds the blob that `write` writes.
    pub(crate) fn write_blob(
        &self,
        job: &Job<'_>,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<(Digest, u64), Error> {
        let tmp = self.tmp();
        let name = format!("new-{}-{:?}", std::process::id(), std::thread::current().id());
        let staged =
            Staged::new(&tmp, &name, || job.check()).map_err(|error| self.stopped(job, &tmp, error))?;
        let mut out = New {
            file: staged.file(),
            hasher: Sha256::new(),
            length: 0,
            limit: job.limits.bytes,
            error: None,
        };
        let result = write(&mut out);
        if let Some(error) = out.error {
            return Err(self.failed(&tmp)(error));
        }
        if out.length > out.limit {
            return Err(Error::TooLarge { limit: out.limit });
        }
        result?;
        let (digest, length) = (Digest::of(out.hasher), out.length);
        let path = self.blob_path(digest);
        if !path.exists() {
            staged.publish(&path).map_err(self.failed(&path))?;
        }
        Ok((digest, length))
    }

    /// Copies, and tells errors of the two sides apart.
    fn pour(
        &self,
        source: &mut impl Read,
        mut file: &File,
        digest: Digest,
        job: &Job<'_>,
    ) -> Result<(), Error> {
        let mut chunk = vec![0; CHUNK];
        file.seek(SeekFrom::Start(0)).map_err(self.failed(&self.tmp()))?;
        loop {
            match source.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    let bytes = chunk.get(..length).unwrap_or_default();
                    file.write_all(bytes).map_err(self.failed(&self.tmp()))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if job.is_stopped() => return Err(Error::Interrupted),
                Err(source) => return Err(Error::BlobUnreadable { digest, source }),
            }
        }
    }
}

/// A blob that is being written.
struct New<'f> {
    file: &'f File,
    hasher: Sha256,
    length: u64,
    limit: u64,
    /// Why the store could not be written, as the writer may make something else of it.
    error: Option<io::Error>,
}

impl Write for New<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let copy = |error: &io::Error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => error.kind().into(),
        };
        let length = match self.file.write(bytes) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.error = Some(copy(&error));
                return Err(error);
            }
            length => length?,
        };
        self.hasher.update(bytes.get(..length).unwrap_or_default());
        self.length += length as u64;
        if self.length > self.limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(length) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails unless a blob is what it was said to be.
pub(crate) fn check(digest: Digest, size: u64, (actual, length): (Digest, u64)) -> Result<(), Error> {
    if length != size {
        return Err(wrong_size(digest, length, size));
    }
    if actual != digest {
        return Err(Error::Blob { digest, why: format!("its content has the digest {actual}") });
    }
    Ok(())
}

fn wrong_size(digest: Digest, actual: u64, said: u64) -> Error {
    let actual = if actual > said { "more".to_owned() } else { actual.to_string() };
    Error::Blob { digest, why: format!("it has {actual} bytes, and the manifest says {said}") }
}
