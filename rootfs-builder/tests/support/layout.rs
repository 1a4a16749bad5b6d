//! Images made by hand: layouts with whatever layers and documents a test wants.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The hexadecimal digits of the SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layer that is being made.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, path: &str, mode: u32, link: Option<&str>, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        match link {
            Some(link) => self.0.append_link(&mut header, path, link).unwrap(),
            None => self.0.append_data(&mut header, path, content).unwrap(),
        }
        self
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.add(EntryType::Regular, path, 0o644, None, content)
    }

    pub(crate) fn folder(self, path: &str, mode: u32) -> Self {
        self.add(EntryType::Directory, path, mode, None, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path, 0o777, Some(target), b"")
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path, 0o644, Some(target), b"")
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A layout with one image, made of parts that a test can bend.
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    pub(crate) config: serde_json::Value,
    pub(crate) manifest: serde_json::Value,
}

impl Layout {
    /// A layout at `path` with an image of these plain layers. Call [`Layout::finish`] to complete it.
    pub(crate) fn new(path: &Path, layers: &[Vec<u8>]) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let mut layout =
            Self { path: path.into(), config: serde_json::Value::Null, manifest: serde_json::Value::Null };
        let ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
        layout.config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let layers: Vec<_> =
            layers.iter().map(|layer| layout.blob("application/vnd.oci.image.layer.v1.tar", layer)).collect();
        layout.manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "layers": layers,
        });
        layout
    }

    /// Adds a blob; returns its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = sha256(bytes);
        fs::write(self.path.join("blobs/sha256").join(&digest), bytes).unwrap();
        serde_json::json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    /// Completes the layout.
    pub(crate) fn finish(mut self) -> PathBuf {
        if self.manifest["config"].is_null() {
            let config = self.config.to_string();
            self.manifest["config"] =
                self.blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
        }
        let manifest = self.manifest.to_string();
        let mut descriptor = self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
        fs::write(self.path.join("index.json"), index.to_string()).unwrap();
        self.path
    }
}
