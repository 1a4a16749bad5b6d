//! Bytes that the guest sent and that their reader on the host has no room for yet.
//!
//! Bounded by credit: a guest that respects it has at most [`BUF_ALLOC`](super::credit::BUF_ALLOC) bytes here, and one that
//! does not loses the connection before anything is put here.

use std::collections::VecDeque;

use crate::{
    Memory,
    virtio::{Segments, queue::transfer::Vector},
};

#[derive(Debug, Default)]
pub(super) struct Buffer(VecDeque<u8>);

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends `len` bytes of `from`, from `offset` on.
    pub(super) fn append(&mut self, memory: &Memory, from: &Segments, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let old = self.0.len();
        self.0.resize(old + len, 0);
        let (first, second) = self.0.as_mut_slices();
        let head = first.get_mut(old..).unwrap_or_default();
        let copied = from.read(memory, offset, head);
        let tail = second.get_mut(old.saturating_sub(first.len())..).unwrap_or_default();
        from.read(memory, offset + copied, tail);
    }

    /// All there is, in order.
    pub(super) fn gather<'b>(&'b mut self, vector: &mut Vector<'b>) {
        let (first, second) = self.0.as_mut_slices();
        vector.push(first.into());
        vector.push(second.into());
    }

    /// Drops the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.0.drain(..count.min(self.0.len()));
    }
}
