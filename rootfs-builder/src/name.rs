//! Names of images: `alpine`, `quay.io/podman/hello:latest`, `localhost:5000/x@sha256:…`.

use std::fmt;

use crate::digest::Digest;
use crate::error::Error;

/// The registry of names that have none.
const DOCKER_HUB: &str = "docker.io";
/// The registry in the names of images that were made here.
const LOCAL: &str = "localhost";
/// The longest tag, in bytes.
const LONGEST_TAG: usize = 128;
/// The longest name without tag and digest, in bytes.
const LONGEST_NAME: usize = 255;

/// The complete name of an image: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    registry: String,
    repository: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl Name {
    /// Completes a name as docker and podman do: without a registry it is one of Docker Hub's, there without a folder one of
    /// `library/`; without a tag and a digest the tag is `latest`.
    ///
    /// # Errors
    /// [`Error::Name`] for what is no name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::parse_in(text, DOCKER_HUB)
    }

    /// The same for an image that is made here: without a registry it is one of `localhost/`.
    ///
    /// # Errors
    /// [`Error::Name`] for what is no name.
    pub fn parse_local(text: &str) -> Result<Self, Error> {
        Self::parse_in(text, LOCAL)
    }

    /// What `text` may mean, the likeliest first: a name without a registry is looked for among those made here, then among
    /// Docker Hub's.
    ///
    /// # Errors
    /// [`Error::Name`] for what is no name.
    pub fn candidates(text: &str) -> Result<Vec<Self>, Error> {
        let (local, hub) = (Self::parse_local(text)?, Self::parse(text)?);
        Ok(if local == hub { vec![hub] } else { vec![local, hub] })
    }

    fn parse_in(text: &str, default_registry: &str) -> Result<Self, Error> {
        let bad = |why: &'static str| Error::Name { name: text.into(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    Digest::parse(digest)
                        .ok_or(bad("its digest is not sha256: and 64 hexadecimal digits"))?,
                ),
            ),
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = match rest.split_once('/') {
            Some((first, rest)) if first == LOCAL || first.contains(['.', ':']) => (first, rest),
            _ => (default_registry, rest),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let repository = if registry == DOCKER_HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if registry.len() + repository.len() > LONGEST_NAME {
            return Err(bad("it is too long"));
        }
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if registry.starts_with(['.', '-', ':', ']']) || !registry.bytes().all(is_host) {
            return Err(bad("its registry is no host name"));
        }
        if !repository.split('/').all(is_component) {
            return Err(bad("a repository has lower-case letters, digits and single separators only"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("its tag has other characters than letters, digits, _, . and -"));
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, version })
    }

    /// The host, and the port if it is not the usual one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path at the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if it is not named by a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest of the manifest, or of an index of manifests, if the name has one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }
}

/// Letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let separators = text.split(|c: char| u8::try_from(c).is_ok_and(is_word)).filter(|part| !part.is_empty());
    ends.into_iter().all(|end| end.is_some_and(|&byte| is_word(byte)))
        && separators
            .into_iter()
            .all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || b".-".contains(&byte))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let zeros = "0".repeat(64);
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".into()),
            ("user/x", "docker.io/user/x:latest".into()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".into()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".into()),
            ("quay.io/a/b/c:V1.0-x", "quay.io/a/b/c:V1.0-x".into()),
            ("localhost/x", "localhost/x:latest".into()),
            ("localhost:5000/x", "localhost:5000/x:latest".into()),
            ("127.0.0.1:5000/a__b/c--d", "127.0.0.1:5000/a__b/c--d:latest".into()),
            ("[::1]:5000/x:1", "[::1]:5000/x:1".into()),
        ] {
            assert_eq!(Name::parse(text).unwrap().to_string(), full, "{text}");
            assert_eq!(Name::parse(&full).unwrap().to_string(), full);
        }
        let digest = format!("a.io/x:tag@sha256:{zeros}");
        assert_eq!(Name::parse(&digest).unwrap().to_string(), format!("a.io/x@sha256:{zeros}"));
        assert_eq!(Name::parse_local("x").unwrap().to_string(), "localhost/x:latest");
        let both: Vec<_> = Name::candidates("x").unwrap().iter().map(Name::to_string).collect();
        assert_eq!(both, ["localhost/x:latest", "docker.io/library/x:latest"]);
        assert_eq!(Name::candidates("a.io/x").unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "/",
            "A",
            "a//b",
            "a/../b",
            "../a",
            "a:",
            "a:b:c",
            "a:-x",
            "a@sha256:0",
            "-a",
            "a.",
            "a..b",
            "a b",
            "a\n",
            "é",
            "http://a.io/x",
            "a.io/",
            "a___b",
            ".io",
        ] {
            assert!(Name::parse(text).is_err(), "{text:?} is {}", Name::parse(text).unwrap());
        }
        assert!(Name::parse(&"a".repeat(300)).is_err());
        assert!(Name::parse(&format!("a:{}", "b".repeat(129))).is_err());
    }
}
