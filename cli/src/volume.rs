//! `-v SOURCE:TARGET[:OPTIONS]`: a folder or a file of the host's, in the command's root.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use clap::builder::{OsStringValueParser, TypedValueParser};
use mote_runtime::{Cache, Error, Kind, Share, Volume, shares};

/// A volume as a user asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeOption {
    source: PathBuf,
    target: Vec<u8>,
    read_only: bool,
    cache: Cache,
}

/// For the command line: [`VolumeOption::parse`].
pub(crate) fn parser() -> impl TypedValueParser<Value = VolumeOption> {
    OsStringValueParser::new().try_map(|text: OsString| VolumeOption::parse(&text))
}

impl VolumeOption {
    /// Takes the option's value apart. What it says about the host is checked by [`complete`].
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let mut parts = text.as_bytes().split(|byte| *byte == b':');
        let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
            return Err("give a path here and one in the guest, as in /host/folder:/in/guest".into());
        };
        let options = parts.next().unwrap_or_default();
        if parts.next().is_some() {
            return Err("too many colons; SOURCE:TARGET[:OPTIONS] has two at most".into());
        }
        if source.is_empty() {
            return Err("the path here is empty".into());
        }
        if !source.contains(&b'/') {
            return Err(format!(
                "'{0}' would be the name of a volume, and there are no named volumes; for a path write ./{0}",
                String::from_utf8_lossy(source)
            ));
        }
        if !target.starts_with(b"/") {
            return Err(format!(
                "the path in the guest, '{}', must be absolute",
                String::from_utf8_lossy(target)
            ));
        }
        if components(target).next().is_none() {
            return Err("the guest's / cannot be a volume; use --rootfs".into());
        }
        if components(target).any(|component| component == b"..") {
            return Err("the path in the guest must not contain '..'".into());
        }
        let source = PathBuf::from(OsStr::from_bytes(source));
        let mut volume = Self { source, target: target.to_vec(), read_only: false, cache: Cache::Auto };
        for option in options.split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
            match option {
                b"ro" => volume.read_only = true,
                b"rw" => volume.read_only = false,
                b"cache=none" => volume.cache = Cache::None,
                b"cache=auto" => volume.cache = Cache::Auto,
                b"cache=always" => volume.cache = Cache::Always,
                other => {
                    return Err(format!(
                        "unknown option '{}'; there are ro, rw, cache=none, cache=auto and cache=always",
                        String::from_utf8_lossy(other)
                    ));
                }
            }
        }
        Ok(volume)
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty() && *component != b".")
}

/// Adds what the user asked for to the shares and the volumes of a specification, outer targets before inner ones.
pub(crate) fn complete(
    asked: Vec<VolumeOption>,
    shares: &mut Vec<Share>,
    volumes: &mut Vec<Volume>,
) -> Result<(), Error> {
    let mut asked = asked;
    asked.sort_by_key(|volume| components(&volume.target).count());
    for (index, volume) in asked.iter().enumerate() {
        let same = |other: &VolumeOption| components(&other.target).eq(components(&volume.target));
        if asked[..index].iter().any(same) {
            let target = String::from_utf8_lossy(&volume.target);
            return Err(Error::new(Kind::Share, format!("--volume: two volumes at {target}")));
        }
    }
    for volume in asked {
        let source = absolute(&volume.source)?;
        shares::is_folder(&source)?;
        volumes.push(Volume { share: shares.len(), target: volume.target });
        shares.push(Share { source, read_only: volume.read_only, cache: volume.cache });
    }
    Ok(())
}

/// The path without symbolic links, as it is now.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|error| Error::because(Kind::Share, path.display().to_string(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<VolumeOption, String> {
        VolumeOption::parse(OsStr::new(text))
    }

    #[test]
    fn options_say_how() {
        let volume = parse("/a:/b").unwrap();
        assert_eq!((volume.read_only, volume.cache), (false, Cache::Auto));
        let volume = parse("./a:/b/c:ro,cache=always").unwrap();
        assert_eq!((volume.read_only, volume.cache), (true, Cache::Always));
        assert!(!parse("/a:/b:ro,rw").unwrap().read_only, "the last one counts");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, word) in [
            ("/a", "one in the guest"),
            (":/b", "empty"),
            ("name:/b", "named volumes"),
            ("/a:b", "absolute"),
            ("/a:", "absolute"),
            ("/a:/", "--rootfs"),
            ("/a://.", "--rootfs"),
            ("/a:/b/../c", "'..'"),
            ("/a:/b:exec", "unknown option 'exec'"),
            ("/a:/b:ro:rw", "colons"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn outer_targets_come_first_and_none_comes_twice() {
        let here = std::env::current_dir().unwrap();
        let asked = |targets: &[&str]| {
            let asked = targets.iter().map(|target| parse(&format!("{}:{target}", here.display())).unwrap());
            let (mut shares, mut volumes) = (Vec::new(), Vec::new());
            complete(asked.collect(), &mut shares, &mut volumes).map(|()| volumes)
        };
        let targets: Vec<_> = asked(&["/a/b/c", "/z", "/a"]).unwrap().into_iter().map(|v| v.target).collect();
        assert_eq!(targets, [&b"/z"[..], b"/a", b"/a/b/c"]);
        assert!(asked(&["/a/b", "//a/./b/"]).unwrap_err().to_string().contains("two volumes"));
    }
}
