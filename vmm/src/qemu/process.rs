//! Starting QEMU: what it inherits, and that it never outlives us.

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{errno::Errno, libc, sys::prctl::set_pdeathsig, sys::signal::Signal, unistd::getppid};

use super::command::Machine;
use crate::Error;

/// Starts QEMU as `machine`, whose descriptors are ours no more.
///
/// The process is killed when *the calling thread* ends (`PR_SET_PDEATHSIG` is about the thread, not the process), so the
/// thread must stay until it has waited for the child.
pub(super) fn spawn(program: &Path, machine: Machine) -> Result<Child, Error> {
    let inherited: Vec<RawFd> = machine.inherited().map(|fd| fd.as_raw_fd()).collect();
    let arguments = machine.arguments();
    let parent = std::process::id();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        // A terminal's signals are for us: we decide when the VM ends.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(machine.complaints);
    // SAFETY: the closure runs in the child between fork and exec. It makes system calls only (prctl, getppid, close_range,
    // fcntl), takes no lock and allocates nothing: its captures were allocated before.
    unsafe {
        command.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // A parent that died before the call above sends no signal: then somebody else is our parent by now.
            if u32::try_from(getppid().as_raw()) != Ok(parent) {
                return Err(Errno::ESRCH.into());
            }
            inherit_only(&inherited)
        });
    }
    let spawned = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Qemu(format!(
            "{} is not installed: install it (Debian: qemu-system-x86), or use --hypervisor kvm",
            program.display()
        )),
        _ => Error::Host("start QEMU", error),
    });
    // Until here the child needs them; with ours open, the other ends would not see that it is gone.
    drop((machine.kernel, machine.initrd, machine.serial, machine.monitor, machine.devices));
    spawned
}

/// Has all descriptors but the standard streams and `inherited` closed by exec.
fn inherit_only(inherited: &[RawFd]) -> io::Result<()> {
    // SAFETY: marks descriptors of this process to be closed by exec; touches no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result)?;
    for fd in inherited {
        // SAFETY: clears the flag again on descriptors that the caller's `Machine` holds open; touches no memory.
        Errno::result(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) })?;
    }
    Ok(())
}

/// A descriptor that is readable once `child`, which has not been waited for, has ended.
pub(super) fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor (with `FD_CLOEXEC`, as all of this kind); touches no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills the process behind a [`pidfd`], and can mean no other.
pub(super) fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    // SAFETY: sends a signal, without further information about it; touches no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match Errno::result(result) {
        // It has ended.
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
