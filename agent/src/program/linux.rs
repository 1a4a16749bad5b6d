//! The kernel's operations as Linux has them.

use core::ffi::CStr;

use heapless::Vec;
use mote_protocol::{IdList, StrList, limits};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags},
    thread::{CapabilitySet, CapabilitySets, Gid, Uid},
};

use super::{
    copy,
    kernel::{Capabilities, Hook, Kernel, Opened, Scheduler},
};
use crate::{
    spawn::{self, StatusWriter},
    sys,
};

/// The `umask(2)` that processes start with if nobody says otherwise; operations make files with the modes that they name.
const PROCESS_UMASK: Mode = Mode::from_raw_mode(0o022);

/// How paths in a root are resolved: nothing leads out of it.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

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
    joined: Option<OwnedFd>,
    umask: Mode,
}

impl<'s> Linux<'s> {
    /// For a child with these streams, whose progress goes to `status`. `joined` is a descriptor of the process whose
    /// namespaces it may join.
    #[must_use]
    pub fn new(streams: Streams, status: &'s StatusWriter, joined: Option<OwnedFd>) -> Self {
        Self { streams, status, joined, umask: PROCESS_UMASK }
    }
}

impl Kernel for Linux<'_> {
    type Fd = OwnedFd;

    fn open_root(&mut self) -> Result<OwnedFd, Errno> {
        rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    fn open(&mut self, root: &OwnedFd, path: &CStr, what: Opened) -> Result<OwnedFd, Errno> {
        let kind = match what {
            Opened::Any => OFlags::PATH,
            Opened::Directory => OFlags::PATH | OFlags::DIRECTORY,
            Opened::Listed => OFlags::RDONLY | OFlags::DIRECTORY,
        };
        rustix::fs::openat2(root, path, OFlags::CLOEXEC | kind, Mode::empty(), IN_ROOT)
    }

    fn write(&mut self, root: &OwnedFd, path: &CStr, content: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = rustix::fs::openat2(root, path, flags, Mode::empty(), IN_ROOT)?;
        match rustix::io::write(&file, content)? {
            count if count == content.len() => Ok(()),
            _ => Err(Errno::IO),
        }
    }

    fn go_on_in_child(&mut self) -> Result<(), Errno> {
        sys::process::go_on_in_child(|pid| self.status.moved(pid))?;
        spawn::lead_session(self.streams).map_err(|(errno, _)| errno)
    }

    fn join(&mut self, namespaces: u32) -> Result<(), Errno> {
        let joined = self.joined.take().ok_or(Errno::SRCH)?;
        sys::process::join(joined.as_fd(), namespaces)
    }

    fn make_user_namespace(&mut self, proc: &OwnedFd, uids: &CStr, gids: &CStr) -> Result<OwnedFd, Errno> {
        super::userns::make(proc, uids, gids)
    }

    fn enter_user_namespace(&mut self, namespace: &OwnedFd) -> Result<(), Errno> {
        const CLONE_NEWUSER: u32 = 0x1000_0000;
        sys::process::join(namespace.as_fd(), CLONE_NEWUSER)
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

    fn make_node(
        &mut self,
        parent: &OwnedFd,
        name: &CStr,
        mode: u32,
        (major, minor): (u32, u32),
    ) -> Result<(), Errno> {
        let (kind, bits) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode & 0o7777));
        rustix::fs::mknodat(parent, name, kind, bits, rustix::fs::makedev(major, minor))
    }

    fn change_owner(&mut self, parent: &OwnedFd, name: &CStr, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn is_directory(&mut self, what: &OwnedFd) -> Result<bool, Errno> {
        Ok(FileType::from_raw_mode(rustix::fs::fstat(what)?.st_mode) == FileType::Directory)
    }

    fn copy_tree(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        copy::copy(from.as_fd(), to.as_fd())
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

    fn clone_opened(&mut self, source: &OwnedFd) -> Result<OwnedFd, Errno> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(source, c"", flags)
    }

    fn map_ids(&mut self, mount: &OwnedFd, namespace: &OwnedFd, recursive: bool) -> Result<(), Errno> {
        sys::mount::map_ids(mount.as_fd(), namespace.as_fd(), recursive)
    }

    fn terminal(&mut self) -> Result<Option<u32>, Errno> {
        if self.streams != Streams::Terminal {
            return Ok(None);
        }
        let [stdin, ..] = sys::process::standard_streams();
        Ok(Some(rustix::fs::minor(rustix::fs::fstat(stdin)?.st_rdev)))
    }

    fn move_mount(&mut self, mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
        let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, c"", target, c"", by_descriptor)
    }

    fn change_mount(
        &mut self,
        mount: &OwnedFd,
        recursive: bool,
        (set, clear, propagation): (u64, u64, u64),
    ) -> Result<(), Errno> {
        sys::mount::change(mount.as_fd(), recursive, (set, clear, propagation))
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

    fn set_domainname(&mut self, name: &[u8]) -> Result<(), Errno> {
        rustix::system::setdomainname(name)
    }

    fn raise_loopback(&mut self) -> Result<(), Errno> {
        sys::net::raise_loopback()
    }

    fn filter_devices(&mut self, cgroup: &OwnedFd, program: &[u8]) -> Result<(), (Errno, &'static str)> {
        sys::bpf::attach_device_filter(cgroup.as_fd(), program)
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

    fn keep_capabilities(&mut self) -> Result<(), Errno> {
        rustix::thread::set_keep_capabilities(true)
    }

    fn bound_capabilities(&mut self, keep: u64) -> Result<(), Errno> {
        for capability in capabilities(!keep) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // The kernel knows no more.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn set_capabilities(&mut self, sets: Capabilities) -> Result<(), (Errno, &'static str)> {
        let set = CapabilitySet::from_bits_retain;
        let main = CapabilitySets {
            effective: set(sets.effective),
            permitted: set(sets.permitted),
            inheritable: set(sets.inheritable),
        };
        rustix::thread::set_capabilities(None, main).map_err(|errno| (errno, "capset"))?;
        rustix::thread::clear_ambient_capability_set().map_err(|errno| (errno, "PR_CAP_AMBIENT"))?;
        for capability in capabilities(sets.ambient) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(|errno| (errno, "PR_CAP_AMBIENT"))?;
        }
        Ok(())
    }

    fn set_limit(&mut self, resource: u8, soft: u64, hard: u64) -> Result<(), Errno> {
        sys::process::set_limit(resource, soft, hard)
    }

    fn set_umask(&mut self, mask: u32) {
        self.umask = Mode::from_raw_mode(mask & 0o777);
    }

    fn set_no_new_privileges(&mut self) -> Result<(), Errno> {
        rustix::thread::set_no_new_privs(true)
    }

    fn set_seccomp(&mut self, flags: u32, filter: &[u8]) -> Result<(), Errno> {
        sys::bpf::set_seccomp(flags, filter)
    }

    fn set_scheduler(&mut self, scheduler: Scheduler) -> Result<(), Errno> {
        sys::process::set_scheduler(scheduler)
    }

    fn set_io_priority(&mut self, priority: u16) -> Result<(), Errno> {
        sys::process::set_io_priority(priority)
    }

    fn set_personality(&mut self, persona: u32) -> Result<(), Errno> {
        sys::process::set_personality(persona)
    }

    fn check_executable(&mut self, path: &CStr) -> Result<(), Errno> {
        // The path is walked once: on a shared folder, each step is a request to the host.
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        sys::process::check_executable(file.as_fd())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::Directory => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }

    fn run_hook(
        &mut self,
        hook: Hook<'_>,
        words: &mut [u8],
    ) -> Result<(), (Option<Errno>, &'static str, usize)> {
        super::hook::run(hook, words)
    }

    fn wait_at_gate(&mut self) -> Result<(), Errno> {
        self.status.created()
    }

    fn change_directory(&mut self, folder: &OwnedFd) -> Result<(), Errno> {
        rustix::process::fchdir(folder)
    }

    fn announce_exec(&mut self) -> Result<(), Errno> {
        rustix::process::umask(self.umask);
        self.status.ready()
    }

    fn execve(&mut self, path: &CStr, arguments: StrList<'_>, environment: StrList<'_>) -> Errno {
        sys::process::execve(path, arguments, environment)
    }
}

/// Each capability of a set.
fn capabilities(set: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|number| 1_u64 << number)
        .filter(move |bit| set & bit != 0)
        .map(CapabilitySet::from_bits_retain)
}
