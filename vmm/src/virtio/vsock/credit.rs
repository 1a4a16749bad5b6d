//! How much each end of a connection may send (VIRTIO 1.2, 5.10.6.3).
//!
//! Both ends count bytes modulo 2^32. Nothing that a guest puts into its counters makes any of this overflow: it can only
//! take credit away from itself.

/// How many bytes a guest may have in flight on one connection: sent by it, not yet taken by whoever reads the stream. As much as our kernel
/// has for a socket (`kernel/patches/vsock.patch`). There are as many connections as endpoints that wait for them, so a guest cannot
/// multiply it.
pub(super) const BUF_ALLOC: u32 = 1 << 20;

/// What the guest may send to us.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// How many bytes the guest has sent.
    received: u32,
    /// How many of them have left for good. At most [`BUF_ALLOC`] behind `received`.
    forwarded: u32,
    /// The `forwarded` that the guest was told last; none while it has not been told anything.
    told: Option<u32>,
}

impl Granted {
    /// How many bytes the guest may still send, by what it was told.
    pub(super) fn window(&self) -> u32 {
        // `take` keeps the difference within BUF_ALLOC.
        self.told.map_or(0, |told| BUF_ALLOC.saturating_sub(self.received.wrapping_sub(told)))
    }

    /// Counts bytes that the guest sent. `false`, and nothing counted, if it was not allowed to send that many.
    pub(super) fn take(&mut self, len: u32) -> bool {
        let allowed = len <= self.window();
        if allowed {
            self.received = self.received.wrapping_add(len);
        }
        allowed
    }

    /// Counts bytes that have left for good: no more than were taken.
    pub(super) fn forward(&mut self, len: usize) {
        let waiting = self.received.wrapping_sub(self.forwarded);
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(waiting);
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// The `buf_alloc` and `fwd_cnt` of a packet that is on its way to the guest.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = Some(self.forwarded);
        (BUF_ALLOC, self.forwarded)
    }

    /// Whether the guest sees less than half of the buffer free, and there is more. Linux takes no more of the buffer than its own is long,
    /// `guests_own` bytes, so half of that is enough.
    pub(super) fn update_due(&self, guests_own: u32) -> bool {
        let half = guests_own.min(BUF_ALLOC) / 2;
        self.told.is_some_and(|told| told != self.forwarded && self.received.wrapping_sub(told) > half)
    }
}

/// What we may send to the guest.
#[derive(Debug, Default)]
pub(super) struct Peer {
    buf_alloc: u32,
    forwarded: u32,
    sent: u32,
}

impl Peer {
    /// Takes what the guest says about its buffer.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.buf_alloc = buf_alloc;
        self.forwarded = fwd_cnt;
    }

    /// How long the guest says its buffer is, in bytes.
    pub(super) fn buf_alloc(&self) -> u32 {
        self.buf_alloc
    }

    /// How many bytes the guest says it has room for. It may promise what it has not: that is its own loss.
    pub(super) fn window(&self) -> u32 {
        self.buf_alloc.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// Counts bytes on their way to the guest.
    pub(super) fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }
}

#[cfg(test)]
mod tests;
