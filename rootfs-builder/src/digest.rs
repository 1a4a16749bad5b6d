//! SHA-256, as it names blobs, images and index entries.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The bytes read from a file at a time.
const CHUNK: usize = 256 * 1024;

/// A SHA-256 value. Shown as `sha256:` and 64 hexadecimal digits, as the OCI image specification has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of everything that was fed to `hasher`.
    pub(crate) fn of(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The digest of what is left to read of `file`.
    pub(crate) fn of_file(file: &mut File) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        update_from(&mut hasher, file)?;
        Ok(Self::of(hasher))
    }

    /// Reads what `Display` writes; `None` for anything else, such as digests of other kinds.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_hex(text.strip_prefix("sha256:")?)
    }

    /// Reads 64 hexadecimal digits.
    pub(crate) fn parse_hex(digits: &str) -> Option<Self> {
        let digits = digits.as_bytes();
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

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The first twelve digits, as people see them.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex().chars().take(12).collect()
    }
}

/// Feeds what is left of `file` to `hasher`.
pub(crate) fn update_from(hasher: &mut Sha256, file: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => hasher.update(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no SHA-256 digest"))
    }
}

/// Hashes all that is read through it.
#[derive(Debug)]
pub(crate) struct Hashing<R> {
    source: R,
    hasher: Sha256,
    length: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, hasher: Sha256::new(), length: 0 }
    }

    /// The digest and the number of the bytes that were read.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::of(self.hasher), self.length)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(bytes)?;
        self.hasher.update(bytes.get(..length).unwrap_or_default());
        self.length += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_reads_back() {
        let empty = Digest::of(Sha256::new());
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.to_string(), text);
        assert_eq!(Digest::parse(text), Some(empty));
        assert_eq!(empty.short(), "e3b0c44298fc");
    }

    #[test]
    fn other_text_is_no_digest() {
        let zeros = "0".repeat(64);
        for text in [
            String::new(),
            zeros.clone(),
            format!("sha512:{zeros}{zeros}"),
            format!("sha256:{zeros}0"),
            format!("sha256:{zeros}\n"),
            format!("sha256:{}G", &zeros[1..]),
            format!("sha256:{}A", &zeros[1..]),
            format!("sha256:{}", "é".repeat(32)),
            "sha256:../../../../../../../../../../../../../../../../../../../../../".into(),
        ] {
            assert_eq!(Digest::parse(&text), None, "{text}");
        }
    }
}
