//! Makes the read-only EROFS images that Mote boots containers from, and keeps them in a store on disk.
//!
//! This crate owns the store (its layout, its lock, its temporaries) and the way from a folder to an image, through
//! the program `mkfs.erofs`. It must not know what a VM, a sandbox or a container is, nor who uses an image; it reads
//! no environment variable of Mote's own, as which store to use is the caller's decision.
//!
//! Callers: the runtime, for an image that is to be attached to a VM ([`Store::folder_image`] for a folder,
//! [`image::check`] for an image file that a user names).
//!
//! What can go wrong: the folder is missing, empty, unreadable or changes while it is read; `mkfs.erofs` is not
//! installed or fails; the store cannot be written or is full; a file given as an image is none. Each is an [`Error`]
//! or an [`ImageError`]. A failure, a crash or a full disk at any moment leaves the store's images as they were:
//! an image has its name only once it is complete and on disk.

mod digest;
mod erofs;
mod error;
mod folder;
pub mod image;
mod staging;
mod store;
mod xattr;

pub use error::{Error, ImageError};
pub use store::Store;
