//! Why an entry was refused.

use std::fmt;

/// An entry that cannot be put into the archive. The archive is as it was before the call that returned it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The path is not one that the kernel would unpack where the caller means it.
    Path {
        /// The path as it was given; bytes that are not UTF-8 are replaced.
        path: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The path was added before.
    Duplicate {
        /// The path that is there already.
        path: String,
    },
    /// The folder that the path lies in was not added before. The kernel makes no folders on its own.
    NoParent {
        /// The path whose folder is missing.
        path: String,
    },
    /// The mode has bits other than the permissions, set-id and sticky bits (0o7777).
    Mode {
        /// The path of the entry.
        path: String,
        /// The mode as it was given.
        mode: u32,
    },
    /// The target of a symbolic link is empty, too long or contains a NUL byte.
    Target {
        /// The path of the symbolic link.
        path: String,
        /// What is wrong with its target.
        fault: Fault,
    },
    /// The device number does not fit into the kernel's `dev_t`: 12 bits of major and 20 bits of minor number.
    DeviceNumber {
        /// The path of the device node.
        path: String,
        /// The major number as it was given.
        major: u32,
        /// The minor number as it was given.
        minor: u32,
    },
    /// The content is longer than the format's size field can say: 4 GiB - 1.
    FileTooLarge {
        /// The path of the file.
        path: String,
        /// Its length in bytes.
        length: usize,
    },
    /// The archive has as many entries as its inode numbers can count: 2^32 - 1.
    TooManyEntries,
}

/// What is wrong with a path or with the target of a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It has no bytes.
    Empty,
    /// It starts with `/`. Paths in the archive are relative to the guest's root.
    Absolute,
    /// It has an empty component, `.` or `..`.
    Component,
    /// A component is longer than the 255 bytes of `NAME_MAX`.
    ComponentTooLong,
    /// It is longer than the 4095 bytes that fit into `PATH_MAX` with their closing NUL.
    TooLong,
    /// It contains a NUL byte.
    Nul,
    /// It is `TRAILER!!!`, the name that ends an archive.
    Trailer,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, fault } => write!(f, "the path {path:?} {fault}"),
            Self::Duplicate { path } => write!(f, "{path:?} is in the archive already"),
            Self::NoParent { path } => {
                write!(f, "the folder of {path:?} is not in the archive: add it first")
            }
            Self::Mode { path, mode } => {
                write!(f, "the mode {mode:#o} of {path:?} has bits outside 0o7777")
            }
            Self::Target { path, fault } => write!(f, "the target of the symbolic link {path:?} {fault}"),
            Self::DeviceNumber { path, major, minor } => {
                write!(f, "the device number {major}:{minor} of {path:?} is beyond 4095:1048575")
            }
            Self::FileTooLarge { path, length } => {
                write!(f, "{path:?} has {length} bytes, an archive takes files up to 4294967295")
            }
            Self::TooManyEntries => f.write_str("the archive is full: it has 4294967295 entries"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Absolute => "starts with '/', give it relative to the root",
            Self::Component => "has an empty component, '.' or '..'",
            Self::ComponentTooLong => "has a component of more than 255 bytes",
            Self::TooLong => "is longer than 4095 bytes",
            Self::Nul => "contains a NUL byte",
            Self::Trailer => "is the name that ends an archive",
        })
    }
}

impl std::error::Error for Error {}
