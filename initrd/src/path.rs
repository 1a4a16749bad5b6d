//! Which paths and link targets the kernel unpacks, and unpacks where they say.

use crate::error::{Error, Fault};

/// The longest path without its closing NUL: the kernel's `PATH_MAX` counts the NUL.
const PATH_LONGEST: usize = 4095;
/// The longest component: the kernel's `NAME_MAX`, which does not count a NUL.
const COMPONENT_LONGEST: usize = 255;
/// The name of the entry that ends an archive.
pub(crate) const TRAILER: &[u8] = b"TRAILER!!!";

/// Checks the path of an entry.
pub(crate) fn check(path: &[u8]) -> Result<(), Error> {
    match fault(path) {
        None => Ok(()),
        Some(fault) => Err(Error::Path { path: readable(path), fault }),
    }
}

/// Checks the target of the symbolic link at `path`. A target may be absolute or climb out with `..`: nothing
/// follows it before the guest does, inside its own root.
pub(crate) fn check_target(path: &[u8], target: &[u8]) -> Result<(), Error> {
    match text_fault(target) {
        None => Ok(()),
        Some(fault) => Err(Error::Target { path: readable(path), fault }),
    }
}

/// The folder that `path` lies in; `None` if that is the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    path.get(..slash)
}

/// `path` for an error message.
pub(crate) fn readable(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn fault(path: &[u8]) -> Option<Fault> {
    if let Some(fault) = text_fault(path) {
        return Some(fault);
    }
    if path.starts_with(b"/") {
        return Some(Fault::Absolute);
    }
    if path == TRAILER {
        return Some(Fault::Trailer);
    }
    path.split(|&byte| byte == b'/').find_map(|component| match component {
        b"" | b"." | b".." => Some(Fault::Component),
        long if long.len() > COMPONENT_LONGEST => Some(Fault::ComponentTooLong),
        _ => None,
    })
}

fn text_fault(text: &[u8]) -> Option<Fault> {
    if text.is_empty() {
        Some(Fault::Empty)
    } else if text.len() > PATH_LONGEST {
        Some(Fault::TooLong)
    } else if text.contains(&0) {
        Some(Fault::Nul)
    } else {
        None
    }
}
