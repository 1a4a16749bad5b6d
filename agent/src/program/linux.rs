//! The kernel's operations as Linux has them.

use core::ffi::CStr;

use heapless::Vec;
use mote_protocol::{IdList, StrList, limits};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags},
    thread::{Gid, Uid},
};

use super::kernel::{Kernel, Opened};
use crate::{spawn::StatusWriter, sys};

/// The `umask(2)` that processes start with; operations make files with the modes that they name.
const PROCESS_UMASK: Mode = Mode::from_raw_mode(0o022);

/// Which of the standard streams were made for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Those of descriptors 0 to 2 that are pipes.
    Pipes([bool; 3]),
    /// All three are one terminal.
    Terminal,
}

/// The child's own kernel.
#[derive(Debug)]
pub struct Linux<'s> {
    streams: Streams,
    status: &'s StatusWriter,
}

impl<'s> Linux<'s> {
    /// For a child with these streams, whose progress goes to `status`.
    #[must_use]
    pub fn new(streams: Streams, status: &'s StatusWriter) -> Self {
        Self { streams, status }
    }
}

impl Kernel for Linux<'_> {
    type Fd = OwnedFd;

    fn open_root(&mut self) -> Result<OwnedFd, Errno> {
        rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    fn open(&mut self, root: &OwnedFd, path: &CStr, what: Opened) -> Result<OwnedFd, Errno> {
        let kind = match what {
            Opened::Any => OFlags::empty(),
            Opened::Directory => OFlags::DIRECTORY,
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC | kind, Mode::empty(), resolve)
    }

    fn unshare(&mut self, namespaces: u32) -> Result<(), Errno> {
        sys::process::unshare(namespaces)
    }

    fn make_directory(&mut self, parent: &OwnedFd, name: &CStr, mode: u32) -> Result<(), Errno> {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode & 0o7777))
    }

    fn make_symlink(&mut self, content: &CStr, parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        rustix::fs::symlinkat(content, parent, name)
    }

    fn fs_open(&mut self, fs_type: &CStr) -> Result<OwnedFd, Errno> {
        rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)
    }

    fn fs_set_string(&mut self, context: &OwnedFd, key: &CStr, value: &CStr) -> Result<(), Errno> {
        rustix::mount::fsconfig_set_string(context, key, value)
    }

    fn fs_set_flag(&mut self, context: &OwnedFd, key: &CStr) -> Result<(), Errno> {
        rustix::mount::fsconfig_set_flag(context, key)
    }

    fn fs_create(&mut self, context: &OwnedFd) -> Result<(), Errno> {
        rustix::mount::fsconfig_create(context)
    }

    fn fs_mount(&mut self, context: &OwnedFd, attributes: u64) -> Result<OwnedFd, Errno> {
        let attributes = u32::try_from(attributes).map_err(|_| Errno::INVAL)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes);
        rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    fn fs_message(&mut self, context: &OwnedFd, message: &mut [u8]) -> usize {
        rustix::io::read(context, message).unwrap_or(0)
    }

    fn clone_tree(&mut self, source: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        rustix::mount::open_tree(rustix::fs::CWD, source, flags)
    }

    fn move_mount(&mut self, mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
        let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, c"", target, c"", by_descriptor)
    }

    fn set_mount_attributes(&mut self, mount: &OwnedFd, set: u64, clear: u64) -> Result<(), Errno> {
        sys::mount::set_attributes(mount.as_fd(), set, clear)
    }

    /// The guest's own `/` is the initial ramdisk, which `pivot_root(2)` refuses. So the new root is moved on top of it,
    /// and `chroot(2)` goes there. What is below has no name any more: `..` of a mount on `/` is that mount itself.
    /// Nothing in the guest ever makes a mount shared, so the other mount namespaces see nothing of this.
    fn enter_root(&mut self, root: &OwnedFd) -> Result<(), (Errno, &'static str)> {
        rustix::process::fchdir(root).map_err(|errno| (errno, "fchdir"))?;
        rustix::mount::move_mount(root, c"", rustix::fs::CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| (errno, "move_mount"))?;
        rustix::process::chroot(c".").map_err(|errno| (errno, "chroot"))?;
        rustix::process::chdir(c"/").map_err(|errno| (errno, "chdir"))
    }

    fn set_hostname(&mut self, name: &[u8]) -> Result<(), Errno> {
        rustix::system::sethostname(name)
    }

    fn give_streams(&mut self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw_unchecked(uid)), Some(Gid::from_raw_unchecked(gid)));
        let give = |stream: BorrowedFd<'_>| rustix::fs::fchown(stream, uid, gid);
        let [stdin, stdout, stderr] = sys::process::standard_streams();
        match self.streams {
            Streams::Terminal => give(stdin),
            Streams::Pipes(pipes) => {
                for (stream, is_pipe) in [stdin, stdout, stderr].into_iter().zip(pipes) {
                    if is_pipe {
                        give(stream)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn set_groups(&mut self, groups: IdList<'_>) -> Result<(), Errno> {
        let mut ids: Vec<Gid, { limits::MAX_GROUPS }> = Vec::new();
        for id in groups.iter() {
            ids.push(Gid::from_raw_unchecked(id)).map_err(|_| Errno::INVAL)?;
        }
        rustix::thread::set_thread_groups(&ids)
    }

    fn set_gid(&mut self, gid: u32) -> Result<(), Errno> {
        let gid = Gid::from_raw_unchecked(gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid)
    }

    fn set_uid(&mut self, uid: u32) -> Result<(), Errno> {
        let uid = Uid::from_raw_unchecked(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    }

    fn change_directory(&mut self, folder: &OwnedFd) -> Result<(), Errno> {
        rustix::process::fchdir(folder)
    }

    fn announce_exec(&mut self) -> Result<(), Errno> {
        rustix::process::umask(PROCESS_UMASK);
        self.status.ready()
    }

    fn execve(&mut self, path: &CStr, arguments: StrList<'_>, environment: StrList<'_>) -> Errno {
        sys::process::execve(path, arguments, environment)
    }
}
