//! Can this host's KVM run real guests?
//!
//! On some hosts `/dev/kvm` opens and VMs can be made, yet only paravirtual guests work: the instructions of any other are
//! emulated one by one, until the emulator meets one that it does not know. Nothing but running code tells. So a few
//! instructions are run that every x86-64 processor executes and KVM's emulator does not.
//!
//! **Owns** the test guest and the cached verdict. **Callers:** whoever picks a [`Hypervisor`](crate::Hypervisor).
//!
//! # What can go wrong
//!
//! The test guest has no loop, but a KVM that is broken in another way may still never come back. It runs in a thread of its
//! own, and the answer is waited for with a deadline; after it, the thread is interrupted by a signal, and if not even
//! that helps (it is stuck in the kernel), it is left behind and the verdict is "no".

mod cache;
mod guest;

use std::{
    io,
    os::unix::thread::JoinHandleExt,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use nix::sys::{
    pthread::pthread_kill,
    signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use super::API_VERSION;

/// How long the test guest may take. It needs less than a millisecond; this is for a host that has no time for us.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long it may take to leave `KVM_RUN` after a signal.
const GRACE: Duration = Duration::from_millis(500);
/// The signal that vCPU threads are interrupted with, too; its handler does nothing.
const KICK: Signal = Signal::SIGURG;

/// Why KVM cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeFailure {
    /// There is no KVM.
    #[error(
        "/dev/kvm does not exist: the processor has no virtualisation, or it is switched off, or KVM is not loaded"
    )]
    Missing,
    /// The caller may not use it.
    #[error("/dev/kvm may not be opened by this user: join the group that owns it (usually kvm)")]
    Permission,
    /// It cannot be opened for another reason.
    #[error("/dev/kvm cannot be opened: {0}")]
    Open(io::Error),
    /// It is not the KVM that we know.
    #[error("/dev/kvm speaks version {0} of its interface, and Mote version {API_VERSION}")]
    Version(i32),
    /// A step of making the test guest failed.
    #[error("/dev/kvm opens, but a test guest could not be made: {0}: {1}")]
    Setup(&'static str, io::Error),
    /// The test guest did not do what a processor does.
    #[error("/dev/kvm opens, but {0}")]
    NotExecuted(String),
    /// The test guest did not end in time.
    #[error("/dev/kvm opens, but the test guest did not end within {} seconds", DEADLINE.as_secs())]
    Stuck,
}

/// Says whether KVM can run real guests here. The verdict of the test guest is remembered until the host is booted again.
///
/// # Errors
/// It cannot, and why.
pub fn probe() -> Result<(), ProbeFailure> {
    // Whether it may be opened is asked each time: that changes, and depends on who asks.
    let kvm = open()?;
    let cache = cache::Cache::open();
    if let Some(verdict) = cache.as_ref().and_then(cache::Cache::read) {
        return verdict.map_err(ProbeFailure::NotExecuted);
    }
    let result = run_with_deadline(kvm);
    // Only what the guest did is a property of the host; anything else may be different next time.
    let verdict = match &result {
        Ok(()) => Ok(()),
        Err(ProbeFailure::NotExecuted(what)) => Err(what.as_str()),
        Err(_) => return result,
    };
    if let Some(cache) = cache {
        cache.write(verdict);
    }
    result
}

fn open() -> Result<kvm_ioctls::Kvm, ProbeFailure> {
    let kvm = kvm_ioctls::Kvm::new().map_err(|error| {
        let error = io::Error::from(error);
        match error.kind() {
            io::ErrorKind::NotFound => ProbeFailure::Missing,
            io::ErrorKind::PermissionDenied => ProbeFailure::Permission,
            _ => ProbeFailure::Open(error),
        }
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        version => Err(ProbeFailure::Version(version)),
    }
}

fn run_with_deadline(kvm: kvm_ioctls::Kvm) -> Result<(), ProbeFailure> {
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is async-signal-safe; vCPU threads install the same one for this signal.
    unsafe { sigaction(KICK, &action) }
        .map_err(|error| ProbeFailure::Setup("install a signal handler", error.into()))?;
    let (sender, verdict) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || {
            // Nobody listens after the deadline.
            let _ = sender.send(guest::run(&kvm));
        })
        .map_err(|error| ProbeFailure::Setup("start a thread", error))?;
    let result = match verdict.recv_timeout(DEADLINE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => return Err(ProbeFailure::Stuck),
        Err(RecvTimeoutError::Timeout) => {
            // The thread has not been joined, so its handle is valid. What it says from now on comes too late to be trusted.
            let interrupted = pthread_kill(thread.as_pthread_t(), KICK).is_ok();
            if !interrupted || verdict.recv_timeout(GRACE).is_err() {
                return Err(ProbeFailure::Stuck);
            }
            Err(ProbeFailure::Stuck)
        }
    };
    // It has sent its answer, and ends. A panic was reported by the panic hook.
    let _ = thread.join();
    result
}

#[cfg(test)]
mod tests;
