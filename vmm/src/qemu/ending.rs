//! How a QEMU process's end is told apart, and how it is brought about.
//!
//! A guest without ACPI has two ways to end: a restart (or a panic, which restarts), upon which QEMU exits with success because
//! of `-no-reboot`; and a halt, upon which QEMU runs on. The kernel's last words tell these apart, and the halt makes us end
//! QEMU.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::sys::{
    eventfd::{EfdFlags, EventFd},
    signal::Signal,
};

use crate::Exit;

/// Asks the supervisor to kill QEMU, and says why. Its descriptor is readable from then on.
pub(super) struct Request {
    event: EventFd,
    halted: AtomicBool,
}

impl Request {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event, halted: AtomicBool::new(false) })
    }

    /// The VM is to be stopped.
    pub(super) fn stop(&self) {
        // Fails only when the counter is full, and then the descriptor is readable.
        let _ = self.event.write(1);
    }

    /// The guest halted: there is nothing left to run.
    pub(super) fn halted(&self) {
        self.halted.store(true, Ordering::SeqCst);
        self.stop();
    }

    pub(super) fn has_halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }
}

impl AsFd for Request {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// What is known about the end of a QEMU process.
pub(super) struct Ending {
    pub(super) status: ExitStatus,
    /// We killed it, for whatever reason.
    pub(super) killed: bool,
    /// The guest halted, so we killed it.
    pub(super) halted: bool,
    pub(super) last_words: Option<Exit>,
    /// The last line that it wrote to its standard error.
    pub(super) complaint: Option<String>,
}

impl Ending {
    pub(super) fn exit(self) -> Exit {
        if self.status.success() {
            self.last_words.unwrap_or(Exit::TripleFault)
        } else if self.killed && self.status.signal() == Some(Signal::SIGKILL as i32) {
            if self.halted { Exit::PowerOff } else { Exit::Stopped }
        } else {
            Exit::Failed(self.reason())
        }
    }

    /// In one line, why QEMU failed.
    pub(super) fn reason(self) -> String {
        self.complaint.unwrap_or_else(|| format!("it ended without a word ({})", self.status))
    }
}
