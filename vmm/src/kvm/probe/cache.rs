//! Remembers the verdict of the test guest until the host is booted again.
//!
//! It is kept in a folder that belongs to the user: `/run/mote` for root, `$XDG_RUNTIME_DIR/mote` for others. A file that
//! anybody else could have written is not believed. The file's name has the boot in it, and the file appears whole or not at
//! all, without a name before that. Whatever fails here only means that the test guest runs once more.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat},
    unistd::{geteuid, linkat},
};

const USABLE: &str = "usable\n";
const UNUSABLE: &str = "unusable: ";
/// More than any verdict has, in bytes.
const MAX_LEN: u64 = 1024;

pub(super) struct Cache {
    folder: OwnedFd,
    file: PathBuf,
}

impl Cache {
    /// The cache of this user and this boot, if there is a place for it.
    pub(super) fn open() -> Option<Self> {
        let folder = if geteuid().is_root() {
            PathBuf::from("/run/mote")
        } else {
            PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("mote")
        };
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Self::open_in(&folder, boot.trim()).ok()
    }

    pub(super) fn open_in(folder: &Path, boot: &str) -> io::Result<Self> {
        match nix::unistd::mkdir(folder, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = open(folder, flags, Mode::empty())?;
        if !is_ours(&fstat(&folder)?, SFlag::S_IFDIR) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self { folder, file: PathBuf::from(format!("kvm-probe-{boot}")) })
    }

    /// The verdict, if there is one: `Err` with what was seen if KVM is not usable.
    pub(super) fn read(&self) -> Option<Result<(), String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.folder, &self.file, flags, Mode::empty()).ok()?);
        if !is_ours(&fstat(&file).ok()?, SFlag::S_IFREG) {
            return None;
        }
        let mut text = String::new();
        file.take(MAX_LEN).read_to_string(&mut text).ok()?;
        if text == USABLE {
            return Some(Ok(()));
        }
        let what = text.strip_prefix(UNUSABLE)?.strip_suffix('\n')?;
        (!what.contains(char::is_control)).then(|| Err(what.to_owned()))
    }

    /// Remembers a verdict; one that is there already stays.
    pub(super) fn write(&self, verdict: Result<(), &str>) {
        let text = match verdict {
            Ok(()) => USABLE.to_owned(),
            Err(what) => format!("{UNUSABLE}{what}\n"),
        };
        if let Err(error) = self.create(&text) {
            tracing::debug!(%error, "the verdict on KVM cannot be remembered");
        }
    }

    fn create(&self, text: &str) -> io::Result<()> {
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.folder, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        file.write_all(text.as_bytes())?;
        let unnamed = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        match linkat(AT_FDCWD, unnamed.as_str(), &self.folder, &self.file, AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether only we can have written this.
fn is_ours(stat: &FileStat, kind: SFlag) -> bool {
    let others_write = Mode::S_IWGRP | Mode::S_IWOTH;
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
        && stat.st_mode & others_write.bits() == 0
        && stat.st_uid == geteuid().as_raw()
}
