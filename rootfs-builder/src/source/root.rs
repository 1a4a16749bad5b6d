//! Root file systems as they are: an archive becomes an image with that one layer; a folder becomes an archive first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::image::MediaType;
use tar::{Builder, EntryType, Header};

use super::docker::{descriptor, manifest};
use crate::digest::{Digest, Hashing};
use crate::error::Error;
use crate::folder::{Folder, open};
use crate::job::Job;
use crate::layer::decompress::{self, Compression};
use crate::name::Name;
use crate::oci;
use crate::store::blobs::Blobs;
use crate::store::{Adding, Image, Store};
use crate::xattr;

/// There is nothing left to copy when the image is adopted.
struct Nothing;

impl Blobs for Nothing {
    fn open(&self, digest: Digest) -> Result<Box<dyn Read + Send + '_>, Error> {
        Err(Error::BlobMissing { digest })
    }
}

/// Imports an archive, compressed or not.
pub(super) fn import_tar(
    store: &Store,
    file: File,
    shown: &Path,
    name: Option<&Name>,
    job: &Job<'_>,
) -> Result<Image, Error> {
    let unreadable = |error: io::Error| {
        if job.is_stopped() { Error::Interrupted } else { Error::unreadable(shown, error) }
    };
    let adding = store.adding(job)?;
    let mut start = [0; 4];
    file.read_at(&mut start, 0).map_err(unreadable)?;
    let compression = Compression::of(&start);
    let length = file.metadata().map_err(unreadable)?.len();
    let copy = file.try_clone().map_err(unreadable)?;
    let (blob, size) = store.add_blob(copy, &shown.display().to_string(), job)?;
    let unpacked = if compression == Compression::None {
        blob
    } else {
        let step = job.progress.step(&format!("Checking {}", shown.display()), length);
        (&file).rewind().map_err(unreadable)?;
        let plain = decompress::reader(job.watch(file, step)).map_err(unreadable)?;
        let mut plain = Hashing::new(plain.take(job.limits.bytes.saturating_add(1)));
        io::copy(&mut plain, &mut io::sink()).map_err(unreadable)?;
        plain.finish().0
    };
    let media_type = match compression {
        Compression::None => MediaType::ImageLayer,
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    };
    adopt(store, media_type, (blob, size), unpacked, name, &adding, job)
}

/// Imports a folder.
pub(super) fn import_folder(
    store: &Store,
    path: &Path,
    name: Option<&Name>,
    job: &Job<'_>,
) -> Result<Image, Error> {
    let folder = Folder::open(path)?;
    if store.path().starts_with(folder.path()) {
        return Err(Error::StoreInFolder { store: store.path().into(), folder: folder.path().into() });
    }
    let before = folder.fingerprint()?;
    let adding = store.adding(job)?;
    let step = job.progress.step(&format!("Reading {}", path.display()), 0);
    let layer = store.write_blob(job, |out| {
        let mut packer =
            Packer { root: folder.path().into(), out: Builder::new(out), linked: HashMap::new() };
        folder.walk(|path, metadata| {
            if job.is_stopped() {
                return Err(Error::Interrupted);
            }
            step.advance(metadata.len());
            packer.add(path, metadata).map_err(|error| Error::unreadable(path, error))
        })?;
        packer.out.into_inner().map(drop).map_err(|error| Error::unreadable(path, error))
    })?;
    if folder.fingerprint()? != before {
        return Err(Error::FolderChanged { path: folder.path().to_path_buf() });
    }
    adopt(store, MediaType::ImageLayer, layer, layer.0, name, &adding, job)
}

fn adopt(
    store: &Store,
    media_type: MediaType,
    (blob, size): (Digest, u64),
    unpacked: Digest,
    name: Option<&Name>,
    adding: &Adding,
    job: &Job<'_>,
) -> Result<Image, Error> {
    let config = serde_json::json!({
        "architecture": oci::architecture(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [unpacked] },
    });
    let config = config.to_string().into_bytes();
    let id = store.put_document(&config, job)?;
    let config = descriptor(MediaType::ImageConfig, id, config.len() as u64)?;
    let manifest = manifest(config, vec![descriptor(media_type, blob, size)?])?;
    let names: Vec<Name> = name.cloned().into_iter().collect();
    store.adopt(&Nothing, &manifest, &names, adding, job)
}

/// Writes files to an archive.
struct Packer<W: Write> {
    root: PathBuf,
    out: Builder<W>,
    /// The first path of each file that has several.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() { Path::new("./") } else { inside };
        let kind = metadata.file_type();
        // A socket is of use only to the process that made it, and archives have none.
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(metadata.uid().into());
        header.set_gid(metadata.gid().into());
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        let first =
            self.linked.get(&(metadata.dev(), metadata.ino())).filter(|_| !metadata.is_dir()).cloned();
        if let Some(first) = first {
            header.set_entry_type(EntryType::Link);
            return self.out.append_link(&mut header, inside, first);
        }
        self.extensions(path, metadata)?;
        if !metadata.is_dir() && metadata.nlink() > 1 {
            self.linked.insert((metadata.dev(), metadata.ino()), inside.to_path_buf());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.out.append_link(&mut header, inside, fs::read_link(path)?);
        }
        if metadata.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            let file = open(path)?.take(metadata.len());
            // One that has become shorter is noticed by its fingerprint; the archive must stay one until then.
            return self.out.append_data(&mut header, inside, file.chain(io::repeat(0)).take(metadata.len()));
        }
        if kind.is_char_device() || kind.is_block_device() {
            let number = |number: u64| u32::try_from(number).map_err(io::Error::other);
            header.set_device_major(number(major(metadata.rdev()))?)?;
            header.set_device_minor(number(minor(metadata.rdev()))?)?;
        }
        header.set_entry_type(if kind.is_dir() {
            EntryType::Directory
        } else if kind.is_char_device() {
            EntryType::Char
        } else if kind.is_block_device() {
            EntryType::Block
        } else {
            EntryType::Fifo
        });
        self.out.append_data(&mut header, inside, io::empty())
    }

    /// What does not fit into the header.
    fn extensions(&mut self, path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if metadata.mtime_nsec() != 0 || metadata.mtime() < 0 {
            records.push(("mtime".into(), time(metadata.mtime(), metadata.mtime_nsec()).into_bytes()));
        }
        for (name, value) in xattr::read(path)? {
            // All names that Linux knows are text.
            if let Ok(name) = name.to_str() {
                records.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        let records = records.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.out.append_pax_extensions(records)
    }
}

/// Seconds with a fraction. Before 1970 both count backwards.
fn time(seconds: i64, nanoseconds: i64) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let sign = if seconds == -1 { "-" } else { "" };
        return format!("{sign}{}.{:09}", seconds + 1, 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn times_before_1970_count_backwards() {
        assert_eq!(time(7, 5), "7.000000005");
        assert_eq!(time(-1, 500_000_000), "-0.500000000");
        assert_eq!(time(-2, 750_000_000), "-1.250000000");
        assert_eq!(time(-2, 0), "-2.000000000");
    }

    #[test]
    fn names_are_bytes() {
        let mut out = Builder::new(Vec::new());
        let name = std::ffi::OsStr::from_bytes(b"\xff/name");
        out.append_data(&mut Header::new_ustar(), name, io::empty()).unwrap();
        let bytes = out.into_inner().unwrap();
        assert_eq!(&bytes[..6], b"\xff/name");
    }
}
