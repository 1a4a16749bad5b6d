//! Archives of images: which files are in them, and where.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::Files;
use crate::layer::LayerError;
use crate::layer::reader::{Input, Item, Reader, Stream, What};

/// The most files that an archive of images may have.
const MOST_FILES: usize = 100_000;
/// How many links may lead to each other.
const MOST_LINKS: usize = 8;

/// An archive of images.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    places: HashMap<String, Place>,
}

#[derive(Debug)]
enum Place {
    /// Offset and length in the archive.
    At(u64, u64),
    /// A link to another file of the archive.
    Link(String),
}

/// A file, in which is skipped without reading.
struct Seeking(BufReader<File>);

impl Read for Seeking {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Input for Seeking {
    fn skip(&mut self, length: u64) -> Result<(), LayerError> {
        let length = i64::try_from(length).map_err(|_| LayerError::Truncated)?;
        self.0.seek_relative(length).map_err(LayerError::Read)
    }
}

impl Archive {
    /// Finds what is in `file`; `None` if that is no archive of images.
    pub(super) fn index(mut file: File) -> Result<Option<Self>, LayerError> {
        file.seek(SeekFrom::Start(0)).map_err(LayerError::Read)?;
        let end = file.metadata().map_err(LayerError::Read)?.len();
        let copy = file.try_clone().map_err(LayerError::Read)?;
        let mut reader = Reader::new(Seeking(BufReader::with_capacity(8192, copy)));
        let mut places = HashMap::new();
        while let Some(item) = reader.next()? {
            let Some(path) = path_in_archive(&item) else { return Ok(None) };
            let place = match item.what {
                What::File(segments) if segments.list == [(0, segments.size)] => {
                    let start = reader.source().0.stream_position().map_err(LayerError::Read)?;
                    if start.checked_add(segments.size).is_none_or(|stop| stop > end) {
                        return Err(LayerError::Truncated);
                    }
                    Place::At(start, segments.size)
                }
                What::Link => Place::Link(String::from_utf8_lossy(&item.link).into_owned()),
                What::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    match resolved(folder, &String::from_utf8_lossy(&item.link)) {
                        Some(target) => Place::Link(target),
                        None => continue,
                    }
                }
                _ => continue,
            };
            if places.len() == MOST_FILES {
                return Err(LayerError::TooLarge {
                    limit: MOST_FILES as u64,
                    unit: "files in an archive of images",
                });
            }
            places.insert(path, place);
        }
        let is_archive = places.contains_key("index.json") || places.contains_key("manifest.json");
        Ok(is_archive.then_some(Self { file, places }))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }
}

impl Files for Archive {
    fn open(&self, path: &str) -> io::Result<Option<(Box<dyn Read + Send + '_>, u64)>> {
        let mut path = path;
        for _ in 0..MOST_LINKS {
            match self.places.get(path) {
                Some(Place::Link(target)) => path = target,
                Some(&Place::At(start, length)) => {
                    let part = Part { file: &self.file, at: start, left: length };
                    return Ok(Some((Box::new(part), length)));
                }
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// A part of a file.
struct Part<'f> {
    file: &'f File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let length = self.file.read_at(bytes.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

/// Whether an archive that can only be read front to back is one of images: whether its first files are called like those.
pub(super) fn looks_like_images(source: impl Read) -> Result<bool, LayerError> {
    let mut reader = Reader::new(Stream(source));
    while let Some(item) = reader.next()? {
        match path_in_archive(&item) {
            None => return Ok(false),
            // Only folders and their documents are called so in a root file system.
            Some(_) if matches!(item.what, What::File(_)) => return Ok(true),
            Some(_) => {}
        }
    }
    Ok(false)
}

/// The path of a file that an archive of images may have.
fn path_in_archive(item: &Item) -> Option<String> {
    let path = std::str::from_utf8(&item.path).ok()?;
    let path = path.trim_start_matches("./").trim_end_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    let stem = first.strip_suffix(".json").or_else(|| first.strip_suffix(".tar")).unwrap_or(first);
    let is_digest = stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_known =
        matches!(first, "oci-layout" | "index.json" | "manifest.json" | "repositories" | "blobs" | "." | "");
    (is_digest || is_known).then(|| path.to_owned())
}

/// A path as seen from `folder`; `None` if it leads out of the archive.
fn resolved(folder: &str, target: &str) -> Option<String> {
    let mut names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}
