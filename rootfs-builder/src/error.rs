//! What can go wrong, in words for the user.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a folder could not be made into an image.
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
    /// A file name has 255 bytes, which Linux allows and `mkfs.erofs` does not handle.
    #[error("cannot pack {}: its name is longer than 254 bytes", path.display())]
    NameTooLong {
        /// The file.
        path: PathBuf,
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
    /// The program that packs images is not there.
    #[error("{} is not installed: install the package erofs-utils", program.display())]
    MkfsMissing {
        /// The program as it was called.
        program: PathBuf,
    },
    /// The program that packs images could not be started or waited for.
    #[error("cannot run {}", program.display())]
    MkfsStart {
        /// The program as it was called.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program that packs images gave up.
    #[error("{} failed on {} ({status}): {message}", program.display(), folder.display())]
    MkfsFailed {
        /// The program as it was called.
        program: PathBuf,
        /// The folder that it was to pack.
        folder: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote to its standard error, joined to one.
        message: String,
    },
    /// The program that packs images reported success and left something else than an image.
    #[error("{} made no usable image of {}", program.display(), folder.display())]
    MkfsImage {
        /// The program as it was called.
        program: PathBuf,
        /// The folder that it was to pack.
        folder: PathBuf,
        /// What is wrong with the image.
        #[source]
        source: ImageError,
    },
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
