//! Makes images: archives as `docker save` writes them.

use std::{fs, path::Path};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A layer that is being made.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn add(
        mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        owner: u64,
        link: &str,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(5).unwrap();
        }
        if link.is_empty() {
            self.0.append_data(&mut header, path, content).unwrap();
        } else {
            self.0.append_link(&mut header, path, link).unwrap();
        }
        self
    }

    /// Busybox, and what it is called by.
    pub(crate) fn busybox(self, names: &[&str]) -> Self {
        let program = fs::read("/bin/busybox").unwrap();
        let layer = self.add(EntryType::Regular, "bin/busybox", 0o755, 0, "", &program);
        names.iter().fold(layer, |layer, name| {
            layer.add(EntryType::Symlink, &format!("bin/{name}"), 0o777, 0, "busybox", b"")
        })
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.add(EntryType::Regular, path, 0o644, 0, "", content)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the image `name` with these layers, the lowest first, and what `config` says about how it runs.
pub(crate) fn save(path: &Path, name: &str, config: &Value, layers: Vec<Layer>) {
    let layers: Vec<_> = layers.into_iter().map(|layer| layer.0.into_inner().unwrap()).collect();
    let ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": ids },
        "history": ids.iter().map(|id| json!({ "created_by": id })).collect::<Vec<_>>(),
    })
    .to_string();
    // Such names as `docker save` gives: digests, which nobody has to believe.
    let names: Vec<_> =
        (1..=layers.len()).map(|n| format!("{}/layer.tar", n.to_string().repeat(64))).collect();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]).to_string();
    let outer = Layer::new().file("manifest.json", manifest.as_bytes()).file(&config_name, config.as_bytes());
    let outer = names.iter().zip(&layers).fold(outer, |outer, (name, layer)| outer.file(name, layer));
    fs::write(path, outer.0.into_inner().unwrap()).unwrap();
}
