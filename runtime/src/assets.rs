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
