//! Signals that want `mote` to end while it works on images: they become bytes in a pipe, so that it can clean up first.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    fcntl::OFlag,
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

/// Those that want it to end.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Where the handler writes to; -1 for nowhere.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Watches for signals for as long as it lives; a second one does what it always does.
#[derive(Debug)]
pub(crate) struct Interrupt {
    read: OwnedFd,
    _write: OwnedFd,
    before: Vec<(Signal, SigAction)>,
}

impl Interrupt {
    pub(crate) fn watch() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        PIPE.store(write.as_raw_fd(), Ordering::SeqCst);
        let mut interrupt = Self { read, _write: write, before: Vec::new() };
        // Without SA_RESTART: who waits for a lock looks up. Once only: whoever is in a hurry can say so.
        let action = SigAction::new(SigHandler::Handler(handle), SaFlags::SA_RESETHAND, SigSet::empty());
        for signal in SIGNALS {
            // SAFETY: the handler makes one system call that is async-signal-safe, on a descriptor that stays open until the
            // handler is gone again.
            let before = unsafe { sigaction(signal, &action) }?;
            interrupt.before.push((signal, before));
        }
        Ok(interrupt)
    }

    /// The number of the signal that came.
    pub(crate) fn signal(&self) -> u8 {
        let mut byte = [0];
        match nix::unistd::read(&self.read, &mut byte) {
            Ok(1) => byte[0],
            _ => 2,
        }
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: what is put back was in force before.
            let _ = unsafe { sigaction(*signal, before) };
        }
        PIPE.store(-1, Ordering::SeqCst);
    }
}

extern "C" fn handle(signal: libc::c_int) {
    let byte = signal.to_le_bytes();
    // SAFETY: `write` is async-signal-safe, and reads one byte of an array that lives. On a full pipe it fails, which does no
    // harm: somebody has been told then. On an error the interrupted code's `errno` changes, which no system call that was just
    // interrupted looks at again.
    unsafe { libc::write(PIPE.load(Ordering::SeqCst), byte.as_ptr().cast(), 1) };
}
