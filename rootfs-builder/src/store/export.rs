//! Images leave the store as OCI archives.

use std::fs::File;
use std::io::{Read, Write};

use oci_spec::image::MediaType;

use super::index::{self, Entry};
use super::{Image, Store};
use crate::error::Error;
use crate::job::Job;
use crate::oci::Document;

impl Store {
    /// Writes the image to `out` as an OCI archive, which `podman load`, `skopeo` and [`Store::import`] read. The same image gives the
    /// same bytes.
    ///
    /// # Errors
    /// [`Error::Output`] if `out` fails, and those of the store.
    pub fn export(&self, image: &Image, out: impl Write, job: &Job<'_>) -> Result<(), Error> {
        let _adding = self.adding(job)?;
        let output = |source| Error::Output { source };
        let manifest = self.document(image.digest())?;
        let media_type = match Document::parse(&manifest)? {
            Document::Manifest(manifest) => manifest.media_type().clone(),
            Document::Index(_) => None,
        };
        let entry = Entry {
            name: image.names().first().cloned(),
            manifest: image.digest(),
            size: manifest.len() as u64,
            media_type: media_type.unwrap_or(MediaType::ImageManifest),
        };
        let mut archive = tar::Builder::new(out);
        let mut add = |name: &str, length: u64, content: &mut dyn Read| {
            let mut header = tar::Header::new_ustar();
            header.set_size(length);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_entry_type(tar::EntryType::Regular);
            archive.append_data(&mut header, name, content).map_err(output)
        };
        add("oci-layout", index::LAYOUT.len() as u64, &mut &index::LAYOUT[..])?;
        let json = index::json(&[entry])?;
        add("index.json", json.len() as u64, &mut &json[..])?;
        let mut blobs: Vec<_> = [image.digest(), image.id()].iter().chain(image.layers()).copied().collect();
        blobs.sort();
        blobs.dedup();
        for blob in blobs {
            let path = self.blob_path(blob);
            let file = File::open(&path).map_err(self.failed(&path))?;
            let length = file.metadata().map_err(self.failed(&path))?.len();
            let step = job.progress.step(&format!("Copying blob {}", blob.short()), length);
            add(&format!("blobs/sha256/{}", blob.hex()), length, &mut job.watch(file, step))?;
        }
        archive
            .into_inner()
            .and_then(|mut out| out.flush())
            .map_err(|error| if job.is_stopped() { Error::Interrupted } else { output(error) })
    }
}
