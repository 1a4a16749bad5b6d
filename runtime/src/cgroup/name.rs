//! Which cgroup `cgroupsPath` means.

use std::path::{Component, Path, PathBuf};

use crate::{Error, error::Kind};

/// The cgroup that `cgroupsPath` means: a path, or `slice:prefix:name` for systemd.
pub(crate) fn name(cgroups_path: Option<&Path>, systemd: bool, id: &str) -> Result<PathBuf, Error> {
    let given = cgroups_path.map(|path| path.to_string_lossy().into_owned()).filter(|path| !path.is_empty());
    let path = match (given, systemd) {
        (None, false) => format!("mote-{id}"),
        (None, true) => format!("system.slice/mote-{id}.scope"),
        (Some(path), false) => path,
        (Some(path), true) => {
            let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] else {
                return Err(Error::new(
                    Kind::Container,
                    format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                    ),
                ));
            };
            let unit = if name.ends_with(".slice") {
                name.to_owned()
            } else if prefix.is_empty() {
                format!("{name}.scope")
            } else {
                format!("{prefix}-{name}.scope")
            };
            format!("{}/{unit}", expand_slice(if slice.is_empty() { "system.slice" } else { slice })?)
        }
    };
    // Nothing leads out of the hierarchy.
    let parts = Path::new(&path).components().filter_map(|part| match part {
        Component::Normal(part) => Some(part),
        _ => None,
    });
    Ok(parts.collect())
}

/// `a-b.slice` lies in `a.slice` (systemd.slice(5)).
fn expand_slice(slice: &str) -> Result<String, Error> {
    let invalid = || Error::new(Kind::Container, format!("invalid slice name {slice:?}"));
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.contains('/')).ok_or_else(invalid)?;
    if stem == "-" {
        return Ok(String::new());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(invalid());
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_engines_write_them() {
        let named =
            |path: &str, systemd| name(Some(Path::new(path)), systemd, "c").map(|p| p.display().to_string());
        assert_eq!(named("/docker/abc", false).unwrap(), "docker/abc");
        assert_eq!(named("a/../../b", false).unwrap(), "a/b");
        assert_eq!(named("machine.slice:libpod:abc", true).unwrap(), "machine.slice/libpod-abc.scope");
        assert_eq!(named("a-b-c.slice:cri:x", true).unwrap(), "a.slice/a-b.slice/a-b-c.slice/cri-x.scope");
        assert_eq!(named(":docker:x", true).unwrap(), "system.slice/docker-x.scope");
        assert_eq!(named("-.slice::x", true).unwrap(), "x.scope");
        assert_eq!(name(None, false, "c").unwrap(), Path::new("mote-c"));
        for wrong in ["/docker/abc", "a:b", "x:y:z", "a--b.slice:p:n", "a/b.slice:p:n"] {
            assert!(named(wrong, true).is_err(), "{wrong}");
        }
    }
}
