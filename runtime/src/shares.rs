//! Shares: folders and files of the host's that a guest sees, all of them through one device.
//!
//! A program that uses shares mounts them once, with [`mount`], and finds share N at [`guest_path`]`(N)`, a folder or a file, to bind
//! it wherever it likes. A share that is read-only is so on the host already; a program that wants the guest to say "read-only file
//! system" by itself sets the attribute on its own mount, too.

use std::{
    ffi::{CStr, CString},
    path::Path,
};

use mote_protocol::{Operation, StrList};
use mote_vmm::virtio::fs::{self, Fs};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    Error,
    error::{Kind, errno},
    spec::{Cache, Machine, Share},
};

/// The tag by which the guest finds its shares.
pub const TAG: &CStr = c"mote";
/// Where in the guest they are mounted.
pub const FOLDER: &CStr = c"/shares";

/// Where share `index` is in the guest, once [`mount`] was carried out.
#[must_use]
pub fn guest_path(index: usize) -> CString {
    let path = [FOLDER.to_bytes(), b"/", index.to_string().as_bytes()].concat();
    // Without NUL: see the parts.
    CString::new(path).unwrap_or_default()
}

/// The operations that make the shares visible in the guest. They stand before any `SetRoot`.
///
/// # Errors
/// Those of `push`.
pub fn mount<E>(push: &mut impl FnMut(Operation<'_>) -> Result<(), E>) -> Result<(), E> {
    push(Operation::MakeDirectory { path: FOLDER.into(), mode: 0o755 })?;
    push(Operation::Mount {
        fs_type: c"virtiofs".into(),
        source: TAG.into(),
        target: FOLDER.into(),
        attributes: 0,
        options: StrList::default(),
    })
}

/// The device that carries the shares of `machine`, if it has any.
pub(crate) fn device(machine: &Machine) -> Result<Option<Fs>, Error> {
    if machine.shares.is_empty() {
        return Ok(None);
    }
    raise_descriptor_limit()?;
    let shares: Vec<_> = machine.shares.iter().map(fs::Share::from).collect();
    let tag = TAG.to_string_lossy();
    let device = Fs::new(&tag, &shares, machine.memory);
    device.map(Some).map_err(|error| Error::because(Kind::Share, "cannot share", &error))
}

/// Each file that the guest opens is open here: as many as the host allows.
fn raise_descriptor_limit() -> Result<(), Error> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(errno("ask for the limit of descriptors"))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(errno("raise the limit of descriptors"))?;
    }
    Ok(())
}

/// What is at `source`, as far as a share is concerned.
///
/// # Errors
/// It is missing, cannot be looked at, or is neither a folder nor a regular file.
pub fn is_folder(source: &Path) -> Result<bool, Error> {
    let failed =
        |error: &dyn std::error::Error| Error::because(Kind::Share, source.display().to_string(), error);
    let metadata = std::fs::metadata(source).map_err(|error| failed(&error))?;
    if metadata.is_dir() || metadata.is_file() {
        return Ok(metadata.is_dir());
    }
    Err(failed(&fs::Error::Kind(source.into())))
}

impl From<&Share> for fs::Share {
    fn from(share: &Share) -> Self {
        let cache = match share.cache {
            Cache::None => fs::Cache::None,
            Cache::Auto => fs::Cache::Auto,
            Cache::Always => fs::Cache::Always,
        };
        Self { source: share.source.clone(), read_only: share.read_only, cache }
    }
}
