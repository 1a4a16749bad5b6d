//! Reads the one thing of an ELF file that copying a program needs: the path of its interpreter.

/// What kind of executable a file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It needs nothing else.
    Static,
    /// It needs the interpreter with this path, and the libraries that the interpreter finds.
    Dynamic(String),
    /// It is no 64-bit little-endian ELF file, or a broken one.
    Foreign,
}

const PT_INTERP: u32 = 3;

/// What kind of executable `file` holds.
pub(crate) fn kind(file: &[u8]) -> Kind {
    parse(file).unwrap_or(Kind::Foreign)
}

fn parse(file: &[u8]) -> Option<Kind> {
    // Class 2 is ELFCLASS64, data encoding 1 is ELFDATA2LSB.
    file.strip_prefix(b"\x7fELF\x02\x01")?;
    let table = number(file, 0x20, 8)?;
    let size = number(file, 0x36, 2)?;
    let count = number(file, 0x38, 2)?;
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(size)?)?;
        if number(file, header, 4)? == usize::try_from(PT_INTERP).ok()? {
            let start = number(file, header.checked_add(0x8)?, 8)?;
            let length = number(file, header.checked_add(0x20)?, 8)?;
            let path = file.get(start..start.checked_add(length)?)?;
            let path = path.split(|&byte| byte == 0).next()?;
            return String::from_utf8(path.to_vec()).ok().map(Kind::Dynamic);
        }
    }
    Some(Kind::Static)
}

/// The little-endian number of `length` bytes, at most 8, at `offset`.
fn number(file: &[u8], offset: usize, length: usize) -> Option<usize> {
    let bytes = file.get(offset..offset.checked_add(length)?)?;
    let value = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_are_recognised() {
        assert_eq!(kind(b"#!/bin/sh\n"), Kind::Foreign);
        assert_eq!(kind(b"\x7fELF\x02\x01"), Kind::Foreign);
        let mut header = vec![0xff; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(kind(&header), Kind::Foreign);
    }

    #[test]
    fn busybox_is_static() {
        assert_eq!(kind(&std::fs::read("/bin/busybox").unwrap()), Kind::Static);
    }
}
