//! The list of images: an OCI image layout's `index.json`, in which an entry's annotation is the image's name.

use std::collections::HashMap;
use std::fs;
use std::io;

use oci_spec::image::{Descriptor, ImageIndex, MediaType};

use super::Store;
use crate::digest::Digest;
use crate::error::Error;
use crate::name::Name;
use crate::oci;
use crate::staging::{self, replace};

/// The annotation that has an image's name.
pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";
/// What an image layout says about itself.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// One image under one name, or under none.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: Option<String>,
    pub(super) manifest: Digest,
    pub(super) size: u64,
    pub(super) media_type: MediaType,
}

impl Entry {
    pub(super) fn descriptor(&self) -> Result<Descriptor, Error> {
        let digest = self.manifest.to_string().parse::<oci_spec::image::Digest>();
        let digest = digest.map_err(|error| Error::Document { what: "manifest", why: error.to_string() })?;
        let mut descriptor = Descriptor::new(self.media_type.clone(), self.size, digest);
        if let Some(name) = &self.name {
            descriptor.set_annotations(Some(HashMap::from([(NAME.to_owned(), name.clone())])));
        }
        Ok(descriptor)
    }
}

/// An index of these entries, as JSON.
pub(super) fn json(entries: &[Entry]) -> Result<Vec<u8>, Error> {
    let bad = |error: String| Error::Document { what: "index", why: error };
    let mut index = ImageIndex::default();
    index.set_schema_version(2);
    index.set_media_type(Some(MediaType::ImageIndex));
    index.set_manifests(entries.iter().map(Entry::descriptor).collect::<Result<_, _>>()?);
    serde_json::to_vec(&index).map_err(|error| bad(error.to_string()))
}

impl Store {
    /// Every image, the one that was added last at the end.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, Error> {
        let path = self.path.join("index.json");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes.map_err(self.failed(&path))?,
        };
        let damaged = |error: serde_json::Error| self.failed(&path)(error.into());
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(damaged)?;
        index
            .manifests()
            .iter()
            .map(|descriptor| {
                let name = descriptor.annotations().as_ref().and_then(|all| all.get(NAME)).cloned();
                Ok(Entry {
                    name,
                    manifest: oci::digest(descriptor)?,
                    size: descriptor.size(),
                    media_type: descriptor.media_type().clone(),
                })
            })
            .collect()
    }

    /// Changes the list, as one of many who may want to.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Entry>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (path, lock) = self.lock_file("index.lock")?;
        staging::lock(&lock, &|| Ok(())).map_err(self.failed(&path))?;
        let mut entries = self.entries()?;
        let result = change(&mut entries)?;
        let layout = self.path.join("oci-layout");
        if !layout.exists() {
            replace(&self.tmp(), &layout, LAYOUT).map_err(self.failed(&layout))?;
        }
        let path = self.path.join("index.json");
        replace(&self.tmp(), &path, &json(&entries)?).map_err(self.failed(&path))?;
        Ok(result)
    }

    /// Adds an image under `names`, which are taken from whatever has them; without a name it is one that has none.
    pub(super) fn enter(
        &self,
        manifest: Digest,
        size: u64,
        media_type: &MediaType,
        names: &[Name],
    ) -> Result<(), Error> {
        let entry = |name: Option<String>| Entry { name, manifest, size, media_type: media_type.clone() };
        self.change(|entries| {
            for name in names.iter().map(Name::to_string) {
                let before: Vec<Entry> =
                    entries.extract_if(.., |entry| entry.name.as_deref() == Some(&name)).collect();
                for mut former in before {
                    former.name = None;
                    keep(entries, former);
                }
                entries.retain(|entry| entry.name.is_some() || entry.manifest != manifest);
                entries.push(entry(Some(name)));
            }
            keep(entries, entry(None));
            Ok(())
        })
    }
}

/// Adds an entry without a name, unless its image is there under one or without.
fn keep(entries: &mut Vec<Entry>, entry: Entry) {
    if entries.iter().all(|other| other.manifest != entry.manifest) {
        entries.push(entry);
    }
}
