//! Programs: what the host compiled a container into, one small operation after the other.
//!
//! On the wire a program is a byte string of operations without a count. The guest decodes one, carries it out, and
//! goes on; it never holds a decoded program.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Error, ProcessId,
    text::{IdList, StrList, WireStr},
};

/// One step of a program, carried out in the child that becomes the process.
///
/// **The root.** Paths named `path` and `target` are resolved below the *root*, as if it were `/`: no symlink leads out of
/// it. It starts as the guest's own `/`; `SetRoot` moves it. Sources and options of a mount are the guest's own paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation<'a> {
    /// `unshare(2)`: puts the child into new namespaces.
    Unshare {
        /// `CLONE_NEW*` bits.
        namespaces: u32,
    },
    /// Makes a folder and those above it; one that is there already is left as it is.
    MakeDirectory {
        /// The folder.
        #[serde(borrow)]
        path: WireStr<'a>,
        /// Permission bits of folders that are made.
        mode: u32,
    },
    /// Makes a symbolic link; leaves whatever is there already.
    MakeSymlink {
        /// What the link says.
        #[serde(borrow)]
        content: WireStr<'a>,
        /// The link.
        path: WireStr<'a>,
    },
    /// Mounts a new file system: `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, `move_mount(2)`.
    Mount {
        /// The type: `proc`, `tmpfs`, `erofs`…
        #[serde(borrow)]
        fs_type: WireStr<'a>,
        /// What is mounted: a device or a word.
        source: WireStr<'a>,
        /// An existing folder.
        target: WireStr<'a>,
        /// `MOUNT_ATTR_*` bits.
        attributes: u64,
        /// `key=value` or `flag`, as `fsconfig` takes them.
        options: StrList<'a>,
    },
    /// Changes the attributes of one mount: `mount_setattr(2)`.
    SetMountAttributes {
        /// Where it is mounted.
        #[serde(borrow)]
        target: WireStr<'a>,
        /// `MOUNT_ATTR_*` bits to set.
        set: u64,
        /// `MOUNT_ATTR_*` bits to clear.
        clear: u64,
    },
    /// Makes a folder the root of the operations that follow.
    SetRoot {
        /// The folder, itself resolved below the root so far.
        #[serde(borrow)]
        path: WireStr<'a>,
    },
    /// Makes the root the child's `/` and hides the guest's own. The child must be in its own mount namespace.
    EnterRoot,
    /// `sethostname(2)`.
    SetHostname {
        /// At most 64 bytes.
        #[serde(borrow)]
        name: WireStr<'a>,
    },
    /// `setgroups(2)`, `setgid(2)`, `setuid(2)`. The streams' pipes or the terminal are given to the user first.
    SetIds {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Supplementary group ids.
        #[serde(borrow)]
        groups: IdList<'a>,
    },
    /// `chdir(2)`.
    ChangeDirectory {
        /// The folder.
        #[serde(borrow)]
        path: WireStr<'a>,
    },
    /// `execve(2)`; a name without `/` is looked up in `PATH` of `environment`. The last operation of a program.
    Exec {
        /// The program's name, then its arguments.
        #[serde(borrow)]
        arguments: StrList<'a>,
        /// `NAME=value`.
        environment: StrList<'a>,
    },
    /// Mounts a folder of the guest's own a second time: `open_tree(2)` with `OPEN_TREE_CLONE`, `move_mount(2)`.
    BindMount {
        /// The guest's own path; not below the root.
        #[serde(borrow)]
        source: WireStr<'a>,
        /// An existing folder, below the root.
        target: WireStr<'a>,
        /// Takes along what is mounted inside of it.
        recursive: bool,
    },
    /// The gate: the host is told that the process is [`Created`](crate::Created), and the program goes on when the host says
    /// [`Start`](crate::Request::Start).
    Await,
    /// Enters namespaces of another process of the host's, with the root that it has there: `setns(2)`. Only
    /// [`WriteFile`](Self::WriteFile), [`WriteProc`](Self::WriteProc) and [`GiveStreams`](Self::GiveStreams) may stand before it. Its PID namespace is entered by forking; the process stays a child of
    /// the agent's.
    Join {
        /// Whose.
        process: ProcessId,
        /// `CLONE_NEW*` bits.
        namespaces: u32,
    },
    /// Enters a new user namespace, and becomes user and group 0 in it.
    EnterUserNamespace {
        /// Lines for `uid_map`.
        #[serde(borrow)]
        uids: WireStr<'a>,
        /// Lines for `gid_map`.
        gids: WireStr<'a>,
    },
    /// Writes to a file that is there, with one call.
    WriteFile {
        /// The file.
        #[serde(borrow)]
        path: WireStr<'a>,
        /// What to write.
        content: &'a [u8],
    },
    /// The same for a file of `proc`: of an instance that is mounted nowhere, so that nothing in the root can stand in for it.
    WriteProc {
        /// The file, from the root of `proc`: `self/oom_score_adj`, `sys/net/…`.
        #[serde(borrow)]
        path: WireStr<'a>,
        /// What to write.
        content: &'a [u8],
    },
    /// `mknodat(2)`, `fchownat(2)`; leaves whatever is there already.
    MakeDevice {
        /// The node.
        #[serde(borrow)]
        path: WireStr<'a>,
        /// Its kind and permissions: `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, and bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// [`BindMount`](Self::BindMount) for files too, and with ids mapped. A target that is missing is made, as a folder or an
    /// empty file, whichever the source is.
    Bind {
        /// The guest's own path; not below the root.
        #[serde(borrow)]
        source: WireStr<'a>,
        /// Where, below the root.
        target: WireStr<'a>,
        /// Takes along what is mounted inside of it.
        recursive: bool,
        /// How ids in the file system look through the mount: lines as for `uid_map`. Empty for as they are.
        uids: WireStr<'a>,
        /// The same for groups.
        gids: WireStr<'a>,
        /// Maps the ids of the mounts inside of it, too.
        recursive_ids: bool,
    },
    /// Changes a mount: `mount_setattr(2)`.
    ChangeMount {
        /// Where it is mounted.
        #[serde(borrow)]
        target: WireStr<'a>,
        /// Changes the mounts inside of it, too.
        recursive: bool,
        /// `MOUNT_ATTR_*` bits to set.
        set: u64,
        /// `MOUNT_ATTR_*` bits to clear.
        clear: u64,
        /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`; 0 for no change.
        propagation: u64,
    },
    /// Mounts a tmpfs that begins with a copy of what its target holds.
    MountCopy {
        /// An existing folder.
        #[serde(borrow)]
        target: WireStr<'a>,
        /// `MOUNT_ATTR_*` bits.
        attributes: u64,
        /// As for [`Mount`](Self::Mount).
        options: StrList<'a>,
    },
    /// Shows the process's terminal under one more name. Does nothing if it has none.
    BindTerminal {
        /// The name; a missing one is made.
        #[serde(borrow)]
        target: WireStr<'a>,
    },
    /// Hides what a path names: a folder behind an empty one, a file behind `/dev/null`. Does nothing if there is nothing.
    MaskPath {
        /// What to hide.
        #[serde(borrow)]
        path: WireStr<'a>,
    },
    /// Makes what a path names a mount of its own that cannot be written to. Does nothing if there is nothing.
    ProtectPath {
        /// What to protect.
        #[serde(borrow)]
        path: WireStr<'a>,
    },
    /// `setdomainname(2)`.
    SetDomainname {
        /// At most 64 bytes.
        #[serde(borrow)]
        name: WireStr<'a>,
    },
    /// Gives the streams' pipes or the terminal to a user before [`SetIds`](Self::SetIds) would: one that, from within a user
    /// namespace, could not.
    GiveStreams {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// Keeps the permitted capabilities over the [`SetIds`](Self::SetIds) that follows: `PR_SET_KEEPCAPS`.
    KeepCapabilities,
    /// Drops every other capability from the bounding set.
    BoundCapabilities {
        /// Capabilities that stay, by bit.
        keep: u64,
    },
    /// `capset(2)`, then the ambient set. Each set has the bits that `CAP_*` number.
    SetCapabilities {
        /// Effective.
        effective: u64,
        /// Permitted.
        permitted: u64,
        /// Inheritable.
        inheritable: u64,
        /// Ambient.
        ambient: u64,
    },
    /// `setrlimit(2)`.
    SetLimit {
        /// `RLIMIT_*`.
        resource: u8,
        /// The limit in force; `u64::MAX` is none.
        soft: u64,
        /// How far the process may raise it.
        hard: u64,
    },
    /// The `umask(2)` that the process starts with; 022 if nothing is said.
    SetUmask {
        /// Permission bits.
        mask: u32,
    },
    /// `PR_SET_NO_NEW_PRIVS`.
    SetNoNewPrivileges,
    /// `seccomp(2)` with `SECCOMP_SET_MODE_FILTER`. Takes effect at once, for the operations that follow, too.
    SetSeccomp {
        /// `SECCOMP_FILTER_FLAG_*`.
        flags: u32,
        /// `struct sock_filter`, one after the other.
        #[serde(borrow)]
        filter: &'a [u8],
    },
    /// `sched_setattr(2)`.
    SetScheduler {
        /// `SCHED_*`.
        policy: u32,
        /// `SCHED_FLAG_*`.
        flags: u64,
        /// -20 to 19.
        nice: i32,
        /// Of a real-time policy.
        priority: u32,
        /// Of `SCHED_DEADLINE`, in nanoseconds.
        runtime: u64,
        /// Of `SCHED_DEADLINE`, in nanoseconds.
        deadline: u64,
        /// Of `SCHED_DEADLINE`, in nanoseconds.
        period: u64,
    },
    /// `ioprio_set(2)`.
    SetIoPriority {
        /// Class and level, as the call takes them.
        priority: u16,
    },
    /// `personality(2)`.
    SetPersonality {
        /// `PER_*` and flags.
        persona: u32,
    },
    /// Loads a program that decides which devices a cgroup may use, and attaches it: `bpf(2)`, `BPF_PROG_TYPE_CGROUP_DEVICE`.
    FilterDevices {
        /// The cgroup's folder.
        #[serde(borrow)]
        cgroup: WireStr<'a>,
        /// `struct bpf_insn`, one after the other.
        program: &'a [u8],
    },
    /// Fails as [`Exec`](Self::Exec) would, if the program is missing or cannot be executed. That one, if its environment has the same
    /// `PATH`, then begins with the folder where the program is.
    CheckExecutable {
        /// The program's name.
        #[serde(borrow)]
        name: WireStr<'a>,
        /// `PATH`, for a name without `/`.
        path: WireStr<'a>,
    },
    /// Runs another program to its end, as this process's user and in its namespaces. A status other than 0 is a failure.
    RunHook {
        /// The program's file, below the root.
        #[serde(borrow)]
        path: WireStr<'a>,
        /// What it is called with.
        arguments: StrList<'a>,
        /// `NAME=value`.
        environment: StrList<'a>,
        /// Its standard input.
        input: &'a [u8],
        /// When it is killed, in milliseconds; 0 is never.
        timeout_ms: u32,
    },
    /// Brings the loopback device of the network namespace up.
    RaiseLoopback,
}

/// The operations of a program that arrived, decoded one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Operations<'a>(&'a [u8]);

impl<'a> Operations<'a> {
    /// The program whose operations stand in `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes that are left.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// Yields `Err` once at the first operation that does not decode, and nothing after it.
impl<'a> Iterator for Operations<'a> {
    type Item = Result<Operation<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match postcard::take_from_bytes(self.0) {
            Ok((operation, rest)) => {
                self.0 = rest;
                Some(Ok(operation))
            }
            Err(_) => {
                self.0 = &[];
                Some(Err(Error::Malformed))
            }
        }
    }
}

impl Serialize for Operations<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Operations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Self)
    }
}

/// Writes the operations of a program into a buffer of the caller's.
#[derive(Debug)]
pub struct ProgramWriter<'b> {
    buf: &'b mut [u8],
    used: usize,
}

impl<'b> ProgramWriter<'b> {
    /// An empty program that grows in `buf`.
    pub fn new(buf: &'b mut [u8]) -> Self {
        Self { buf, used: 0 }
    }

    /// Appends an operation.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if it does not fit; the program is then as it was.
    pub fn push(&mut self, operation: &Operation<'_>) -> Result<(), Error> {
        let written = postcard::to_slice(operation, &mut self.buf[self.used..]).map_err(|_| Error::NoRoom)?;
        self.used += written.len();
        Ok(())
    }

    /// The program so far.
    #[must_use]
    pub fn finish(self) -> Operations<'b> {
        Operations(&self.buf[..self.used])
    }
}
