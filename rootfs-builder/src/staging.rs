//! Files that are being written, and their way to their final name.
//!
//! A file is written under a temporary name in the store's `tmp/`, brought to disk, and then renamed. Whoever holds
//! the store's lock is alone in `tmp/`: what lies there before it starts is left from a process that was killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Permissions of a file that has its final name: nobody writes to it any more.
const FINISHED: u32 = 0o400;

/// A file with a temporary name, which is deleted when this is dropped.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
}

impl Staged {
    /// Makes an empty file in `folder`. The name has the process ID in it, so that a program which a killed process
    /// had started, and which is about to die, cannot reach the file by its own name for it.
    pub(crate) fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(format!("{name}-{}", std::process::id()));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path })
    }

    /// Makes a file in `folder` with the content `bytes`, on disk.
    pub(crate) fn with(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<Self> {
        let staged = Self::new(folder, name)?;
        OpenOptions::new().write(true).open(&staged.path)?.write_all(bytes)?;
        staged.settle()?;
        Ok(staged)
    }

    /// The temporary name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file read-only and waits until it is on disk.
    pub(crate) fn settle(&self) -> io::Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(FINISHED))?;
        File::open(&self.path)?.sync_all()
    }

    /// Gives the file its final name, in place of whatever has that name, and waits until the name is on disk.
    pub(crate) fn publish(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone after `publish`. If it cannot be deleted now, then the next one to pack does it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Deletes what killed processes left in `folder`. Only for the holder of the store's lock.
pub(crate) fn clean(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}
