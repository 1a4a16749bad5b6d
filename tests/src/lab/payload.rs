//! Takes the uncompressed kernel out of a `vmlinuz`.
//!
//! A bzImage (Documentation/arch/x86/boot.rst) is a boot sector, `setup_sects` sectors of real-mode code, and the
//! protected-mode kernel, which contains the compressed `vmlinux` at `payload_offset`.

use std::path::Path;

use super::error::{Error, Result};
use super::tools;

const SECTOR: usize = 512;
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// `setup_sects` means this if it is 0.
const SETUP_SECTS_DEFAULT: usize = 4;
/// The kernel's build appends the uncompressed size to every payload but gzip's, whose format ends with it.
const SIZE_TRAILER: usize = 4;

/// How a file starts that one of the kernel's compressors wrote; the program that undoes it, its package, and how much
/// the kernel's build has put behind the compressed data.
const FORMATS: [(&[u8], &str, &str, usize); 4] = [
    (b"\xfd7zXZ\0", "xz", "xz-utils", SIZE_TRAILER),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd", SIZE_TRAILER),
    (b"\x02\x21\x4c\x18", "lz4", "lz4", SIZE_TRAILER),
    (b"\x1f\x8b", "gzip", "gzip", 0),
];

/// The `vmlinux` in the bzImage `vmlinuz`, which was read from `path`.
pub(crate) fn extract(vmlinuz: &[u8], path: &Path) -> Result<Vec<u8>> {
    let payload = payload(vmlinuz).ok_or_else(|| Error::Kernel {
        reason: format!("{} is no bzImage with a payload (boot protocol 2.08 or later)", path.display()),
    })?;
    let Some((_, program, package, trailer)) = FORMATS.iter().find(|(magic, ..)| payload.starts_with(magic))
    else {
        return Err(Error::Kernel {
            reason: format!("{} is compressed with none of xz, zstd, lz4 and gzip", path.display()),
        });
    };
    let body = payload.get(..payload.len().saturating_sub(*trailer)).unwrap_or_default();
    let vmlinux = tools::output(program, package, &["-dc"], Path::new("/"), body)?;
    if !vmlinux.starts_with(b"\x7fELF") {
        return Err(Error::Kernel { reason: format!("the payload of {} is no ELF file", path.display()) });
    }
    Ok(vmlinux)
}

/// A kernel module's ELF file; its package may hold it compressed.
pub(crate) fn module(bytes: Vec<u8>) -> Result<Vec<u8>> {
    match FORMATS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        Some((_, program, package, _)) => tools::output(program, package, &["-dc"], Path::new("/"), &bytes),
        None => Ok(bytes),
    }
}

fn payload(vmlinuz: &[u8]) -> Option<&[u8]> {
    if vmlinuz.get(HEADER_MAGIC..HEADER_MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let sectors = match usize::from(*vmlinuz.get(SETUP_SECTS)?) {
        0 => SETUP_SECTS_DEFAULT,
        count => count,
    };
    let start = (sectors + 1) * SECTOR + word(vmlinuz, PAYLOAD_OFFSET)?;
    let end = start.checked_add(word(vmlinuz, PAYLOAD_LENGTH)?)?;
    vmlinuz.get(start..end)
}

/// The little-endian 32-bit word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<usize> {
    let word = bytes.get(offset..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*word)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 16];
        image[SETUP_SECTS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn a_compressed_kernel_is_taken_out() {
        let vmlinux = b"\x7fELF and the rest of it";
        let mut packed =
            tools::output("xz", "xz-utils", &["-c", "--check=crc32"], Path::new("/"), vmlinux).unwrap();
        packed.extend_from_slice(&[23, 0, 0, 0]);
        assert_eq!(extract(&bzimage(&packed), Path::new("vmlinuz")).unwrap(), vmlinux);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut short = bzimage(b"\xfd7zXZ\0");
        short.pop();
        for (image, word) in [
            (Vec::new(), "bzImage"),
            (vec![0; 4096], "bzImage"),
            (short, "bzImage"),
            (bzimage(b"odd"), "none of"),
        ] {
            let error = extract(&image, Path::new("vmlinuz")).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
