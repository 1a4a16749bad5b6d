//! The state folder of a container: who may change it when, and what lies in it.
//!
//! ```text
//! ROOT/ID/state.json   what create has made of it; written once, whole
//!         cgroup       that of the host's which create has made, for whoever clears up after one that was killed before it wrote the state
//!         control      the sandbox process's socket
//!         ended        written by the sandbox process as its last deed
//!         log          what the sandbox process logs
//! ```
//!
//! Making the folder is what takes an id. Whoever changes what is in it holds a lock on the folder itself; the kernel releases
//! it when the holder ends, however that happens.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    libc,
    unistd::geteuid,
};
use serde::{Serialize, de::DeserializeOwned};

use super::id::ContainerId;
use crate::{Error, error::Kind};

const STATE: &str = "state.json";
/// Where `create` notes which cgroup it has made.
const CGROUP: &str = "cgroup";
/// The name of the control socket in the folder.
pub(super) const CONTROL: &str = "control";
/// Where a sandbox process leaves how it ended.
const ENDED: &str = "ended";
/// Where a sandbox process logs.
const LOG: &str = "log";

/// A container's state folder, open and, while something is changed, locked.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Open(File),
    Locked(Flock<File>),
}

impl Folder {
    /// Makes the folder of a new container, and locks it.
    pub(super) fn create(root: &Path, id: &ContainerId) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .and_then(|()| check_owner(&fs::metadata(root)?))
            .map_err(|error| cannot("use", root, &error))?;
        let path = root.join(id.as_str());
        match DirBuilder::new().mode(0o711).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::new(Kind::Container, "container with given ID already exists"));
            }
            Err(error) => return Err(cannot("make", &path, &error)),
        }
        let handle = open(&path).map_err(|error| cannot("open", &path, &error))?;
        let mut folder = Self { path, handle: Handle::Open(handle) };
        folder.lock()?;
        Ok(folder)
    }

    /// Opens the folder of a container that exists.
    pub(super) fn open(root: &Path, id: &ContainerId) -> Result<Self, Error> {
        let path = root.join(id.as_str());
        let owned = match fs::metadata(root) {
            Ok(metadata) => check_owner(&metadata),
            Err(_) => Ok(()),
        };
        owned.map_err(|error| cannot("use", root, &error))?;
        match open(&path) {
            Ok(handle) => Ok(Self { path, handle: Handle::Open(handle) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(does_not_exist()),
            Err(error) => Err(cannot("open", &path, &error)),
        }
    }

    /// Waits until nobody else changes the folder, and keeps others from it for as long as this lives.
    pub(super) fn lock(&mut self) -> Result<(), Error> {
        if let Handle::Open(file) = &self.handle {
            let file = file.try_clone().map_err(|error| cannot("lock", &self.path, &error))?;
            let lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| cannot("lock", &self.path, &error.into()))?;
            self.handle = Handle::Locked(lock);
        }
        // Whoever had the lock before may have removed the folder.
        let (ours, there) = (self.file().metadata(), fs::metadata(&self.path));
        match (ours, there) {
            (Ok(ours), Ok(there)) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) => Ok(()),
            _ => Err(does_not_exist()),
        }
    }

    fn file(&self) -> &File {
        match &self.handle {
            Handle::Open(file) => file,
            Handle::Locked(lock) => lock,
        }
    }

    /// A path to something in the folder that is short enough for the address of a socket, however deep the folder lies. Good
    /// for as long as this lives.
    pub(super) fn short_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.file().as_raw_fd()))
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Writes the container's state so that nobody ever sees half of it.
    pub(super) fn write_state(&self, state: &impl Serialize) -> Result<(), Error> {
        let (new, path) = (self.path.join(".state.json"), self.path.join(STATE));
        serde_json::to_vec(state)
            .map_err(io::Error::from)
            .and_then(|bytes| fs::write(&new, bytes))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| cannot("write", &path, &error))
    }

    /// The container's state; none while `create` has not come so far, or if it died before.
    pub(super) fn read_state<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        self.read(STATE)
    }

    /// Notes a cgroup that is this container's alone.
    pub(super) fn write_cgroup(&self, cgroup: &impl Serialize) -> Result<(), Error> {
        let path = self.path.join(CGROUP);
        let written =
            serde_json::to_vec(cgroup).map_err(io::Error::from).and_then(|bytes| fs::write(&path, bytes));
        written.map_err(|error| cannot("write", &path, &error))
    }

    /// The cgroup that was noted, if `create` came to do that.
    pub(super) fn read_cgroup<T: DeserializeOwned>(&self) -> Option<T> {
        self.read(CGROUP).ok().flatten()
    }

    /// The file that a sandbox process writes its end to.
    pub(super) fn create_ended(&self) -> Result<OwnedFd, Error> {
        let path = self.path.join(ENDED);
        let file = File::create(&path).map_err(|error| cannot("make", &path, &error))?;
        Ok(file.into())
    }

    /// How the sandbox process ended, if it came to say so.
    pub(super) fn read_ended<T: DeserializeOwned>(&self) -> Option<T> {
        self.read(ENDED).ok().flatten()
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot("read", &path, &error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::because(Kind::Host, format!("{} is not a state of mote's", path.display()), &error)
        })
    }

    /// Removes the folder and everything in it.
    pub(super) fn remove(self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(cannot("remove", &self.path, &error)),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let folder = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)?;
    check_owner(&folder.metadata()?)?;
    Ok(folder)
}

/// What root finds in a folder must be its own: others could have it kill processes, and remove and write files, of their choice.
fn check_owner(folder: &Metadata) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    if folder.uid() != 0 {
        return Err(io::Error::other(format!("it belongs to user {}, not to root", folder.uid())));
    }
    if folder.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than root may write to it"));
    }
    Ok(())
}

pub(super) fn does_not_exist() -> Error {
    Error::new(Kind::NoContainer, "container does not exist")
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::because(Kind::Host, format!("cannot {what} {}", path.display()), error)
}

/// The ids of the containers below `root`, in order.
pub(super) fn list(root: &Path) -> io::Result<Vec<ContainerId>> {
    let mut ids = Vec::new();
    check_owner(&fs::metadata(root)?)?;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| ContainerId::new(name).ok());
        // Other things may lie there: the verdict of the KVM probe does.
        ids.extend(id.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())));
    }
    ids.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_once_and_free_again_after_removal() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::new("a").unwrap();
        let folder = Folder::create(&root.path().join("deep/er"), &id).unwrap();
        let again = Folder::create(&root.path().join("deep/er"), &id).unwrap_err();
        assert_eq!(again.to_string(), "container with given ID already exists");
        folder.write_state(&7).unwrap();
        assert_eq!(folder.read_state::<u32>().unwrap(), Some(7));
        assert_eq!(folder.read_ended::<u32>(), None);
        folder.remove().unwrap();
        Folder::create(&root.path().join("deep/er"), &id).unwrap();
    }

    #[test]
    fn who_waits_for_a_folder_that_goes_away_is_told() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::new("a").unwrap();
        let first = Folder::create(root.path(), &id).unwrap();
        let mut second = Folder::open(root.path(), &id).unwrap();
        let waiter = std::thread::spawn(move || second.lock().unwrap_err().to_string());
        first.remove().unwrap();
        assert_eq!(waiter.join().unwrap(), "container does not exist");
    }

    #[test]
    fn state_that_is_not_ours_is_said_and_half_of_it_is_never_seen() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path(), &ContainerId::new("a").unwrap()).unwrap();
        assert_eq!(folder.read_state::<u32>().unwrap(), None);
        fs::write(root.path().join("a/state.json"), "{").unwrap();
        assert!(folder.read_state::<u32>().unwrap_err().to_string().contains("state.json"));
    }

    #[test]
    fn a_file_or_a_link_is_no_container() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/", root.path().join("link")).unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        let ids: Vec<_> = list(root.path()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(ids, ["a"]);
        assert!(Folder::open(root.path(), &ContainerId::new("link").unwrap()).is_err());
    }
}
