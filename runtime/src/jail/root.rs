//! The root file system of the jail: a new one in memory, read-only, with nothing in it, or only what it takes to start QEMU.
//!
//! It is made with the mount calls that work on descriptors: no name of the host's is used for it, so there is none that somebody could
//! have put something else at.

use std::{
    ffi::CString,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
    unistd::{fchdir, pivot_root},
};

use super::{Layers, Root, refused};
use crate::Error;

/// What a program of the distribution's needs besides itself.
const SYSTEM: [&str; 6] = ["/usr", "/lib", "/lib64", "/bin", "/nix/store", "/etc/ld.so.cache"];

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Makes `root` the root of the calling process, which must have a mount namespace of its own.
pub(super) fn enter(root: &Root, layers: &mut Layers) -> Result<(), Error> {
    let new = memory_file_system().map_err(refused("no file system for its root"))?;
    attach(&new, None).map_err(refused("its root cannot be mounted"))?;
    let form = match root {
        Root::Empty => "empty and read-only".to_owned(),
        Root::Program { path, devices, .. } => {
            furnish(&new, path, devices)?;
            format!("read-only, with what {} needs", path.display())
        }
    };
    fchdir(&new).map_err(refused("its root cannot be entered"))?;
    let read_only = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;
    set_attributes(&new, read_only, false).map_err(refused("its root cannot be made read-only"))?;
    // Puts the new root in the place of the old one, and the old one on top of it, from where it is taken away.
    pivot_root(".", ".").map_err(|error| match error {
        Errno::EINVAL => refused("the host lives on its initial ramdisk, which cannot be left")(error),
        error => refused("its root cannot be entered")(error),
    })?;
    umount2(".", MntFlags::MNT_DETACH).map_err(refused("the host's files cannot be left"))?;
    fchdir(&new).map_err(refused("its root cannot be entered"))?;
    layers.in_force("root", form);
    Ok(())
}

/// Puts into `root` what it takes to start `program`.
fn furnish(root: &OwnedFd, program: &Path, devices: &[&str]) -> Result<(), Error> {
    let read_only = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let own = program.parent().filter(|folder| !SYSTEM.iter().any(|system| folder.starts_with(system)));
    for path in SYSTEM.iter().map(Path::new).chain(own) {
        show(root, path, path, read_only)?;
    }
    let at_devices = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    for device in devices {
        let path = Path::new("/dev").join(device);
        show(root, &path, &path, at_devices)?;
    }
    let target = make(root, Path::new("/proc"), true).map_err(refused("its root cannot be furnished"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let here = at(&target);
    // An ordinary user may only have the one that is there.
    match mount(Some("proc"), &here, Some("proc"), flags, Some("subset=pid")) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM | Errno::EINVAL) => {
            show(root, Path::new("/proc"), Path::new("/proc"), libc::MOUNT_ATTR_NOSUID)
        }
        Err(error) => Err(refused("no /proc")(error)),
    }
}

/// Shows the host's `path` in the jail's root. What is not there is not shown; a symbolic link stays one.
fn show(root: &OwnedFd, path: &Path, target: &Path, attributes: u64) -> Result<(), Error> {
    let failed = refused("its root cannot be furnished");
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if metadata.is_symlink() {
        let link = std::fs::read_link(path).map_err(crate::error::host("read a link"))?;
        return nix::unistd::symlinkat(&link, root, relative(target)).map_err(failed);
    }
    let target = make(root, target, metadata.is_dir()).map_err(&failed)?;
    let tree = open_tree(path).map_err(&failed)?;
    set_attributes(&tree, attributes, true).map_err(&failed)?;
    attach(&tree, Some(&target)).map_err(failed)
}

/// Makes a file or folder to mount something on, with the folders above it.
fn make(root: &OwnedFd, target: &Path, folder: bool) -> nix::Result<OwnedFd> {
    use nix::fcntl::{OFlag, openat};
    let target = relative(target);
    let mut above = PathBuf::new();
    for part in target.parent().into_iter().flat_map(Path::components) {
        above.push(part);
        make_folder(root, &above)?;
    }
    if folder {
        make_folder(root, target)?;
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(root, target, flags, Mode::from_bits_truncate(0o444))?;
    }
    openat(root, target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

fn make_folder(root: &OwnedFd, path: &Path) -> nix::Result<()> {
    match nix::sys::stat::mkdirat(root, path, Mode::from_bits_truncate(0o555)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn at(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A file system in memory that is mounted nowhere yet.
pub(super) fn memory_file_system() -> nix::Result<OwnedFd> {
    // SAFETY: takes a string that ends with NUL, and makes a new descriptor.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    for (key, value) in [(c"mode", c"0555"), (c"size", c"256k"), (c"nr_inodes", c"64")] {
        // SAFETY: takes two strings that end with NUL.
        Errno::result(unsafe {
            let context = context.as_raw_fd();
            libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
        })?;
    }
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    })?;
    // SAFETY: makes a new descriptor; touches no memory.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, 0) })
}

/// What is mounted at and below `path`, once more, mounted nowhere yet.
pub(super) fn open_tree(path: &Path) -> nix::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let flags = OPEN_TREE_CLONE | libc::AT_RECURSIVE.cast_unsigned() | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: takes a string that ends with NUL, and makes a new descriptor.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Mounts what is not mounted yet, at the root or at `target`.
pub(super) fn attach(mount: &OwnedFd, target: Option<&OwnedFd>) -> nix::Result<()> {
    let (to, path, flags) = match target {
        Some(target) => (target.as_raw_fd(), c"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
        None => (libc::AT_FDCWD, c"/", MOVE_MOUNT_F_EMPTY_PATH),
    };
    // SAFETY: takes two strings that end with NUL.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), to, path.as_ptr(), flags)
    };
    Errno::result(result).map(drop)
}

/// Adds attributes to a mount, and to those below it.
pub(super) fn set_attributes(mount: &OwnedFd, attributes: u64, recursive: bool) -> nix::Result<()> {
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: takes a string that ends with NUL, and reads as many bytes of the structure as it has.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Owns a descriptor that a system call has just made.
fn descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
