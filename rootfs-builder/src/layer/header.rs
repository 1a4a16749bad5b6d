//! The 512-byte headers of tar archives, in their three dialects.

use super::LayerError;
use super::sparse::Map;

/// Headers and data come in blocks of this size.
pub(super) const BLOCK: usize = 512;

/// One header as it stands in the archive.
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// Whether this is the mark of the archive's end.
    pub(super) fn is_end(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// Checks the checksum: the sum of all bytes, with spaces in its own place. Old programs took bytes for signed.
    pub(super) fn check(&self) -> Result<(), LayerError> {
        let bytes = || {
            self.0.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        let said = number(&self.0[148..156])?;
        if said == unsigned || said == signed {
            Ok(())
        } else {
            Err(LayerError::Damaged("a header's checksum is wrong"))
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The path, of two parts in the ustar dialect.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u16, LayerError> {
        u16::try_from(number(&self.0[100..108])? & 0o7777)
            .map_err(|_| LayerError::Damaged("a mode is no mode"))
    }

    pub(super) fn uid(&self) -> Result<i64, LayerError> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Result<i64, LayerError> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, LayerError> {
        unsigned(number(&self.0[124..136])?)
    }

    pub(super) fn mtime(&self) -> Result<i64, LayerError> {
        number(&self.0[136..148])
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Result<(u32, u32), LayerError> {
        let (major, minor) = (number(&self.0[329..337])?, number(&self.0[337..345])?);
        match (u32::try_from(major), u32::try_from(minor)) {
            (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
            _ => Err(LayerError::Damaged("a device number is out of range")),
        }
    }

    /// The map of an old GNU sparse file, as far as it stands in the header; whether more follows; the file's real size.
    pub(super) fn sparse(&self) -> Result<(Map, bool, u64), LayerError> {
        Ok((sparse_pairs(&self.0[386..482])?, self.0[482] != 0, unsigned(number(&self.0[483..495])?)?))
    }
}

/// Offset and length pairs of 12 digits each, up to the first one that is empty.
pub(super) fn sparse_pairs(bytes: &[u8]) -> Result<Map, LayerError> {
    let pairs = bytes.chunks_exact(24).take_while(|pair| pair[0] != 0);
    pairs.map(|pair| Ok((unsigned(number(&pair[..12])?)?, unsigned(number(&pair[12..])?)?))).collect()
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

pub(super) fn unsigned(number: i64) -> Result<u64, LayerError> {
    u64::try_from(number).map_err(|_| LayerError::Damaged("a size is negative"))
}

/// Octal digits, or, with the highest bit set, a big-endian number. An empty field is 0.
fn number(field: &[u8]) -> Result<i64, LayerError> {
    let out_of_range = LayerError::Damaged("a number is out of range");
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            // The second bit is the sign.
            let start =
                if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(first & 0x3f) - 0x40 };
            let digits = field.get(1..).unwrap_or_default();
            let value = digits.iter().try_fold(start, |value, &byte| {
                value.checked_mul(256).and_then(|value| value.checked_add(i64::from(byte)))
            });
            value.ok_or(out_of_range)
        }
        _ => {
            let digits = text(field).trim_ascii();
            digits.iter().try_fold(0_i64, |value, &digit| match digit {
                b'0'..=b'7' => value
                    .checked_mul(8)
                    .and_then(|value| value.checked_add(i64::from(digit - b'0')))
                    .ok_or(LayerError::Damaged("a number is out of range")),
                _ => Err(LayerError::Damaged("a number has other characters than digits")),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_two_forms() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"77777777777 ", 0o77_777_777_777),
            (b"\x80\0\0\0\0\0\0\0\x02\x54\x0b\xe4", 0x0254_0be4),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", -256),
        ] {
            assert_eq!(number(field).unwrap(), value, "{field:?}");
        }
        for field in
            [&b"0000648\0"[..], b"-1\0", b"0x10\0", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert!(number(field).is_err(), "{field:?}");
        }
    }
}
