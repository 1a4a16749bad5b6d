//! Images of the store, and how others come to be there.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};

use super::blobs::Blobs;
use super::index::Entry;
use super::rootfs::recipe;
use super::{Adding, Store};
use crate::digest::Digest;
use crate::error::Error;
use crate::image;
use crate::job::Job;
use crate::name::Name;
use crate::oci::{self, Document};

/// An image: what it is called, and what it says about itself.
#[derive(Debug)]
pub struct Image {
    id: Digest,
    manifest: Digest,
    names: Vec<String>,
    size: u64,
    layers: Vec<Digest>,
    unpacked: Vec<Digest>,
    configuration: ImageConfiguration,
}

impl Image {
    /// The digest of its configuration.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.manifest
    }

    /// Its complete names; none if another image has taken them.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The bytes of its layers as they are stored.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The blobs of its layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Digest] {
        &self.layers
    }

    /// The digests of its unpacked layers.
    #[must_use]
    pub fn unpacked(&self) -> &[Digest] {
        &self.unpacked
    }

    /// What it says about itself.
    #[must_use]
    pub fn configuration(&self) -> &ImageConfiguration {
        &self.configuration
    }
}

impl Store {
    /// All images, the youngest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn images(&self) -> Result<Vec<Image>, Error> {
        let entries = self.entries()?;
        let mut digests: Vec<Digest> = entries.iter().map(|entry| entry.manifest).collect();
        digests.sort();
        digests.dedup();
        let images = digests.into_iter().map(|digest| self.load(digest, &entries));
        let mut images = images.collect::<Result<Vec<_>, _>>()?;
        // Times in this form sort as text.
        images.sort_by(|a, b| b.configuration.created().cmp(a.configuration.created()));
        Ok(images)
    }

    /// The image that `text` means: a name, or the beginning of an ID.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], if there is none; [`Error::Ambiguous`], if several IDs start so.
    pub fn find(&self, text: &str) -> Result<Image, Error> {
        let entries = self.entries()?;
        if let Some(entry) = named(&entries, text) {
            return self.load(entry.manifest, &entries);
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id =
            prefix.len() >= 3 && prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let images = if is_id { self.images()? } else { Vec::new() };
        let mut images = images.into_iter().filter(|image| image.id.hex().starts_with(prefix));
        let image = images.next().ok_or_else(|| Error::NoSuchImage { name: text.into() })?;
        // The same image may have come compressed in several ways.
        if images.any(|other| other.id != image.id) {
            Err(Error::Ambiguous { name: text.into() })
        } else {
            Ok(image)
        }
    }

    /// Whether `text` is the name of an image, and not an ID.
    pub(super) fn names_image(&self, text: &str) -> Result<Option<String>, Error> {
        Ok(named(&self.entries()?, text).and_then(|entry| entry.name.clone()))
    }

    fn load(&self, digest: Digest, entries: &[Entry]) -> Result<Image, Error> {
        let Document::Manifest(manifest) = Document::parse(&self.document(digest)?)? else {
            return Err(Error::Document { what: "manifest", why: "it is an index".into() });
        };
        let id = oci::digest(manifest.config())?;
        let (configuration, unpacked) = oci::configuration(&self.document(id)?, &manifest)?;
        let names =
            entries.iter().filter(|entry| entry.manifest == digest).filter_map(|entry| entry.name.clone());
        Ok(Image {
            id,
            manifest: digest,
            names: names.collect(),
            size: manifest.layers().iter().map(Descriptor::size).sum(),
            layers: manifest.layers().iter().map(oci::digest).collect::<Result<_, _>>()?,
            unpacked,
            configuration,
        })
    }

    /// Takes over the image with this manifest from `source`: all blobs, the root file system made of them, and last `names`.
    ///
    /// After an error, what came of it may still be there, as garbage.
    pub(crate) fn adopt(
        &self,
        source: &dyn Blobs,
        bytes: &[u8],
        names: &[Name],
        _adding: &Adding,
        job: &Job<'_>,
    ) -> Result<Image, Error> {
        let Document::Manifest(manifest) = Document::parse(bytes)? else {
            return Err(Error::Document { what: "manifest", why: "it is an index".into() });
        };
        self.check_sizes(&manifest, job)?;
        let config = oci::digest(manifest.config())?;
        self.copy_blob(source, config, manifest.config().size(), job)?;
        oci::configuration(&self.document(config)?, &manifest)?;
        for layer in manifest.layers() {
            self.copy_blob(source, oci::digest(layer)?, layer.size(), job)?;
        }
        let digest = self.put_document(bytes, job)?;
        let image = self.load(digest, &[])?;
        let path = self.image_path(&recipe(image.unpacked()));
        if image::check(&path).is_err() {
            self.build(&image, &path, job)?;
        }
        let media_type = manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
        self.enter(digest, bytes.len() as u64, &media_type, names)?;
        self.load(digest, &self.entries()?)
    }

    /// Refuses what could not be right before anything is copied.
    pub(crate) fn check_sizes(&self, manifest: &ImageManifest, job: &Job<'_>) -> Result<(), Error> {
        if manifest.config().size() > oci::LONGEST_DOCUMENT {
            return Err(Error::Document { what: "configuration", why: "it is longer than 4 MiB".into() });
        }
        let layers = manifest.layers().iter();
        let total = layers.map(Descriptor::size).try_fold(0_u64, u64::checked_add);
        match total {
            Some(total) if total <= job.limits.bytes => Ok(()),
            _ => Err(Error::TooLarge { limit: job.limits.bytes }),
        }
    }
}

/// The entry that has the name `text`.
fn named<'e>(entries: &'e [Entry], text: &str) -> Option<&'e Entry> {
    let candidates = Name::candidates(text).ok()?;
    candidates
        .iter()
        .map(Name::to_string)
        .find_map(|name| entries.iter().find(|entry| entry.name.as_deref() == Some(&name)))
}
