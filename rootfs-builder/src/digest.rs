//! SHA-256, as it names images and index entries.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// The bytes read from a file at a time.
const CHUNK: usize = 256 * 1024;
/// What stands in front of the hexadecimal digits, in file names and index entries.
const PREFIX: &str = "sha256-";

/// A SHA-256 value. Shown as `sha256-` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// The digest of everything that was fed to `hasher`.
    pub(crate) fn of(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The digest of what is left to read of `file`.
    pub(crate) fn of_file(file: &mut File) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(Self::of(hasher)),
                Ok(length) => hasher.update(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads back what `Display` writes; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().try_fold(0_u8, |value, &digit| match digit {
                b'0'..=b'9' => Some(value << 4 | (digit - b'0')),
                b'a'..=b'f' => Some(value << 4 | (digit - b'a' + 10)),
                _ => None,
            })?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_reads_back() {
        let empty = Digest::of(Sha256::new());
        let text = "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.to_string(), text);
        assert_eq!(Digest::parse(text), Some(empty));
    }

    #[test]
    fn other_text_is_no_digest() {
        let zeros = "0".repeat(64);
        for text in [
            String::new(),
            zeros.clone(),
            format!("sha256-{zeros}0"),
            format!("sha256-{zeros}\n"),
            format!("sha256-{}G", &zeros[1..]),
            format!("sha256-{}A", &zeros[1..]),
            format!("sha256-{}", "é".repeat(32)),
            "sha256-../../../../../../../../../../../../../../../../../../../../../".into(),
        ] {
            assert_eq!(Digest::parse(&text), None, "{text}");
        }
    }
}
