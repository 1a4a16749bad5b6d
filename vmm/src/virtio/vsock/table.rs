//! All connections of a device, and which of them have something for the guest.
//!
//! Bounded: connections by [`MAX_CONNECTIONS`], the list of those with something to send by the connections, resets by what
//! the device stops taking packets at ([`resets_full`](Table::resets_full)).

use std::collections::{BTreeMap, VecDeque, btree_map};

use super::{
    connection::{Connection, Verdict},
    packet::{Header, Key},
    pump::Pump,
};

/// The most connections of a guest's.
pub(super) const MAX_CONNECTIONS: usize = 1024;

/// How many resets may wait for a buffer of the guest's before no more packets are taken from it.
pub(super) const MAX_RESETS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Ordered: a guest that picks its ports cannot slow it down, and there are few.
    connections: BTreeMap<Key, Connection>,
    /// Each of them at most once; takes turns.
    ready: VecDeque<Key>,
    resets: VecDeque<Header>,
    /// Writes what connections leave behind.
    pub(super) pump: Pump,
}

impl Table {
    pub(super) fn get(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections.get_mut(&key)
    }

    pub(super) fn is_full(&self) -> bool {
        self.connections.len() >= MAX_CONNECTIONS
    }

    pub(super) fn insert(&mut self, key: Key, connection: Connection) {
        if let btree_map::Entry::Vacant(slot) = self.connections.entry(key) {
            slot.insert(connection);
            self.settle(key, Verdict::Keep);
        }
    }

    /// Does what follows from a change of a connection.
    pub(super) fn settle(&mut self, key: Key, verdict: Verdict) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if verdict == Verdict::Reset {
            let reset = connection.reset();
            self.refuse(reset);
            self.remove(key);
        } else if !connection.queued && connection.wants_to_send() {
            connection.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Has a reset sent.
    pub(super) fn refuse(&mut self, reset: Header) {
        self.resets.push_back(reset);
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            if connection.queued {
                self.ready.retain(|ready| *ready != key);
            }
            connection.leave(&self.pump);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.resets.clear();
        for connection in std::mem::take(&mut self.connections).into_values() {
            connection.leave(&self.pump);
        }
    }

    /// Whether the guest owes us buffers before it may send more.
    pub(super) fn resets_full(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    pub(super) fn has_work(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// The reset that is to be sent next.
    pub(super) fn next_reset(&self) -> Option<Header> {
        self.resets.front().copied()
    }

    /// Forgets the reset that was to be sent next.
    pub(super) fn reset_sent(&mut self) {
        self.resets.pop_front();
    }

    /// Whose turn it is, until [`end_turn`](Self::end_turn).
    pub(super) fn turn(&mut self) -> Option<&mut Connection> {
        self.connections.get_mut(self.ready.front()?)
    }

    /// Ends the turn of whose it is: it comes back last if it has more to send.
    pub(super) fn end_turn(&mut self) {
        if let Some(key) = self.ready.pop_front()
            && let Some(connection) = self.connections.get_mut(&key)
        {
            connection.queued = false;
            let verdict = connection.settle();
            self.settle(key, verdict);
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.connections.len(), self.ready.len(), self.resets.len())
    }
}
