//! What can go wrong, in words for the user.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::layer::LayerError;

/// Why something could not be done with an image or the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is at the folder's path.
    #[error("no such folder: {}", path.display())]
    FolderMissing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Something else than a folder is at the folder's path.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The folder has no entries.
    #[error("the folder {} is empty: there is nothing to run in it", path.display())]
    FolderEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The folder, or a file or folder in it, cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The first path that cannot be read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder was written to while it was packed, so the image may be of no state that it ever had.
    #[error("the folder {} changed while it was packed: try again when nothing writes to it", path.display())]
    FolderChanged {
        /// The folder.
        path: PathBuf,
    },
    /// The store lies in the folder, so that an image would have to contain itself.
    #[error("the store {} lies in the folder {}: use another store", store.display(), folder.display())]
    StoreInFolder {
        /// The store's folder.
        store: PathBuf,
        /// The folder to be packed.
        folder: PathBuf,
    },
    /// Neither `XDG_DATA_HOME` nor `HOME` says where a user's store is.
    #[error("no place for the image store: HOME is not set")]
    NoHome,
    /// The store cannot be made, read or written.
    #[error("cannot use the image store at {}", path.display())]
    Store {
        /// The path in the store that an operation failed on.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk that the store is on is full, or its quota is used up.
    #[error("no space left for the image store at {}", store.display())]
    NoSpace {
        /// The store's folder.
        store: PathBuf,
        /// What was reported.
        #[source]
        source: io::Error,
    },
    /// A name of an image is none.
    #[error("{name:?} is no name of an image: {why}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The store has no image of this name or ID.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// What was given.
        name: String,
    },
    /// Several images have IDs that start so.
    #[error("{name} is the beginning of several images' IDs: give more of it")]
    Ambiguous {
        /// What was given.
        name: String,
    },
    /// A machine runs of the image.
    #[error("the image {name} is in use: end what runs of it, or remove it with --force")]
    InUse {
        /// What was given.
        name: String,
    },
    /// An image that is to be removed by its ID has several names.
    #[error("the image {} has several names ({names}): remove them, or it with --force", id.short())]
    SeveralNames {
        /// The image.
        id: Digest,
        /// Its names.
        names: String,
    },
    /// What is to be imported is nothing of which an image can be made.
    #[error("{} is no image, no archive and no folder: {why}", path.display())]
    NotAnImage {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What is to be imported has several images, and one name was given for them.
    #[error("{} has {count} images: import them without a name", path.display())]
    SeveralImages {
        /// The path as it was given.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// A manifest, configuration or index cannot be understood.
    #[error("the image's {what} is damaged: {why}")]
    Document {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The image is for other machines.
    #[error("the image is not for this machine: it is for {}, and this is {wanted}", if found.is_empty() { "none" } else { found })]
    Platform {
        /// What this machine is.
        wanted: String,
        /// What the image is for.
        found: String,
    },
    /// A blob is not what its name says.
    #[error("the blob {} is not what it should be: {why}", digest.short())]
    Blob {
        /// Its name.
        digest: Digest,
        /// The difference.
        why: String,
    },
    /// A blob cannot be read where it comes from.
    #[error("cannot read the blob {}", digest.short())]
    BlobUnreadable {
        /// Its name.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob is not where the image comes from.
    #[error("the blob {} is missing", digest.short())]
    BlobMissing {
        /// Its name.
        digest: Digest,
    },
    /// A layer cannot be applied.
    #[error("cannot unpack the layer {}", digest.short())]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The image is larger than the limit.
    #[error("the image has more than {limit} bytes: allow it with --max-size if you trust it")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A registry did not give an image.
    #[error("cannot pull {name}: {why}")]
    Registry {
        /// The image's name.
        name: String,
        /// What the registry, or the way to it, had against it.
        why: String,
    },
    /// A file with credentials cannot be used.
    #[error("cannot use the credentials in {}: {why}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An image could not be written to where the caller wants it.
    #[error("cannot write the archive")]
    Output {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller wanted to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Why a file is not an image that can be booted from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Nothing is at the path.
    #[error("no such image: {}", path.display())]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A folder is at the path.
    #[error("{} is a folder, not an image", path.display())]
    Folder {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A device, pipe or socket is at the path.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("cannot read the image {}", path.display())]
    Unreadable {
        /// The path as it was given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("the image {} is empty", path.display())]
    Empty {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The file has no EROFS superblock.
    #[error("{} is not an EROFS image", path.display())]
    NotErofs {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The superblock says something that no guest can mount.
    #[error("the image {} has a damaged superblock", path.display())]
    Damaged {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The file ends before the file system does.
    #[error("the image {} is cut short: it has {actual} of at least {needed} bytes", path.display())]
    Truncated {
        /// The path as it was given.
        path: PathBuf,
        /// The bytes that the superblock speaks of.
        needed: u64,
        /// The bytes that the file has.
        actual: u64,
    },
}

impl Error {
    /// An operation on `path`, in the store at `store`, failed.
    pub(crate) fn in_store(store: &Path, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { store: store.to_path_buf(), source }
            }
            _ => Self::Store { path: path.to_path_buf(), source },
        }
    }

    /// A `path` of the folder that is to be packed could not be read.
    pub(crate) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: path.to_path_buf(), source }
    }
}
