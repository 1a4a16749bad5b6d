//! Files that are being written, and their way to their final name.
//!
//! A file is written under a temporary name in the store's `tmp/`, brought to disk, and then renamed. The temporary name says what
//! the file will be, and whoever writes it holds a lock on it (`flock`). So two processes that want to make the same thing
//! do it one after the other, and the second one finds it done; and what lies there unlocked was left by a process that was
//! killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Permissions of a file that has its final name: nobody writes to it any more.
const FINISHED: u32 = 0o400;

/// A file with a temporary name, which is deleted when this is dropped.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    file: File,
    keep: bool,
}

impl Staged {
    /// Takes the name `name` in `folder`, and waits while somebody else has it. `waiting` is called whenever a signal interrupts
    /// that, to say whether to go on.
    ///
    /// The file may have content that a killed process has left.
    pub(crate) fn take(folder: &Path, name: &str, waiting: impl Fn() -> io::Result<()>) -> io::Result<Self> {
        let path = folder.join(name);
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            lock(&file, &waiting)?;
            // Whoever had it before has renamed or deleted it: then this is not what has the name now.
            let is_same = fs::symlink_metadata(&path).is_ok_and(|there| {
                file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
            });
            if is_same {
                return Ok(Self { path, file, keep: false });
            }
        }
    }

    /// The same, empty.
    pub(crate) fn new(folder: &Path, name: &str, waiting: impl Fn() -> io::Result<()>) -> io::Result<Self> {
        let staged = Self::take(folder, name, waiting)?;
        staged.file.set_len(0)?;
        Ok(staged)
    }

    /// The file, for reading and writing.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// From now on the file stays when this is dropped, for somebody to go on with.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// The file goes when this is dropped, after all.
    pub(crate) fn discard(&mut self) {
        self.keep = false;
    }

    /// Brings the file to disk, gives it its final name in place of whatever has that, and waits until the name is on disk.
    pub(crate) fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file.set_permissions(fs::Permissions::from_mode(FINISHED))?;
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        // The name is somebody else's from now on.
        self.keep = true;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.keep {
            // If it cannot be deleted now, then the next one to collect garbage does it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Gives the file `path` the content `bytes`, at once and for good. For the holder of a lock on that.
pub(crate) fn replace(tmp: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = Staged::new(tmp, &name, || Ok(()))?;
    (&staged.file).write_all(bytes)?;
    staged.publish(path)
}

/// Locks `file` for this process alone.
pub(crate) fn lock(file: &File, waiting: &impl Fn() -> io::Result<()>) -> io::Result<()> {
    interruptible(|| file.lock(), waiting)
}

/// Locks `file` together with others who do so.
pub(crate) fn lock_shared(file: &File, waiting: &impl Fn() -> io::Result<()>) -> io::Result<()> {
    interruptible(|| file.lock_shared(), waiting)
}

fn interruptible(lock: impl Fn() -> io::Result<()>, waiting: &impl Fn() -> io::Result<()>) -> io::Result<()> {
    while let Err(error) = lock() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        waiting()?;
    }
    Ok(())
}
