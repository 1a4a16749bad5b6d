//! `mount_setattr(2)`.

use rustix::{fd::BorrowedFd, io::Result};

use super::raw;

/// `struct mount_attr` of `linux/mount.h`, version 0.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets and clears `MOUNT_ATTR_*` bits of the mount that `mount` is the root of.
///
/// # Errors
/// Those of `mount_setattr(2)`.
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64, clear: u64) -> Result<()> {
    const AT_EMPTY_PATH: usize = 0x1000;
    let attributes = MountAttributes { set, clear, propagation: 0, user_namespace: 0 };
    let (path, pointer) = (c"".as_ptr().expose_provenance(), (&raw const attributes).expose_provenance());
    let arguments = [raw::descriptor(mount), path, AT_EMPTY_PATH, pointer, size_of::<MountAttributes>()];
    // SAFETY: the path is a static string with its NUL, the structure has the layout and the length that are passed and
    // lives past the call; the kernel only reads both.
    unsafe { raw::syscall(raw::MOUNT_SETATTR, arguments) }.map(|_| ())
}
