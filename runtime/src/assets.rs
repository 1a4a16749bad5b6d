//! The files a VM is made of: the embedded initial ramdisk, the guest kernel, the default root file system.

use std::path::{Path, PathBuf};

use crate::{Error, error::Kind};

/// The initial ramdisk: the agent, ready to boot.
static INITRD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/initrd.cpio"));

/// The initial ramdisk that this build carries.
#[must_use]
pub fn initrd() -> &'static [u8] {
    INITRD
}

/// The size of the agent in it, in bytes.
#[must_use]
pub fn agent_size() -> u64 {
    // Written by this crate's build script.
    env!("MOTE_AGENT_SIZE").parse().unwrap_or(0)
}

/// The meter: what runs in the guest for `mote bench io`, as a command or as `/init`.
static METER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/meter"));

/// The meter's program, a static ELF file.
#[must_use]
pub fn meter() -> &'static [u8] {
    METER
}

/// An initial ramdisk whose `/init` is the meter. Made once and kept for as long as the process lives, as the embedded one is.
///
/// # Errors
/// It cannot be packed; the same for every call of one build.
pub fn meter_initrd() -> Result<&'static [u8], Error> {
    let packed = mote_initrd::pack_agent(METER);
    let packed = packed.map_err(|error| Error::because(Kind::Kernel, "cannot pack the meter", &error))?;
    Ok(packed.leak())
}

/// Where an installation keeps its files, in the order in which they are looked for: beside the program (`bin/mote` and
/// `lib/mote/`), then where distributions put them.
fn libraries() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("lib/mote")));
    beside.into_iter().chain(["/usr/local/lib/mote", "/usr/lib/mote"].map(PathBuf::from)).collect()
}

fn find(name: &str) -> Option<PathBuf> {
    libraries().into_iter().map(|library| library.join(name)).find(|path| path.exists())
}

fn searched(name: &str) -> String {
    let places: Vec<_> = libraries().iter().map(|library| library.join(name).display().to_string()).collect();
    places.join(", ")
}

/// The guest kernel: the one that is asked for, or the installed one.
///
/// # Errors
/// There is none.
pub fn kernel(asked: Option<&Path>) -> Result<PathBuf, Error> {
    match asked {
        Some(path) if path.exists() => Ok(path.to_owned()),
        Some(path) => Err(Error::new(Kind::Kernel, format!("kernel {}: no such file", path.display()))),
        None => find("vmlinux").ok_or_else(|| {
            Error::new(
                Kind::Kernel,
                format!(
                    "no guest kernel found (looked for {}); `make` builds one, or name one with --kernel",
                    searched("vmlinux")
                ),
            )
        }),
    }
}

/// The root file system for those who name none.
///
/// # Errors
/// It is not installed.
pub fn default_rootfs() -> Result<PathBuf, Error> {
    find("rootfs.erofs").ok_or_else(|| {
        Error::new(
            Kind::Rootfs,
            format!(
                "no default root file system found (looked for {}); `make` builds one, or name one with --rootfs",
                searched("rootfs.erofs")
            ),
        )
    })
}
