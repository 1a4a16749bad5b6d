//! Images as tables and as JSON, in podman's words.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use mote_rootfs_builder::Image;
use serde_json::{Value, json};

/// What stands where there is no name.
const NONE: &str = "<none>";

/// One line for each name of each image.
pub(crate) fn table(images: &[Image]) -> String {
    let mut rows = vec![["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned)];
    for image in images {
        let names: Vec<_> = image.names().iter().map(|name| split(name)).collect();
        let names = if names.is_empty() { vec![(NONE.into(), NONE.into())] } else { names };
        for (repository, tag) in names {
            let created = created(image).and_then(|then| SystemTime::now().duration_since(then).ok());
            let created = created.map_or_else(|| "unknown".into(), ago);
            rows.push([repository, tag, image.id().short(), created, size(image.size())]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for [repository, tag, id, created, size] in &rows {
        let [w0, w1, w2, w3] = widths;
        let _ = writeln!(text, "{repository:w0$}  {tag:w1$}  {id:w2$}  {created:w3$}  {size}");
    }
    text
}

/// A name without its tag or digest, and the tag.
fn split(name: &str) -> (String, String) {
    if let Some((repository, _)) = name.split_once('@') {
        return (repository.into(), NONE.into());
    }
    let (repository, tag) = name.rsplit_once(':').unwrap_or((name, NONE));
    (repository.into(), tag.into())
}

fn created(image: &Image) -> Option<SystemTime> {
    humantime::parse_rfc3339(image.configuration().created().as_deref()?).ok()
}

/// A time that has passed, as one round number.
fn ago(passed: Duration) -> String {
    let seconds = passed.as_secs();
    let units = [
        (365 * 86400, "year"),
        (30 * 86400, "month"),
        (7 * 86400, "week"),
        (86400, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let found = units.iter().find(|(length, _)| seconds >= *length);
    found.map_or_else(
        || "just now".into(),
        |(length, name)| {
            let count = seconds / length;
            format!("{count} {name}{} ago", if count == 1 { "" } else { "s" })
        },
    )
}

/// An amount of bytes in decimal units, as podman has them for images.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut divisor = 1;
    while bytes / divisor >= 1000 && unit + 1 < units.len() {
        divisor *= 1000;
        unit += 1;
    }
    let name = units[unit];
    if divisor == 1 {
        return format!("{bytes} {name}");
    }
    let tenths = bytes / (divisor / 10);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

pub(crate) fn list(images: &[Image]) -> anyhow::Result<String> {
    let images = images.iter().map(|image| {
        json!({
            "Id": image.id().hex(),
            "Names": image.names(),
            "Digest": image.digest(),
            "CreatedAt": image.configuration().created(),
            "Size": image.size(),
            "Labels": image.process().labels,
        })
    });
    pretty(images.collect())
}

pub(crate) fn inspect(images: &[Image]) -> anyhow::Result<String> {
    let images = images.iter().map(|image| {
        let configuration = image.configuration();
        json!({
            "Id": image.id().hex(),
            "Digest": image.digest(),
            "RepoTags": image.names().iter().filter(|name| !name.contains('@')).collect::<Vec<_>>(),
            "RepoDigests": image.names().iter().map(|name| format!("{}@{}", split(name).0, image.digest())).collect::<Vec<_>>(),
            "Created": configuration.created(),
            "Architecture": configuration.architecture().to_string(),
            "Os": configuration.os().to_string(),
            "Author": configuration.author(),
            "Size": image.size(),
            "Config": configuration.config(),
            "Labels": image.process().labels,
            "RootFS": { "Type": "layers", "Layers": image.unpacked() },
            "History": configuration.history(),
        })
    });
    pretty(images.collect())
}

fn pretty(values: Vec<Value>) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&values)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1999, "1.9 kB"),
            (123_456_789, "123.4 MB"),
            (5_000_000_000, "5.0 GB"),
            (u64::MAX, "18446744.0 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_round() {
        for (seconds, text) in [
            (0, "just now"),
            (1, "1 second ago"),
            (7200, "2 hours ago"),
            (90_000, "1 day ago"),
            (800 * 86400, "2 years ago"),
        ] {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn names_come_apart() {
        assert_eq!(split("localhost:5000/x:1"), ("localhost:5000/x".into(), "1".into()));
        assert_eq!(split("a.io/x@sha256:0"), ("a.io/x".into(), NONE.into()));
    }
}
