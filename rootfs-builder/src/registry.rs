//! Images from registries.
//!
//! Only here are an asynchronous runtime and TLS set up, and only when something is pulled. What arrives is checked by the store, blob by
//! blob; a blob that arrived in part stays, and the next pull goes on from there.

mod credentials;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol, SizedStream};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use oci_spec::image::{Descriptor, ImageManifest};
use sha2::{Digest as _, Sha256};
use tokio::net::unix::pipe::Receiver;

use crate::digest::{Digest, update_from};
use crate::error::Error;
use crate::job::{Job, Step};
use crate::name::Name;
use crate::oci::{self, Document};
use crate::staging::Staged;
use crate::store::blobs::{self, Blobs};
use crate::store::{Image, Store};

/// How long a registry may take to answer, and between two pieces of an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many blobs are on their way at a time.
const AT_A_TIME: usize = 3;

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct Access {
    /// Insist on TLS with a certificate that the system trusts. Without, any certificate will do, and no TLS either.
    pub verify_tls: bool,
    /// The file with credentials instead of the usual ones.
    pub credentials: Option<PathBuf>,
}

impl Default for Access {
    fn default() -> Self {
        Self { verify_tls: true, credentials: None }
    }
}

impl Store {
    /// Pulls the image `name` of the platform of this machine, or what of it is not there.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::Credentials`], and those of images and the store. What was downloaded stays for the next time, unless
    /// it turned out to be wrong.
    pub fn pull(&self, name: &Name, access: &Access, job: &Job<'_>) -> Result<Image, Error> {
        let result = self.pull_from(name, access, job);
        if !matches!(result, Ok(_) | Err(Error::Interrupted | Error::Registry { .. })) {
            // What went wrong first is what counts.
            let _ = self.collect(false);
        }
        result
    }

    fn pull_from(&self, name: &Name, access: &Access, job: &Job<'_>) -> Result<Image, Error> {
        let adding = self.adding(job)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| wrong(name, &error))?;
        let download = || {
            let remote = Remote::new(name, access)?;
            let manifest = async {
                tokio::select! {
                    stopped = stop(job.stop) => Err(stopped),
                    manifest = remote.manifest() => manifest,
                }
            };
            let (bytes, manifest, remote) = runtime.block_on(manifest)?;
            self.check_sizes(&manifest, job)?;
            let missing = self.missing(&manifest, job)?;
            let blobs = async {
                tokio::select! {
                    stopped = stop(job.stop) => Err(stopped),
                    done = remote.blobs(self, missing, job) => done,
                }
            };
            runtime.block_on(blobs)?;
            Ok(bytes)
        };
        match download() {
            Ok(bytes) => {
                // Its threads end here: whoever called this may want to be alone.
                drop(runtime);
                self.adopt(&Nothing, &bytes, std::slice::from_ref(name), &adding, job)
            }
            Err(error) => {
                // Looking up a host's address may take longer than anybody wants to wait.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// The blobs that are not there, each with its file locked. In the order of their names, so that two who want the same do not wait
    /// for each other.
    fn missing(&self, manifest: &ImageManifest, job: &Job<'_>) -> Result<Vec<(Descriptor, Staged)>, Error> {
        let mut all: Vec<&Descriptor> = manifest.layers().iter().chain([manifest.config()]).collect();
        all.sort_by_key(|descriptor| descriptor.digest().to_string());
        all.dedup_by_key(|descriptor| descriptor.digest().to_string());
        let mut missing = Vec::new();
        for descriptor in all {
            let digest = oci::digest(descriptor)?;
            if self.has_blob(digest, descriptor.size())? {
                continue;
            }
            let mut staged = self.stage_blob(digest, job)?;
            if !self.has_blob(digest, descriptor.size())? {
                staged.keep();
                missing.push((descriptor.clone(), staged));
            }
        }
        Ok(missing)
    }
}

/// All blobs are there when the image is adopted.
struct Nothing;

impl Blobs for Nothing {
    fn open(&self, digest: Digest) -> Result<Box<dyn Read + Send + '_>, Error> {
        Err(Error::BlobMissing { digest })
    }
}

/// Waits until it is time to stop.
async fn stop(stop: Option<BorrowedFd<'_>>) -> Error {
    let owned = stop.and_then(|stop| stop.try_clone_to_owned().ok());
    let watched = owned.and_then(|stop| Receiver::from_owned_fd(stop).ok());
    match watched {
        Some(watched) => {
            let _ = watched.readable().await;
            Error::Interrupted
        }
        None => std::future::pending().await,
    }
}

/// One image at its registry.
struct Remote {
    name: Name,
    client: Client,
    /// To try if the registry does not speak TLS.
    plain: Option<Client>,
    reference: Reference,
    auth: RegistryAuth,
}

impl Remote {
    fn new(name: &Name, access: &Access) -> Result<Self, Error> {
        // Another part of the process may have chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = |protocol| {
            let config = ClientConfig {
                protocol,
                accept_invalid_certificates: !access.verify_tls,
                connect_timeout: Some(PATIENCE),
                read_timeout: Some(PATIENCE),
                user_agent: concat!("mote/", env!("CARGO_PKG_VERSION")),
                ..ClientConfig::default()
            };
            Client::try_from(config).map_err(|error| wrong(name, &error))
        };
        let (registry, repository) = (name.registry().to_owned(), name.repository().to_owned());
        let reference = match name.digest() {
            Some(digest) => Reference::with_digest(registry, repository, digest.to_string()),
            None => Reference::with_tag(registry, repository, name.tag().unwrap_or("latest").to_owned()),
        };
        let plain = if access.verify_tls { None } else { Some(client(ClientProtocol::Http)?) };
        Ok(Self {
            name: name.clone(),
            client: client(ClientProtocol::Https)?,
            plain,
            reference,
            auth: credentials::find(name, access.credentials.as_deref())?,
        })
    }

    fn wrong(&self, error: &OciDistributionError) -> Error {
        let why = match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                "it does not exist there, or you may not have it (`podman login` and `docker login` keep credentials)".into()
            }
            OciDistributionError::ImageManifestNotFoundError(_) => "it does not exist there".into(),
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|error| {
                    matches!(error.code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown)
                }) =>
            {
                "it does not exist there".into()
            }
            other => return wrong(&self.name, other),
        };
        Error::Registry { name: self.name.to_string(), why }
    }

    /// The image's manifest.
    async fn manifest(mut self) -> Result<(Vec<u8>, ImageManifest, Self), Error> {
        let first = self.authenticate().await;
        if let (Err(OciDistributionError::RequestError(error)), Some(plain)) = (&first, self.plain.take()) {
            if error.is_connect() || error.is_request() {
                self.client = plain;
                self.authenticate().await.map_err(|error| self.wrong(&error))?;
            } else {
                first.map_err(|error| self.wrong(&error))?;
            }
        } else {
            first.map_err(|error| self.wrong(&error))?;
        }
        let mut reference = self.reference.clone();
        let mut expected = self.name.digest();
        for _ in 0..=oci::DEEPEST_INDEX {
            let pulled = self.client.pull_manifest_raw(&reference, &self.auth, &oci::MANIFESTS).await;
            let bytes = pulled.map_err(|error| self.wrong(&error))?.0.to_vec();
            if bytes.len() as u64 > oci::LONGEST_DOCUMENT {
                return Err(Error::Document { what: "manifest", why: "it is longer than 4 MiB".into() });
            }
            let actual = Digest::of_bytes(&bytes);
            if let Some(digest) = expected.filter(|&digest| digest != actual) {
                return Err(Error::Blob { digest, why: format!("its content has the digest {actual}") });
            }
            match Document::parse(&bytes)? {
                Document::Manifest(manifest) => return Ok((bytes, *manifest, self)),
                Document::Index(index) => {
                    let digest = oci::digest(oci::choose(&index)?)?;
                    expected = Some(digest);
                    reference = reference.clone_with_digest(digest.to_string());
                }
            }
        }
        Err(Error::Document { what: "index", why: "it leads to too many others".into() })
    }

    async fn authenticate(&self) -> Result<(), OciDistributionError> {
        self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await.map(drop)
    }

    /// Downloads blobs, several at a time.
    async fn blobs(
        &self,
        store: &Store,
        wanted: Vec<(Descriptor, Staged)>,
        job: &Job<'_>,
    ) -> Result<(), Error> {
        let downloads =
            wanted.into_iter().map(|(descriptor, staged)| self.blob(store, descriptor, staged, job));
        stream::iter(downloads).buffer_unordered(AT_A_TIME).try_collect::<Vec<()>>().await.map(drop)
    }

    async fn blob(
        &self,
        store: &Store,
        descriptor: Descriptor,
        mut staged: Staged,
        job: &Job<'_>,
    ) -> Result<(), Error> {
        let (digest, size) = (oci::digest(&descriptor)?, descriptor.size());
        let failed = |error| Error::in_store(store.path(), store.path(), error);
        let step = job.progress.step(&format!("Copying blob {}", digest.short()), size);
        let mut file = staged.file().try_clone().map_err(failed)?;
        let mut there = file.metadata().map_err(failed)?.len();
        loop {
            if there == 0 || there > size {
                file.set_len(0).map_err(failed)?;
                there = 0;
            }
            let found = self.fetch(&mut file, digest, size, there, &*step).await?.map_err(failed)?;
            match blobs::check(digest, size, found) {
                Ok(()) => return store.publish_blob(digest, staged),
                // What was there before may be what is wrong.
                Err(_) if there > 0 => there = 0,
                Err(error) => {
                    staged.discard();
                    return Err(error);
                }
            }
        }
    }

    /// Completes a blob of which `there` bytes are there. Returns what it has become, or why the file could not be written.
    async fn fetch(
        &self,
        file: &mut File,
        digest: Digest,
        size: u64,
        there: u64,
        step: &dyn Step,
    ) -> Result<std::io::Result<(Digest, u64)>, Error> {
        let mut hasher = Sha256::new();
        let mut length = there;
        if let Err(error) = file.seek(SeekFrom::Start(0)).and_then(|_| update_from(&mut hasher, file)) {
            return Ok(Err(error));
        }
        step.advance(there);
        if there < size {
            let (mut stream, is_whole) = self.open(digest, there).await?;
            if is_whole {
                if let Err(error) = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))) {
                    return Ok(Err(error));
                }
                (hasher, length) = (Sha256::new(), 0);
            }
            // The last word on what has arrived is ours.
            while length < size {
                let Some(bytes) = stream.stream.next().await else { break };
                let bytes = bytes.map_err(|error| wrong(&self.name, &error))?;
                length += bytes.len() as u64;
                if let Err(error) = add(file, &mut hasher, &bytes, step) {
                    return Ok(Err(error));
                }
            }
        }
        if length < size {
            return Err(Error::Registry {
                name: self.name.to_string(),
                why: format!("the blob {} ended after {length} of {size} bytes", digest.short()),
            });
        }
        Ok(Ok((Digest::of(hasher), length)))
    }

    /// The blob from `offset` on, or from its start, if the registry does not give parts.
    async fn open(&self, digest: Digest, offset: u64) -> Result<(SizedStream, bool), Error> {
        let text = digest.to_string();
        let failed = |error: OciDistributionError| self.wrong(&error);
        if offset == 0 {
            let stream =
                self.client.pull_blob_stream(&self.reference, text.as_str()).await.map_err(failed)?;
            return Ok((stream, false));
        }
        let part = self.client.pull_blob_stream_partial(&self.reference, text.as_str(), offset, None).await;
        Ok(match part.map_err(failed)? {
            BlobResponse::Full(stream) => (stream, true),
            BlobResponse::Partial(stream) => (stream, false),
        })
    }
}

fn add(file: &mut File, hasher: &mut Sha256, bytes: &[u8], step: &dyn Step) -> std::io::Result<()> {
    file.write_all(bytes)?;
    hasher.update(bytes);
    step.advance(bytes.len() as u64);
    Ok(())
}

/// Every cause in one line, as the outermost one of these crates says nothing.
fn wrong(name: &Name, error: &dyn std::error::Error) -> Error {
    let mut why: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string().replace('\n', " ");
        if why.last().is_none_or(|last| !last.contains(&text)) {
            why.push(text);
        }
        next = cause.source();
    }
    let mut why = why.join(": ");
    // What a TLS client says of an answer that is none of TLS.
    if why.contains("InvalidContentType") {
        why += "; if it is a registry without TLS, --tls-verify=false";
    }
    Error::Registry { name: name.to_string(), why }
}
