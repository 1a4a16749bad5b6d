//! Where the VM's threads wait until all of them are there and restricted: no guest instruction runs before.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::Error;

#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    arrived: usize,
    failure: Option<Error>,
    /// Whether those who wait may run the guest; none while they wait.
    open: Option<bool>,
}

/// Opens the gate. Dropped before that, it sends those who wait away.
pub(super) struct Keeper(Arc<Gate>);

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Who opens it. There is one.
    pub(super) fn keeper(self: &Arc<Self>) -> Keeper {
        Keeper(Arc::clone(self))
    }

    /// A thread is there, restricted or not: waits. `false` if it is to end without having run the guest.
    pub(super) fn arrive(&self, restricted: Result<(), Error>) -> bool {
        let mut state = self.state();
        state.arrived += 1;
        state.failure = state.failure.take().or(restricted.err());
        self.changed.notify_all();
        loop {
            match state.open {
                Some(open) => return open,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Waits until `threads` threads have arrived.
    ///
    /// # Errors
    /// One of them could not be set up and restricted.
    pub(super) fn wait_for(&self, threads: usize) -> Result<(), Error> {
        let mut state = self.state();
        while state.arrived < threads {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    /// Lets all in.
    pub(super) fn open(self) {
        self.0.state().open = Some(true);
        // Dropping wakes them.
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.state().open.get_or_insert(false);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(gate: &Arc<Gate>, restricted: Result<(), Error>) -> std::thread::JoinHandle<bool> {
        let gate = Arc::clone(gate);
        std::thread::spawn(move || gate.arrive(restricted))
    }

    #[test]
    fn all_are_let_in_at_once() {
        let gate = Gate::new();
        let keeper = gate.keeper();
        let threads = [waiting(&gate, Ok(())), waiting(&gate, Ok(()))];
        gate.wait_for(2).unwrap();
        assert!(threads.iter().all(|thread| !thread.is_finished()));
        keeper.open();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    }

    #[test]
    fn nobody_is_let_in_after_a_failure() {
        let gate = Gate::new();
        let keeper = gate.keeper();
        let failure = Error::Host("test", std::io::ErrorKind::Unsupported.into());
        let threads = [waiting(&gate, Err(failure)), waiting(&gate, Ok(()))];
        gate.wait_for(2).unwrap_err();
        drop(keeper);
        assert!(threads.into_iter().all(|thread| !thread.join().unwrap()));
    }
}
