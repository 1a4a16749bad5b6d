//! OCI image layouts: folders, and archives of such folders.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex};

use super::{Files, document};
use crate::digest::Digest;
use crate::error::Error;
use crate::image::open_at_once;
use crate::job::Job;
use crate::name::Name;
use crate::oci::{self, Document};
use crate::store::blobs::{self, Blobs};
use crate::store::{Image, Store, index};

/// A layout's folder.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Files for Folder {
    fn open(&self, path: &str) -> io::Result<Option<(Box<dyn Read + Send + '_>, u64)>> {
        match open_at_once(&self.0.join(path)) {
            Ok(file) => {
                let metadata = file.metadata()?;
                // Not to wait for a pipe, nor to read a device.
                Ok(metadata.is_file().then(|| (Box::new(file) as Box<dyn Read + Send>, metadata.len())))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the folder is a layout.
pub(super) fn is_layout(path: &Path) -> bool {
    path.join("index.json").is_file() && path.join("oci-layout").is_file()
}

/// A layout's blobs.
struct Layout<'f> {
    files: &'f dyn Files,
    shown: &'f Path,
}

impl Blobs for Layout<'_> {
    fn open(&self, digest: Digest) -> Result<Box<dyn Read + Send + '_>, Error> {
        let path = format!("blobs/sha256/{}", digest.hex());
        let opened = self.files.open(&path).map_err(|error| Error::unreadable(self.shown, error))?;
        opened.map(|(file, _)| file).ok_or(Error::BlobMissing { digest })
    }
}

impl Layout<'_> {
    /// The document that a descriptor leads to, checked.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let digest = oci::digest(descriptor)?;
        let path = format!("blobs/sha256/{}", digest.hex());
        let bytes = document(self.files, &path, "manifest", self.shown)?;
        blobs::check(digest, descriptor.size(), (Digest::of_bytes(&bytes), bytes.len() as u64))?;
        Ok(bytes)
    }

    /// The manifest for this machine that a descriptor leads to.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let mut bytes = self.document(descriptor)?;
        for _ in 0..oci::DEEPEST_INDEX {
            match Document::parse(&bytes)? {
                Document::Manifest(_) => return Ok(bytes),
                Document::Index(index) => bytes = self.document(oci::choose(&index)?)?,
            }
        }
        Err(Error::Document { what: "index", why: "it leads to too many others".into() })
    }
}

/// Imports every image of a layout that is for this machine.
pub(super) fn import(
    store: &Store,
    files: &dyn Files,
    shown: &Path,
    name: Option<&Name>,
    job: &Job<'_>,
) -> Result<Vec<Image>, Error> {
    let bytes = document(files, "index.json", "index", shown)?;
    let index: ImageIndex = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Document { what: "index", why: error.to_string() })?;
    let descriptors = index.manifests();
    let several_platforms = descriptors.len() > 1 && descriptors.iter().all(|one| one.platform().is_some());
    let wanted: Vec<&Descriptor> =
        if several_platforms { vec![oci::choose(&index)?] } else { descriptors.iter().collect() };
    match (wanted.len(), name) {
        (0, _) => {
            return Err(Error::NotAnImage { path: shown.into(), why: "the layout has no images".into() });
        }
        (count @ 2.., Some(_)) => return Err(Error::SeveralImages { path: shown.into(), count }),
        _ => {}
    }
    let layout = Layout { files, shown };
    let import = |descriptor: &Descriptor| {
        let manifest = layout.manifest(descriptor)?;
        let names: Vec<Name> = match name {
            Some(name) => vec![name.clone()],
            None => own_name(descriptor, shown).into_iter().collect(),
        };
        store.adopt(&layout, &manifest, &names, &store.adding(job)?, job)
    };
    wanted.into_iter().map(import).collect()
}

/// The name that a layout has for an image. Some have only a tag there; the rest is then the layout's own name.
fn own_name(descriptor: &Descriptor, shown: &Path) -> Option<Name> {
    let text = descriptor.annotations().as_ref()?.get(index::NAME)?;
    if text.contains('/') {
        return Name::parse(text).ok();
    }
    let stem = shown.file_stem()?.to_str()?.to_lowercase();
    Name::parse_local(&format!("{stem}:{text}")).ok()
}
