//! Container ids: they become the names of folders, so nothing else may pass.

use std::fmt;

use crate::{Error, error::Kind};

/// The longest id, in bytes.
const MAX: usize = 1024;

/// The id of a container: letters, digits, `_`, `+`, `-` and `.`, but neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks an id.
    ///
    /// # Errors
    /// It has other characters, or none, or too many.
    pub fn new(text: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if text.is_empty() || text.len() > MAX || !text.bytes().all(allowed) || text == "." || text == ".." {
            return Err(Error::new(Kind::Container, "invalid container ID format"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_lead_anywhere_else() {
        for good in ["a", "A-1_b+c.d", "...", ".a", &"x".repeat(MAX)] {
            assert_eq!(ContainerId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "a\n", "ä", "a\0", "a:b", &"x".repeat(MAX + 1)] {
            let error = ContainerId::new(bad).unwrap_err();
            assert_eq!(error.to_string(), "invalid container ID format", "{bad:?}");
        }
    }
}
