//! Makes the read-only EROFS images that Mote boots containers from, and keeps them in a store on disk.
//!
//! This crate owns the way from a registry, an archive or a folder to an image, and the store (its layout, its locks, its
//! temporaries). It must not know what a VM, a sandbox or a container is, nor who uses an image; it reads
//! no environment variable of Mote's own, as which store to use is the caller's decision.
//!
//! ```text
//! registry ──┐                                   layer ──> tree ──┐
//! archive  ──┼─> source ──> store: blobs, names ──┴── contents ───┴─> erofs ──> store: images
//! folder   ──┘                                   folder ──────────┘
//! ```
//!
//! Callers: the command line, for images; the runtime, for what is to be attached to a VM ([`Store::rootfs`] for an
//! image, [`Store::folder_image`] for a folder, [`image::check`] for an image file that a user names).
//!
//! What can go wrong: an image is not there, not for this machine, damaged or hostile; a registry does not answer; a folder
//! is unreadable or changes while it is read; the store cannot be written or is full; a file given as an image is none. Each is an
//! [`Error`] or an [`ImageError`]. A failure, a crash or a full disk at any moment leaves the store's images as they were:
//! whatever has its name is complete and on disk.
//!
//! What comes from outside is taken for hostile. Archives are unpacked in memory and into one file, never into a file system of
//! the host's, so there is no path that could lead out; see [`layer`].

mod digest;
mod erofs;
mod error;
mod folder;
pub mod image;
mod job;
pub mod layer;
mod name;
mod oci;
mod process;
mod registry;
mod source;
mod staging;
mod store;
pub mod tree;
mod xattr;

pub use digest::Digest;
pub use error::{Error, ImageError};
pub use job::{Job, Progress, Silent, Step};
pub use name::Name;
pub use process::{ProcessConfig, User, users};
pub use registry::Access;
pub use source::Source;
pub use store::{Image, Removed, Rootfs, Store};
