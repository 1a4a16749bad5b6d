//! Writes the initial ramdisk that a guest kernel unpacks and starts from.
//!
//! This crate owns one thing: the *newc* archive format, as the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst` describes it and `init/initramfs.c` reads it
//! ("SVR4 with no CRC", magic `070701`). It takes bytes and returns bytes: it opens no file, and it must not know
//! what an agent does, how a VM is booted or where the ramdisk is placed.
//!
//! Callers: the runtime's build script packs the agent with [`pack_agent`]; tests build ramdisks of their own with
//! [`Archive`].
//!
//! What can go wrong: only the caller's input. The kernel skips silently what it cannot unpack (a name that is too
//! long, a file whose folder is missing), and the guest then fails much later with a message that does not point
//! here. So everything that the kernel would skip or misread is an [`Error`] when it is added.
//!
//! The output depends on the calls and on nothing else: modification times are 0, owners are root, inode numbers
//! count up from 1.

mod archive;
mod error;
mod header;
mod path;

pub use archive::{Archive, DeviceKind};
pub use error::{Error, Fault};

/// Packs `agent`, a static executable, as the initial ramdisk that Mote boots: `/init`, mode 0755, and nothing else.
///
/// `/dev`, `/dev/console` and `/root` are not in it: a kernel that is built without a ramdisk of its own
/// (`CONFIG_INITRAMFS_SOURCE` is empty) has them from `usr/default_cpio_list`, which it unpacks first. The agent makes
/// the other folders that it mounts on.
///
/// # Errors
///
/// [`Error::FileTooLarge`], if `agent` is longer than 4 GiB - 1.
pub fn pack_agent(agent: &[u8]) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, agent)?;
    Ok(archive.finish())
}

#[cfg(test)]
mod tests;
