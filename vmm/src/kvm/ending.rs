//! The end of a VM: recorded once, by whoever sees it first, and waited for by others.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Condvar, Mutex, PoisonError},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::Exit;

pub(super) struct Ending {
    exit: Mutex<Option<Exit>>,
    recorded: Condvar,
    event: EventFd,
}

impl Ending {
    pub(super) fn new() -> std::io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { exit: Mutex::default(), recorded: Condvar::new(), event })
    }

    /// Records how the VM ended, unless that is known already.
    pub(super) fn record(&self, exit: Exit) {
        let mut recorded = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.is_none() {
            *recorded = Some(exit);
            self.recorded.notify_all();
            // Fails only when the counter is full, and then the descriptor is readable.
            let _ = self.event.write(1);
        }
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn wait(&self) -> Exit {
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(exit) = &*exit {
                return exit.clone();
            }
            exit = self.recorded.wait(exit).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl AsFd for Ending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
