//! What a program needs from the kernel.

use core::ffi::CStr;

use mote_protocol::{IdList, StrList};
use rustix::io::Errno;

/// What [`Kernel::open`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Whatever is there.
    Any,
    /// Only a folder.
    Directory,
}

/// The operations of the kernel that a program is carried out with, one method each, so that the interpreter is tested
/// without privileges. Every method's errors are those of the system call that it is named after.
pub trait Kernel {
    /// A descriptor; dropping it closes it.
    type Fd;

    /// `open("/", O_PATH)`.
    fn open_root(&mut self) -> Result<Self::Fd, Errno>;
    /// `openat2(2)` with `O_PATH`, below `root` as if it were `/`.
    fn open(&mut self, root: &Self::Fd, path: &CStr, what: Opened) -> Result<Self::Fd, Errno>;
    /// `unshare(2)`.
    fn unshare(&mut self, namespaces: u32) -> Result<(), Errno>;
    /// `mkdirat(2)`; `name` is a single component.
    fn make_directory(&mut self, parent: &Self::Fd, name: &CStr, mode: u32) -> Result<(), Errno>;
    /// `symlinkat(2)`; `name` is a single component.
    fn make_symlink(&mut self, content: &CStr, parent: &Self::Fd, name: &CStr) -> Result<(), Errno>;
    /// `fsopen(2)`.
    fn fs_open(&mut self, fs_type: &CStr) -> Result<Self::Fd, Errno>;
    /// `fsconfig(2)` with `FSCONFIG_SET_STRING`.
    fn fs_set_string(&mut self, context: &Self::Fd, key: &CStr, value: &CStr) -> Result<(), Errno>;
    /// `fsconfig(2)` with `FSCONFIG_SET_FLAG`.
    fn fs_set_flag(&mut self, context: &Self::Fd, key: &CStr) -> Result<(), Errno>;
    /// `fsconfig(2)` with `FSCONFIG_CMD_CREATE`.
    fn fs_create(&mut self, context: &Self::Fd) -> Result<(), Errno>;
    /// `fsmount(2)`.
    fn fs_mount(&mut self, context: &Self::Fd, attributes: u64) -> Result<Self::Fd, Errno>;
    /// Reads a message about what went wrong from a file system context; returns its length, 0 if there is none.
    fn fs_message(&mut self, context: &Self::Fd, message: &mut [u8]) -> usize;
    /// `open_tree(2)` with `OPEN_TREE_CLONE`, of a path of this process's own.
    fn clone_tree(&mut self, source: &CStr, recursive: bool) -> Result<Self::Fd, Errno>;
    /// `move_mount(2)` of a mount to a place.
    fn move_mount(&mut self, mount: &Self::Fd, target: &Self::Fd) -> Result<(), Errno>;
    /// `mount_setattr(2)`.
    fn set_mount_attributes(&mut self, mount: &Self::Fd, set: u64, clear: u64) -> Result<(), Errno>;
    /// Makes the mount that `root` is the root of this process's `/`. The error names the system call that failed.
    fn enter_root(&mut self, root: &Self::Fd) -> Result<(), (Errno, &'static str)>;
    /// `sethostname(2)`.
    fn set_hostname(&mut self, name: &[u8]) -> Result<(), Errno>;
    /// `fchown(2)` of the standard streams that were made for this process.
    fn give_streams(&mut self, uid: u32, gid: u32) -> Result<(), Errno>;
    /// `setgroups(2)`.
    fn set_groups(&mut self, groups: IdList<'_>) -> Result<(), Errno>;
    /// `setresgid(2)`, all three.
    fn set_gid(&mut self, gid: u32) -> Result<(), Errno>;
    /// `setresuid(2)`, all three.
    fn set_uid(&mut self, uid: u32) -> Result<(), Errno>;
    /// `fchdir(2)`.
    fn change_directory(&mut self, folder: &Self::Fd) -> Result<(), Errno>;
    /// Says that everything up to `execve(2)` was done.
    fn announce_exec(&mut self) -> Result<(), Errno>;
    /// `execve(2)`. Returns only if it failed.
    fn execve(&mut self, path: &CStr, arguments: StrList<'_>, environment: StrList<'_>) -> Errno;
}
