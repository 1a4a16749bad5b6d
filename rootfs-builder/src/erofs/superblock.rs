//! The superblock: what kind of image this is, and where its root is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::BLOCK;

/// Where it starts, in bytes.
pub(super) const OFFSET: usize = 1024;
/// Its length in bytes.
pub(super) const LENGTH: usize = 128;

const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM` and `EROFS_FEATURE_COMPAT_MTIME`: there is a checksum, and time stamps are of the last change.
const COMPATIBLE: u32 = 0x1 | 0x2;
/// The same file system UUID in every image.
const UUID: [u8; 16] = *b"mote\0\0\x40\0\x80\0\0\0\0\0\0\0";
const CHECKSUM: usize = 4;

/// The superblock, still without its checksum.
pub(super) fn block(blocks: u32, root: u64, inodes: usize) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut put = |offset: usize, field: &[u8]| {
        if let Some(place) = bytes.get_mut(offset..offset + field.len()) {
            place.copy_from_slice(field);
        }
    };
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPATIBLE.to_le_bytes());
    put(12, &[12]); // blkszbits: 4096 bytes
    // The root lies in the first block.
    put(14, &u16::try_from(root).unwrap_or(0).to_le_bytes());
    put(16, &(inodes as u64).to_le_bytes());
    // build_time, at 24, stays 0: it is the time stamp of inodes in the short form.
    put(36, &blocks.to_le_bytes());
    // meta_blkaddr, at 40, stays 0: inodes are counted from the image's start.
    put(48, &UUID);
    bytes
}

/// Puts the checksum of the superblock and the rest of its block into it.
pub(super) fn seal(image: &File) -> io::Result<()> {
    let mut bytes = [0; BLOCK - OFFSET];
    image.read_exact_at(&mut bytes, OFFSET as u64)?;
    image.write_all_at(&checksum(&bytes).to_le_bytes(), (OFFSET + CHECKSUM) as u64)
}

/// CRC-32C (Castagnoli) without the final inversion, as the kernel's `crc32c()`.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |state, &byte| {
        (0..8).fold(state ^ u32::from(byte), |state, _| (state >> 1) ^ ((state & 1) * 0x82F6_3B78))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of the catalogue of CRCs, which inverts at the end.
        assert_eq!(!checksum(b"123456789"), 0xE306_9283);
    }
}
