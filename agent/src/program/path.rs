//! Taking paths and mount options apart, and making what a path names.

use core::ffi::CStr;

use heapless::Vec;
use rustix::io::Errno;

use super::{
    At, Fault,
    kernel::{Kernel, Opened},
};

/// `PATH_MAX` of Linux: the longest path, with its NUL.
const PATH_MAX: usize = 4096;
/// `NAME_MAX` of Linux and a NUL.
const NAME_ROOM: usize = 256;

/// A string with its NUL, in a buffer of its own.
#[derive(Debug)]
pub(crate) struct Text<const N: usize>(Vec<u8, N>);

impl<const N: usize> Text<N> {
    /// The bytes of `parts`, one after the other.
    pub(super) fn join(parts: &[&[u8]]) -> Result<Self, Errno> {
        let mut text = Vec::new();
        for part in parts.iter().copied().chain([&[0_u8][..]]) {
            text.extend_from_slice(part).map_err(|_| Errno::NAMETOOLONG)?;
        }
        Ok(Self(text))
    }
}

impl<const N: usize> core::ops::Deref for Text<N> {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// The permissions of a folder that is made for a mount.
pub(super) const FOLDER_MODE: u32 = 0o755;
/// `S_IFREG` and the permissions of a file that is made for a mount.
const FILE_MODE: u32 = 0o100_644;

/// A number's decimal digits.
pub(crate) fn decimal(number: u32, room: &mut [u8; 10]) -> &[u8] {
    let mut rest = number;
    let mut start = room.len();
    for (index, digit) in room.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        start = index;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    room.get(start..).unwrap_or_default()
}

/// `key=value` as key and value; `None` if there is no `=`.
pub(super) fn split_option(option: &CStr) -> Result<Option<(Text<NAME_ROOM>, &CStr)>, Errno> {
    let bytes = option.to_bytes_with_nul();
    let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
        return Ok(None);
    };
    let (key, value) = bytes.split_at(at);
    let value = value.get(1..).and_then(|value| CStr::from_bytes_with_nul(value).ok()).ok_or(Errno::INVAL)?;
    Ok(Some((Text::join(&[key])?, value)))
}

fn without_trailing_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    path.get(..end).unwrap_or_default()
}

/// A path without trailing slashes, as the folder that holds it and its name there.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    let path = without_trailing_slashes(path);
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    path.split_at(name)
}

/// Opens the folder that a path names; an empty path is the root.
fn open_folder<K: Kernel>(kernel: &mut K, root: &K::Fd, path: &[u8]) -> Result<K::Fd, Errno> {
    let path = Text::<PATH_MAX>::join(&[b"/", path])?;
    kernel.open(root, &path, Opened::Directory)
}

/// Makes a folder and those above it.
pub(super) fn make_directory<K: Kernel>(
    kernel: &mut K,
    root: &K::Fd,
    path: &CStr,
    mode: u32,
) -> Result<(), Fault> {
    // What ends with slashes ends with the component before them.
    let path = without_trailing_slashes(path.to_bytes());
    match open_folder(kernel, root, path) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).at("openat2"),
    }
    // Every prefix that ends a component, the shortest first.
    let mut end = 0;
    while end < path.len() {
        let rest = path.get(end..).unwrap_or_default();
        let start = end + rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
        let component = path.get(start..).unwrap_or_default();
        end = start + component.iter().position(|byte| *byte == b'/').unwrap_or(component.len());
        let (prefix, name) = (path.get(..end).unwrap_or_default(), path.get(start..end).unwrap_or_default());
        match open_folder(kernel, root, prefix) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).at("openat2"),
        }
        let parent = open_folder(kernel, root, path.get(..start).unwrap_or_default()).at("openat2")?;
        let name = Text::<NAME_ROOM>::join(&[name]).at("mkdirat")?;
        match kernel.make_directory(&parent, &name, mode) {
            // Somebody else made it, or a link that leads nowhere has the name: opening it tells.
            Ok(()) | Err(Errno::EXIST) => drop(open_folder(kernel, root, prefix).at("openat2")?),
            Err(errno) => return Err(errno).at("mkdirat"),
        }
    }
    Ok(())
}

/// Makes a symbolic link, unless something has its name.
pub(super) fn make_symlink<K: Kernel>(
    kernel: &mut K,
    root: &K::Fd,
    content: &CStr,
    path: &CStr,
) -> Result<(), Fault> {
    let (parent, name) = split_path(path.to_bytes());
    if name.is_empty() {
        return Err(Fault::invalid("link without a name"));
    }
    let parent = open_folder(kernel, root, parent).at("openat2")?;
    let name = Text::<NAME_ROOM>::join(&[name]).at("symlinkat")?;
    match kernel.make_symlink(content, &parent, &name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).at("symlinkat"),
    }
}

/// Makes an empty file, and the folders above it.
pub(super) fn make_file<K: Kernel>(kernel: &mut K, root: &K::Fd, path: &CStr) -> Result<(), Fault> {
    make_node(kernel, root, path, FILE_MODE, (0, 0)).map(|_| ())
}

/// Makes a device or a pipe and the folders above it, and gives it to a user; unless something has its name.
pub(super) fn make_device<K: Kernel>(
    kernel: &mut K,
    root: &K::Fd,
    path: &CStr,
    mode: u32,
    device: (u32, u32),
    owner: (u32, u32),
) -> Result<(), Fault> {
    match make_node(kernel, root, path, mode, device)? {
        Some((parent, name)) => kernel.change_owner(&parent, &name, owner).at("fchownat"),
        None => Ok(()),
    }
}

/// Makes a node and the folders above it. `None` if something has its name.
fn make_node<K: Kernel>(
    kernel: &mut K,
    root: &K::Fd,
    path: &CStr,
    mode: u32,
    device: (u32, u32),
) -> Result<Option<(K::Fd, Text<NAME_ROOM>)>, Fault> {
    let (folder, name) = split_path(path.to_bytes());
    if name.is_empty() {
        return Err(Fault::invalid("node without a name"));
    }
    let folder = Text::<PATH_MAX>::join(&[folder]).at("openat2")?;
    make_directory(kernel, root, &folder, FOLDER_MODE)?;
    let parent = open_folder(kernel, root, folder.to_bytes()).at("openat2")?;
    let name = Text::<NAME_ROOM>::join(&[name]).at("mknodat")?;
    match kernel.make_node(&parent, &name, mode, device) {
        Ok(()) => Ok(Some((parent, name))),
        Err(Errno::EXIST) => Ok(None),
        Err(errno) => Err(errno).at("mknodat"),
    }
}
