//! Extended attributes of a file, without following a symbolic link.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Name and value of every attribute that the caller may see, sorted by name. A file system without extended
/// attributes has none.
pub(crate) fn read(path: &Path) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let names = match grown(|buffer| list(&path, buffer)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut attributes = Vec::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        match grown(|buffer| get(&path, name, buffer)) {
            // Removed since it was listed.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => {}
            value => attributes.push((name.to_owned(), value?)),
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// Calls `read` with a buffer that is as long as it asked for when it was given none, until that is still enough.
fn grown(read: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    loop {
        let mut buffer = vec![0; read(&mut [])?];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match read(&mut buffer) {
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
            length => {
                buffer.truncate(length?);
                return Ok(buffer);
            }
        }
    }
}

fn list(path: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `path` ends with a NUL; the kernel writes at most `buffer.len()` bytes to `buffer`, and none if that
    // is zero.
    let length = unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

fn get(path: &CStr, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `path` and `name` end with a NUL; the kernel writes at most `buffer.len()` bytes to `buffer`, and none
    // if that is zero.
    let length =
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &Path, name: &CStr, value: &[u8]) {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: `path` and `name` end with a NUL, and `value` has the length that is given.
        let status =
            unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        assert_eq!(status, 0, "extended attributes in {path:?}: {}", io::Error::last_os_error());
    }

    #[test]
    fn attributes_come_sorted_and_without_following_links() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        set(&file, c"user.z", b"");
        set(&file, c"user.a", &[7; 300]);
        let user: Vec<_> = read(&file)
            .unwrap()
            .into_iter()
            .filter(|(name, _)| name.to_bytes().starts_with(b"user"))
            .collect();
        assert_eq!(user, [(c"user.a".into(), vec![7; 300]), (c"user.z".into(), vec![])]);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(read(&link).unwrap().iter().all(|(name, _)| !name.to_bytes().starts_with(b"user")));
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
