//! `mount_setattr(2)`.

use rustix::{
    fd::{AsRawFd, BorrowedFd},
    io::Result,
};

use super::raw;

/// `struct mount_attr` of `linux/mount.h`, version 0.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets and clears `MOUNT_ATTR_*` bits of the mount that `mount` is the root of, and sets its propagation (`MS_*`) unless that
/// is 0; with `recursive`, also of the mounts in it.
///
/// # Errors
/// Those of `mount_setattr(2)`.
pub fn change(
    mount: BorrowedFd<'_>,
    recursive: bool,
    (set, clear, propagation): (u64, u64, u64),
) -> Result<()> {
    set_attributes(mount, recursive, MountAttributes { set, clear, propagation, user_namespace: 0 })
}

/// Shows ids through a mount that has no place yet as a user namespace maps them.
///
/// # Errors
/// Those of `mount_setattr(2)`: `EINVAL` if the file system does not support it.
pub fn map_ids(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    // A descriptor is never negative.
    let user_namespace = u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX);
    let attributes = MountAttributes { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, user_namespace };
    set_attributes(mount, recursive, attributes)
}

fn set_attributes(mount: BorrowedFd<'_>, recursive: bool, attributes: MountAttributes) -> Result<()> {
    const AT_EMPTY_PATH: usize = 0x1000;
    const AT_RECURSIVE: usize = 0x8000;
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let (path, pointer) = (c"".as_ptr().expose_provenance(), (&raw const attributes).expose_provenance());
    let arguments = [raw::descriptor(mount), path, flags, pointer, size_of::<MountAttributes>()];
    // SAFETY: the path is a static string with its NUL, the structure has the layout and the length that are passed and
    // lives past the call; the kernel only reads both.
    unsafe { raw::syscall(raw::MOUNT_SETATTR, arguments) }.map(|_| ())
}
