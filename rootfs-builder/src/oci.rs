//! Manifests, indexes and configurations of images, and what of them may be believed.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::Error;

/// The longest manifest or configuration that is read, in bytes; registries have the same limit.
pub(crate) const LONGEST_DOCUMENT: u64 = 4 << 20;
/// How deep indexes may lie in indexes.
pub(crate) const DEEPEST_INDEX: usize = 4;

/// The kinds of manifests that are understood, for asking a registry.
pub(crate) const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// What a manifest document is.
#[derive(Debug)]
pub(crate) enum Document {
    /// That of one image.
    Manifest(Box<ImageManifest>),
    /// A list of images for several platforms.
    Index(Box<ImageIndex>),
}

/// What tells the kinds of documents apart.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: Option<u32>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Document {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let bad = |error: serde_json::Error| Error::Document { what: "manifest", why: error.to_string() };
        let kind: Kind = serde_json::from_slice(bytes).map_err(bad)?;
        if kind.schema_version != Some(2) {
            return Err(Error::Document { what: "manifest", why: "its schema version is not 2".into() });
        }
        if kind.manifests.is_some() {
            serde_json::from_slice(bytes).map(|index| Self::Index(Box::new(index))).map_err(bad)
        } else {
            serde_json::from_slice(bytes).map(|manifest| Self::Manifest(Box::new(manifest))).map_err(bad)
        }
    }
}

/// The architecture of this build, as images call it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The image of an index that is for this machine.
pub(crate) fn choose(index: &ImageIndex) -> Result<&Descriptor, Error> {
    let is_ours = |descriptor: &&Descriptor| match descriptor.platform() {
        Some(platform) => is_platform(&platform.os().to_string(), &platform.architecture().to_string()),
        None => false,
    };
    let manifests = index.manifests();
    let one = match manifests.as_slice() {
        // A layout with one image need not say what it is for; its configuration does.
        [one] if one.platform().is_none() => Some(one),
        _ => manifests.iter().find(is_ours),
    };
    one.ok_or_else(|| {
        let platforms = manifests.iter().filter_map(|manifest| manifest.platform().as_ref());
        let mut found: Vec<_> = platforms.map(|p| format!("{}/{}", p.os(), p.architecture())).collect();
        found.sort();
        found.dedup();
        Error::Platform { wanted: format!("linux/{}", architecture()), found: found.join(", ") }
    })
}

fn is_platform(os: &str, arch: &str) -> bool {
    os == "linux" && arch == architecture()
}

/// The digest of a descriptor's blob.
pub(crate) fn digest(descriptor: &Descriptor) -> Result<Digest, Error> {
    let text = descriptor.digest().to_string();
    Digest::parse(&text)
        .ok_or_else(|| Error::Document { what: "manifest", why: format!("{text:?} is no SHA-256 digest") })
}

/// The configuration of an image, and the digests of its unpacked layers, as many as `manifest` has layers.
pub(crate) fn configuration(
    bytes: &[u8],
    manifest: &ImageManifest,
) -> Result<(ImageConfiguration, Vec<Digest>), Error> {
    let bad = |why: String| Error::Document { what: "configuration", why };
    let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let (os, arch) = (config.os().to_string(), config.architecture().to_string());
    if !is_platform(&os, &arch) {
        return Err(Error::Platform {
            wanted: format!("linux/{}", architecture()),
            found: format!("{os}/{arch}"),
        });
    }
    let ids = config.rootfs().diff_ids().iter();
    let ids = ids.map(|id| Digest::parse(id).ok_or_else(|| bad(format!("{id:?} is no SHA-256 digest"))));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    if ids.len() != manifest.layers().len() {
        let (ids, layers) = (ids.len(), manifest.layers().len());
        return Err(bad(format!("it speaks of {ids} layers, and the manifest of {layers}")));
    }
    Ok((config, ids))
}
