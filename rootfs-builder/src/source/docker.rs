//! Archives of `docker save`: a `manifest.json` that names a configuration and layers, all by paths.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};
use serde::Deserialize;

use super::{Files, document};
use crate::digest::Digest;
use crate::error::Error;
use crate::job::Job;
use crate::layer::decompress::Compression;
use crate::name::Name;
use crate::store::blobs::Blobs;
use crate::store::{Image, Store};

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The files of the archive that are blobs under a digest that is known before they are read.
struct Known<'f> {
    files: &'f dyn Files,
    paths: HashMap<Digest, &'f str>,
    shown: &'f Path,
}

impl Blobs for Known<'_> {
    fn open(&self, digest: Digest) -> Result<Box<dyn Read + Send + '_>, Error> {
        let path = self.paths.get(&digest).ok_or(Error::BlobMissing { digest })?;
        let opened = self.files.open(path).map_err(|error| Error::unreadable(self.shown, error))?;
        opened.map(|(file, _)| file).ok_or(Error::BlobMissing { digest })
    }
}

/// Imports every image of the archive.
pub(super) fn import(
    store: &Store,
    files: &dyn Files,
    shown: &Path,
    name: Option<&Name>,
    job: &Job<'_>,
) -> Result<Vec<Image>, Error> {
    let bytes = document(files, "manifest.json", "manifest", shown)?;
    let saved: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Document { what: "manifest", why: error.to_string() })?;
    match (saved.len(), name) {
        (0, _) => {
            return Err(Error::NotAnImage { path: shown.into(), why: "the archive has no images".into() });
        }
        (count @ 2.., Some(_)) => return Err(Error::SeveralImages { path: shown.into(), count }),
        _ => {}
    }
    saved.iter().map(|saved| import_one(store, files, saved, shown, name, job)).collect()
}

fn import_one(
    store: &Store,
    files: &dyn Files,
    saved: &Saved,
    shown: &Path,
    name: Option<&Name>,
    job: &Job<'_>,
) -> Result<Image, Error> {
    let bad = |why: String| Error::Document { what: "configuration", why };
    let config = document(files, &saved.config, "configuration", shown)?;
    let id = Digest::of_bytes(&config);
    let claimed = saved.config.trim_start_matches("blobs/sha256/").trim_end_matches(".json");
    if let Some(digest) = Digest::parse_hex(claimed).filter(|&digest| digest != id) {
        return Err(Error::Blob { digest, why: format!("its content has the digest {id}") });
    }
    let parsed: ImageConfiguration =
        serde_json::from_slice(&config).map_err(|error| bad(error.to_string()))?;
    let unpacked = parsed.rootfs().diff_ids();
    if unpacked.len() != saved.layers.len() {
        let (ids, layers) = (unpacked.len(), saved.layers.len());
        return Err(bad(format!("it speaks of {ids} layers, and the manifest of {layers}")));
    }
    let adding = store.adding(job)?;
    let mut known = Known { files, paths: HashMap::from([(id, saved.config.as_str())]), shown };
    let mut layers = Vec::new();
    for (path, id) in saved.layers.iter().zip(unpacked) {
        let id = Digest::parse(id).ok_or_else(|| bad(format!("{id:?} is no SHA-256 digest")))?;
        let open = || {
            let opened = files.open(path).map_err(|error| Error::unreadable(shown, error))?;
            opened.ok_or_else(|| Error::Document { what: "manifest", why: format!("there is no {path}") })
        };
        let (mut file, size) = open()?;
        let mut start = Vec::new();
        file.by_ref().take(4).read_to_end(&mut start).map_err(|error| Error::unreadable(shown, error))?;
        let (media_type, digest, size) = match Compression::of(&start) {
            Compression::None => {
                known.paths.insert(id, path);
                (MediaType::ImageLayer, id, size)
            }
            packed => {
                let (digest, size) = store.add_blob(open()?.0, &format!("layer {}", id.short()), job)?;
                let is_gzip = packed == Compression::Gzip;
                let media_type = if is_gzip { MediaType::ImageLayerGzip } else { MediaType::ImageLayerZstd };
                (media_type, digest, size)
            }
        };
        layers.push(descriptor(media_type, digest, size)?);
    }
    let manifest = manifest(descriptor(MediaType::ImageConfig, id, config.len() as u64)?, layers)?;
    let tags = saved.repo_tags.iter().flatten();
    let names: Vec<Name> = match name {
        Some(name) => vec![name.clone()],
        None => tags.map(|tag| Name::parse(tag)).collect::<Result<_, _>>()?,
    };
    store.adopt(&known, &manifest, &names, &adding, job)
}

pub(super) fn descriptor(media_type: MediaType, digest: Digest, size: u64) -> Result<Descriptor, Error> {
    let digest = digest.to_string().parse::<oci_spec::image::Digest>();
    let digest = digest.map_err(|error| Error::Document { what: "manifest", why: error.to_string() })?;
    Ok(Descriptor::new(media_type, size, digest))
}

/// A manifest for what comes without one.
pub(super) fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::Document { what: "manifest", why };
    let manifest = oci_spec::image::ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build();
    let manifest: ImageManifest = manifest.map_err(|error| bad(error.to_string()))?;
    serde_json::to_vec(&manifest).map_err(|error| bad(error.to_string()))
}
