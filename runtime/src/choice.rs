//! Which hypervisor runs a sandbox.

use std::path::{Path, PathBuf};

use mote_vmm::{
    Hypervisor,
    kvm::{self, Kvm},
    qemu::{Accel, Qemu},
};
use serde::{Deserialize, Serialize};

use crate::{Error, error::Kind};

/// The program that runs QEMU on this architecture.
const QEMU: &str = "qemu-system-x86_64";

/// A user's choice of hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HypervisorChoice {
    /// KVM where it runs real guests, else QEMU.
    #[default]
    Auto,
    /// Our own VMM on KVM.
    Kvm,
    /// QEMU: on KVM where that runs real guests, else with its software emulation.
    Qemu,
}

/// Where QEMU is, if it is installed.
#[must_use]
pub fn qemu_available() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(QEMU)).find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// The hypervisor for a choice.
///
/// # Errors
/// It is not usable here; the message says what is.
pub fn hypervisor(choice: HypervisorChoice) -> Result<Box<dyn Hypervisor>, Error> {
    match (choice, kvm::probe::probe()) {
        (HypervisorChoice::Auto | HypervisorChoice::Kvm, Ok(())) => Ok(Box::new(Kvm)),
        (HypervisorChoice::Kvm, Err(failure)) => Err(Error::new(
            Kind::Hypervisor,
            format!("KVM is not usable here: {failure}; --hypervisor qemu works without it"),
        )),
        (HypervisorChoice::Auto, Err(failure)) => qemu(Accel::Tcg).map_err(|error| {
            Error::new(Kind::Hypervisor, format!("KVM is not usable here: {failure}; and {error}"))
        }),
        (HypervisorChoice::Qemu, verdict) => qemu(if verdict.is_ok() { Accel::Kvm } else { Accel::Tcg }),
    }
}

fn qemu(accel: Accel) -> Result<Box<dyn Hypervisor>, Error> {
    let program = qemu_available().ok_or_else(|| {
        Error::new(Kind::Hypervisor, format!("{QEMU} is not installed (Debian package qemu-system-x86)"))
    })?;
    Ok(Box::new(Qemu { program, accel }))
}
