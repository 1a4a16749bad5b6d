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
    /// Only a folder, to list it or to name a cgroup with it: not just `O_PATH`.
    Listed,
}

/// The capability sets of a process, as bits that `CAP_*` number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over `execve(2)` of programs that ask for them.
    pub inheritable: u64,
    /// Kept over `execve(2)` of any program.
    pub ambient: u64,
}

/// `struct sched_attr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// Of a real-time policy.
    pub priority: u32,
    /// Runtime, deadline and period, in nanoseconds.
    pub times: [u64; 3],
}

/// A program that runs beside the process and ends before it goes on.
#[derive(Debug, Clone, Copy)]
pub struct Hook<'a> {
    /// Its file.
    pub path: &'a CStr,
    /// What it is called with.
    pub arguments: StrList<'a>,
    /// `NAME=value`.
    pub environment: StrList<'a>,
    /// Its standard input.
    pub input: &'a [u8],
    /// When it is killed, in milliseconds; 0 is never.
    pub timeout_ms: u32,
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
    /// Writes to a file with one call; opens it as [`open`](Self::open) does.
    fn write(&mut self, root: &Self::Fd, path: &CStr, content: &[u8]) -> Result<(), Errno>;
    /// Goes on in a child, which is the agent's as this process is; that child is in the PID namespace that this one's
    /// children belong to. Returns in the child only.
    fn go_on_in_child(&mut self) -> Result<(), Errno>;
    /// `setns(2)` to namespaces of the process that the agent has opened for this.
    fn join(&mut self, namespaces: u32) -> Result<(), Errno>;
    /// Makes a user namespace with these maps. `proc` is a `proc` of this process's PID namespace.
    fn make_user_namespace(&mut self, proc: &Self::Fd, uids: &CStr, gids: &CStr) -> Result<Self::Fd, Errno>;
    /// `setns(2)` to a user namespace.
    fn enter_user_namespace(&mut self, namespace: &Self::Fd) -> Result<(), Errno>;
    /// `unshare(2)`.
    fn unshare(&mut self, namespaces: u32) -> Result<(), Errno>;
    /// `mkdirat(2)`; `name` is a single component.
    fn make_directory(&mut self, parent: &Self::Fd, name: &CStr, mode: u32) -> Result<(), Errno>;
    /// `symlinkat(2)`; `name` is a single component.
    fn make_symlink(&mut self, content: &CStr, parent: &Self::Fd, name: &CStr) -> Result<(), Errno>;
    /// `mknodat(2)`; `name` is a single component.
    fn make_node(
        &mut self,
        parent: &Self::Fd,
        name: &CStr,
        mode: u32,
        device: (u32, u32),
    ) -> Result<(), Errno>;
    /// `fchownat(2)` of what `name` itself is, not what it may point to.
    fn change_owner(&mut self, parent: &Self::Fd, name: &CStr, ids: (u32, u32)) -> Result<(), Errno>;
    /// Whether something is a folder: `fstat(2)`.
    fn is_directory(&mut self, what: &Self::Fd) -> Result<bool, Errno>;
    /// Copies all that is in a folder, and its own owner and mode.
    fn copy_tree(&mut self, from: &Self::Fd, to: &Self::Fd) -> Result<(), Errno>;
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
    /// `open_tree(2)` with `OPEN_TREE_CLONE`, of what was opened.
    fn clone_opened(&mut self, source: &Self::Fd) -> Result<Self::Fd, Errno>;
    /// `mount_setattr(2)` with `MOUNT_ATTR_IDMAP`.
    fn map_ids(&mut self, mount: &Self::Fd, namespace: &Self::Fd, recursive: bool) -> Result<(), Errno>;
    /// The number of this process's terminal, if it has one.
    fn terminal(&mut self) -> Result<Option<u32>, Errno>;
    /// `move_mount(2)` of a mount to a place.
    fn move_mount(&mut self, mount: &Self::Fd, target: &Self::Fd) -> Result<(), Errno>;
    /// `mount_setattr(2)`: bits to set, bits to clear, and 0 or an `MS_*` flag of propagation.
    fn change_mount(
        &mut self,
        mount: &Self::Fd,
        recursive: bool,
        set_clear_propagation: (u64, u64, u64),
    ) -> Result<(), Errno>;
    /// Makes the mount that `root` is the root of this process's `/`. The error names the system call that failed.
    fn enter_root(&mut self, root: &Self::Fd) -> Result<(), (Errno, &'static str)>;
    /// `sethostname(2)`.
    fn set_hostname(&mut self, name: &[u8]) -> Result<(), Errno>;
    /// `setdomainname(2)`.
    fn set_domainname(&mut self, name: &[u8]) -> Result<(), Errno>;
    /// Brings `lo` up.
    fn raise_loopback(&mut self) -> Result<(), Errno>;
    /// Loads a program for a cgroup's devices and attaches it. The error names the system call that failed.
    fn filter_devices(&mut self, cgroup: &Self::Fd, program: &[u8]) -> Result<(), (Errno, &'static str)>;
    /// `fchown(2)` of the standard streams that were made for this process.
    fn give_streams(&mut self, uid: u32, gid: u32) -> Result<(), Errno>;
    /// `setgroups(2)`.
    fn set_groups(&mut self, groups: IdList<'_>) -> Result<(), Errno>;
    /// `setresgid(2)`, all three.
    fn set_gid(&mut self, gid: u32) -> Result<(), Errno>;
    /// `setresuid(2)`, all three.
    fn set_uid(&mut self, uid: u32) -> Result<(), Errno>;
    /// `PR_SET_KEEPCAPS`.
    fn keep_capabilities(&mut self) -> Result<(), Errno>;
    /// `PR_CAPBSET_DROP` of every capability that is not in `keep`.
    fn bound_capabilities(&mut self, keep: u64) -> Result<(), Errno>;
    /// `capset(2)` and `PR_CAP_AMBIENT`. The error names the call that failed.
    fn set_capabilities(&mut self, sets: Capabilities) -> Result<(), (Errno, &'static str)>;
    /// `prlimit(2)` of this process.
    fn set_limit(&mut self, resource: u8, soft: u64, hard: u64) -> Result<(), Errno>;
    /// Remembers the `umask(2)` that the program to execute starts with.
    fn set_umask(&mut self, mask: u32);
    /// `PR_SET_NO_NEW_PRIVS`.
    fn set_no_new_privileges(&mut self) -> Result<(), Errno>;
    /// `seccomp(2)` with `SECCOMP_SET_MODE_FILTER`.
    fn set_seccomp(&mut self, flags: u32, filter: &[u8]) -> Result<(), Errno>;
    /// `sched_setattr(2)`.
    fn set_scheduler(&mut self, scheduler: Scheduler) -> Result<(), Errno>;
    /// `ioprio_set(2)`.
    fn set_io_priority(&mut self, priority: u16) -> Result<(), Errno>;
    /// `personality(2)`.
    fn set_personality(&mut self, persona: u32) -> Result<(), Errno>;
    /// `faccessat2(2)` with `X_OK` and the effective ids; a folder is no program (`EACCES`).
    fn check_executable(&mut self, path: &CStr) -> Result<(), Errno>;
    /// Runs a hook to its end. The error names what failed; what the hook said goes to `words`, with its length.
    fn run_hook(
        &mut self,
        hook: Hook<'_>,
        words: &mut [u8],
    ) -> Result<(), (Option<Errno>, &'static str, usize)>;
    /// Says that everything up to the gate was done, and waits until the host opens it.
    fn wait_at_gate(&mut self) -> Result<(), Errno>;
    /// `fchdir(2)`.
    fn change_directory(&mut self, folder: &Self::Fd) -> Result<(), Errno>;
    /// Says that everything up to `execve(2)` was done.
    fn announce_exec(&mut self) -> Result<(), Errno>;
    /// `execve(2)`. Returns only if it failed.
    fn execve(&mut self, path: &CStr, arguments: StrList<'_>, environment: StrList<'_>) -> Errno;
}
