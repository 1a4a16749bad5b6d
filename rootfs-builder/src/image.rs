//! Is this file an EROFS image, and is all of it there?
//!
//! The superblock is that of the kernel's `fs/erofs/erofs_fs.h`. To check an image, nothing beyond it is looked at: the guest
//! mounts the image, and what the image says about files is the guest's to distrust. No other format is ever guessed.

mod reader;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use crate::error::ImageError;

pub use reader::{Reader, Resolved};

/// Where the superblock starts, in bytes.
const SUPERBLOCK_OFFSET: u64 = 1024;
/// The superblock's length in bytes, without extension slots.
const SUPERBLOCK_LENGTH: usize = 128;
/// The magic number, first in the superblock.
const MAGIC: u32 = 0xE0F5_E1E2;
/// Offset of `blkszbits` in the superblock: the block size as a power of two.
const BLOCK_SIZE_BITS: usize = 12;
/// Offset of `blocks` in the superblock: the blocks that the file system has.
const BLOCKS: usize = 36;
/// The block sizes that a guest with 4 KiB pages mounts: 512 bytes to 4 KiB.
const MOUNTABLE_BLOCK_SIZE_BITS: std::ops::RangeInclusive<u8> = 9..=12;

/// Checks that `path` is a regular file with an EROFS superblock and as many bytes as the superblock speaks of.
///
/// # Errors
///
/// An [`ImageError`] that says what is there instead, or why it cannot be read.
pub fn check(path: &Path) -> Result<(), ImageError> {
    let unreadable = |source| ImageError::Unreadable { path: path.to_path_buf(), source };
    let path_buf = || path.to_path_buf();
    let file = match open_at_once(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ImageError::Missing { path: path_buf() });
        }
        // A socket, or a device node without a device.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(ImageError::NotAFile { path: path_buf() });
        }
        opened => opened.map_err(unreadable)?,
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(ImageError::Folder { path: path_buf() });
    }
    if !metadata.is_file() {
        return Err(ImageError::NotAFile { path: path_buf() });
    }
    if metadata.len() == 0 {
        return Err(ImageError::Empty { path: path_buf() });
    }
    let superblock = read_superblock(&file).map_err(unreadable)?;
    let Some(superblock) = superblock.filter(|bytes| number(bytes, 0) == MAGIC) else {
        return Err(ImageError::NotErofs { path: path_buf() });
    };
    let bits = superblock[BLOCK_SIZE_BITS];
    let blocks = number(&superblock, BLOCKS);
    if !MOUNTABLE_BLOCK_SIZE_BITS.contains(&bits) || blocks == 0 {
        return Err(ImageError::Damaged { path: path_buf() });
    }
    let needed = u64::from(blocks) << bits;
    if needed > metadata.len() {
        return Err(ImageError::Truncated { path: path_buf(), needed, actual: metadata.len() });
    }
    Ok(())
}

/// Does not wait for a writer, if it is a pipe.
pub(crate) fn open_at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The superblock's bytes; `None`, if the file ends before them.
fn read_superblock(file: &File) -> io::Result<Option<[u8; SUPERBLOCK_LENGTH]>> {
    let mut bytes = [0; SUPERBLOCK_LENGTH];
    match file.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The little-endian number at `offset`, which is a constant of this file and lies in the superblock.
fn number(superblock: &[u8; SUPERBLOCK_LENGTH], offset: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| superblock[offset + index]))
}

#[cfg(test)]
mod tests;
