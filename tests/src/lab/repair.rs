//! Builds the module that works around a fault of QEMU's: see `repair/lab_repair.c`.
//!
//! It is built once per kernel, with the headers of the kernel's own package version, when the kernel is fetched.

use std::fs;
use std::path::Path;

use super::error::{Error, Result};
use super::tools;

/// The module's name.
pub(crate) const NAME: &str = "lab_repair";
/// Its source.
pub(crate) const SOURCE: &str = include_str!("repair/lab_repair.c");

/// The compiler that Debian 12 builds its kernels with.
const COMPILER: &str = "gcc-12";

/// Builds the module for Debian's kernel `release` (`6.1.0-56-cloud-amd64`) of the package version `version`, in the folder `work`,
/// and leaves its file there as `lab_repair.ko`.
pub(crate) fn build(release: &str, version: &str, work: &Path) -> Result<()> {
    let abi = release.strip_suffix("-cloud-amd64").unwrap_or(release);
    let series = abi.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let common = format!("linux-headers-{abi}-common");
    for package in [format!("linux-headers-{release}"), common.clone(), format!("linux-kbuild-{series}")] {
        let wanted = format!("{package}={version}");
        tools::output("apt-get", "apt", &["-q", "download", &wanted], work, &[])?;
        let deb = super::kernel::entry(work, |name| name.starts_with(&format!("{package}_")))?;
        tools::output("dpkg-deb", "dpkg", &["-x", &deb.to_string_lossy(), "headers"], work, &[])?;
    }
    let module = work.join("module");
    fs::create_dir(&module).map_err(Error::io("create", &module))?;
    for (name, text) in [("Kbuild", format!("obj-m := {NAME}.o\n")), ("lab_repair.c", SOURCE.to_owned())] {
        let path = module.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    tools::require(COMPILER, COMPILER)?;
    let sources = work.join("headers/usr/src");
    let folder = sources.join(format!("linux-headers-{release}"));
    // The package's own Makefile names the place where the common headers get installed.
    let makefile = sources.join(common).join("Makefile");
    let arguments = [
        "-f",
        &makefile.to_string_lossy(),
        &format!("M={}", module.display()),
        &format!("CC={COMPILER}"),
        "modules",
    ];
    tools::output("make", "make", &arguments, &folder, &[])?;
    let (built, file) = (module.join(format!("{NAME}.ko")), work.join(format!("{NAME}.ko")));
    fs::rename(&built, &file).map_err(Error::io("move", &built))
}
