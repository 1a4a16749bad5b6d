//! Everything that is not an image.

use std::fs;
use std::os::unix::net::UnixListener;

use super::*;

fn superblock(bits: u8, blocks: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.max(1024 + 128)];
    bytes[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[1024 + 12] = bits;
    bytes[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
    bytes.truncate(length);
    bytes
}

fn checked(bytes: &[u8]) -> Result<(), ImageError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    check(file.path())
}

#[test]
fn a_complete_image_is_one() {
    checked(&superblock(12, 2, 8192)).unwrap();
    checked(&superblock(12, 1, 8192)).unwrap();
    checked(&superblock(9, 16, 8192)).unwrap();
}

#[test]
fn what_ends_early_is_cut_short() {
    let error = checked(&superblock(12, 2, 8191)).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { needed: 8192, actual: 8191, .. }), "{error}");
    let error = checked(&superblock(12, u32::MAX, 8192)).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { needed: 0x0fff_ffff_f000, .. }), "{error}");
}

#[test]
fn other_bytes_are_no_image() {
    for bytes in [vec![1], vec![0; 1 << 16], superblock(12, 2, 1024 + 127), superblock(12, 2, 1027)] {
        let error = checked(&bytes).unwrap_err();
        assert!(matches!(error, ImageError::NotErofs { .. }), "{error}");
    }
    let error = checked(&[]).unwrap_err();
    assert!(matches!(error, ImageError::Empty { .. }), "{error}");
}

#[test]
fn a_superblock_that_no_guest_mounts_is_damaged() {
    for bytes in [superblock(0, 2, 8192), superblock(255, 2, 8192), superblock(12, 0, 8192)] {
        let error = checked(&bytes).unwrap_err();
        assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    }
}

#[test]
fn what_is_not_a_regular_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = check(folder.path()).unwrap_err();
    assert!(matches!(error, ImageError::Folder { .. }), "{error}");
    let error = check(&folder.path().join("none")).unwrap_err();
    assert!(matches!(error, ImageError::Missing { .. }), "{error}");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let error = check(&pipe).unwrap_err();
    assert!(matches!(error, ImageError::NotAFile { .. }), "{error}");
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = check(&socket).unwrap_err();
    assert!(matches!(error, ImageError::NotAFile { .. }), "{error}");
    fs::write(folder.path().join("file"), "x").unwrap();
    let error = check(&folder.path().join("file/image")).unwrap_err();
    assert!(matches!(error, ImageError::Unreadable { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}
