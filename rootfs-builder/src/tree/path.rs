//! Paths in a tree, resolved as the kernel would for a process whose root it is.

use super::{IMPLIED, Kind, Metadata, NodeId, ROOT, Tree};

/// How many symbolic links one path may go through, as in the kernel.
const MOST_LINKS: u32 = 40;
/// How long a path may become, with the links in it: a loop of long links must not grow without end.
const LONGEST: usize = 64 * 1024;

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing has a name that is part of the path.
    #[error("no such file or folder")]
    Missing,
    /// Something else than a folder stands where one has to be.
    #[error("a part of its path is not a folder")]
    NotAFolder,
    /// It goes through more than 40 symbolic links.
    #[error("too many symbolic links")]
    Loop,
    /// There is no room for more files.
    #[error("too many files")]
    TooMany,
}

/// What happens to folders of a path that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Fail,
    Make,
}

impl Tree {
    /// The folder at `path`; what is missing of it is made, and all of it counts as touched by this layer.
    ///
    /// # Errors
    /// A [`PathError`], with the folders made so far in place.
    pub fn make_folders(&mut self, path: &[u8]) -> Result<NodeId, PathError> {
        self.walk(path, Absent::Make)
    }

    /// The folder at `path`.
    ///
    /// # Errors
    /// A [`PathError`].
    pub fn folder(&mut self, path: &[u8]) -> Result<NodeId, PathError> {
        self.walk(path, Absent::Fail)
    }

    fn walk(&mut self, path: &[u8], absent: Absent) -> Result<NodeId, PathError> {
        let mut trail = vec![ROOT];
        let mut links = 0;
        let mut rest = path.to_vec();
        let mut at = 0;
        while at < rest.len() {
            let end = rest[at..].iter().position(|&byte| byte == b'/').map_or(rest.len(), |slash| at + slash);
            let name = &rest[at..end];
            let here = trail.last().copied().unwrap_or(ROOT);
            match name {
                b"" | b"." => {}
                b".." => {
                    // The root is its own parent.
                    trail.truncate(trail.len().saturating_sub(1).max(1));
                }
                _ => match self.get(here, name) {
                    None if absent == Absent::Make => {
                        let metadata = Metadata { mode: IMPLIED, ..Metadata::default() };
                        trail.push(self.put(here, name, Kind::Folder(Default::default()), metadata)?);
                    }
                    None => return Err(PathError::Missing),
                    Some(next) => match &self.node(next).kind {
                        Kind::Folder(_) => {
                            if absent == Absent::Make {
                                self.touch(here, name);
                            }
                            trail.push(next);
                        }
                        Kind::Symlink(target) => {
                            links += 1;
                            if links > MOST_LINKS || target.len() + rest.len() - end > LONGEST {
                                return Err(PathError::Loop);
                            }
                            if target.first() == Some(&b'/') {
                                trail.truncate(1);
                            }
                            rest = [target, &rest[end..]].concat();
                            at = 0;
                            continue;
                        }
                        _ => return Err(PathError::NotAFolder),
                    },
                },
            }
            at = end + 1;
        }
        Ok(trail.last().copied().unwrap_or(ROOT))
    }
}
