//! Sizes that both sides check.

/// The longest body of a frame from host to guest, in bytes. A program with 1000 mounts, 128 KiB of environment and
/// a full seccomp filter fits.
pub const MAX_REQUEST: usize = 512 * 1024;

/// The longest body of a frame from guest to host, in bytes.
pub const MAX_EVENT: usize = MAX_CONTENTS + 16;

/// The most bytes of a file that one [`Contents`](crate::Contents) event carries.
pub const MAX_CONTENTS: usize = 16 * 1024;

/// How many [`WaitFile`](crate::WaitFile) requests may be open at a time.
pub const MAX_WATCHES: usize = 16;

/// The longest text of a [`Failed`](crate::Failed) event, in bytes.
pub const MAX_TEXT: usize = 512;

/// How many programs may run in one guest at a time.
pub const MAX_PROCESSES: usize = 64;

/// How many entries a program's argument list and environment may have, each.
pub const MAX_STRINGS: usize = 4096;

/// How many supplementary groups a process may have.
pub const MAX_GROUPS: usize = 1024;

/// The bytes of randomness that seed the guest's CRNG.
pub const SEED_LEN: usize = 32;

/// The longest filter of an [`Operation::SetSeccomp`](crate::Operation::SetSeccomp), in instructions of eight bytes: Linux's own
/// limit.
pub const MAX_SECCOMP: usize = 4096;
