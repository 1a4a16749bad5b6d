//! Programs: what the host compiled a container into, one small operation after the other.
//!
//! On the wire a program is a byte string of operations without a count. The guest decodes one, carries it out, and
//! goes on; it never holds a decoded program.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Error,
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
