//! Packets to the guest: resets first, then the connections take turns.

use super::{
    Budget, RX, Stopped, Vsock, broken,
    packet::{HEADER_LEN, Header},
};
use crate::virtio::{Chain, DeviceError, QueueError, VirtQueue, queue::transfer::Vector};

/// How much a connection may send in one turn, in bytes: one read of the host's descriptor.
const TURN_BYTES: usize = 128 << 10;
/// How many buffers of the guest's that takes at most: Linux posts none of less than 4 KiB, headers included.
pub(super) const TURN_CHAINS: usize = 33;
/// The longest payload of a packet, in bytes: what Linux itself sends.
const MAX_PAYLOAD: usize = 64 << 10;

impl Vsock {
    /// Sends what there is to send.
    pub(super) fn send_packets<'m>(
        &mut self,
        rx: &mut VirtQueue<'m>,
        vector: &mut Vector<'m>,
        budget: &mut Budget,
    ) -> Result<Stopped, DeviceError> {
        while self.table.has_work() {
            if budget.is_spent() {
                return Ok(Stopped::Spent);
            }
            let sent = if let Some(reset) = self.table.next_reset() {
                let sent = send_header(rx, &mut self.rx_chains, || reset, budget)?;
                if sent {
                    self.table.reset_sent();
                }
                sent
            } else {
                self.take_turn(rx, vector, budget)?
            };
            if !sent {
                return Ok(Stopped::NoBuffers);
            }
        }
        Ok(Stopped::Done)
    }

    /// Has the connection whose turn it is send one packet without payload, or as many with payload as one read fills.
    /// `false` if there is no buffer for it: it stays its turn.
    fn take_turn<'m>(
        &mut self,
        rx: &mut VirtQueue<'m>,
        vector: &mut Vector<'m>,
        budget: &mut Budget,
    ) -> Result<bool, DeviceError> {
        let Some(connection) = self.table.turn() else { return Ok(true) };
        if connection.owes_control() {
            if !send_header(rx, &mut self.rx_chains, || connection.control(), budget)? {
                return Ok(false);
            }
        } else {
            // What a turn sends at most fits; the guest's word is only ever a smaller bound.
            let limit = usize::try_from(connection.may_read()).unwrap_or(TURN_BYTES).min(TURN_BYTES);
            // A stream that brings a few bytes at a time costs one buffer's checks, not those of all.
            let chains = if connection.flows { TURN_CHAINS } else { 1 };
            let taken = take_buffers(rx, &mut self.rx_chains[..chains], limit, vector)?;
            if taken == 0 && limit > 0 {
                return Ok(false);
            }
            let mut left = if vector.is_empty() { 0 } else { connection.read(vector) };
            let mut given = 0;
            for chain in &self.rx_chains[..taken] {
                let payload = left.min(room(chain));
                let Some(len) = u32::try_from(payload).ok().filter(|len| *len > 0) else { break };
                give(rx, chain, &connection.data(len), payload, budget)?;
                left -= payload;
                given += 1;
            }
            for _ in given..taken {
                rx.undo_pop();
            }
        }
        self.table.end_turn();
        Ok(true)
    }
}

/// Sends a packet without payload. `false` if there is no buffer for it.
fn send_header(
    rx: &mut VirtQueue<'_>,
    chains: &mut [Chain],
    header: impl FnOnce() -> Header,
    budget: &mut Budget,
) -> Result<bool, DeviceError> {
    let Some(chain) = chains.first_mut() else { return Ok(false) };
    if !take_buffer(rx, chain)? {
        return Ok(false);
    }
    give(rx, chain, &header(), 0, budget)?;
    Ok(true)
}

/// Takes buffers for `limit` bytes of payload, as far as there are any, and gathers the places where it goes.
fn take_buffers<'m>(
    rx: &mut VirtQueue<'m>,
    chains: &mut [Chain],
    limit: usize,
    vector: &mut Vector<'m>,
) -> Result<usize, DeviceError> {
    vector.clear();
    let mut taken = 0;
    for chain in chains {
        let wanted = limit - vector.len();
        if wanted == 0 || !take_buffer(rx, chain)? {
            break;
        }
        chain.writable.gather(rx.memory(), HEADER_LEN, room(chain).min(wanted), vector);
        taken += 1;
    }
    Ok(taken)
}

/// Takes a buffer for a packet.
fn take_buffer(rx: &mut VirtQueue<'_>, chain: &mut Chain) -> Result<bool, DeviceError> {
    if !rx.pop(chain).map_err(broken(RX))? {
        return Ok(false);
    }
    // One that has no room for a payload would never be used up by a stream.
    if room(chain) == 0 {
        return Err(broken(RX)(QueueError::Shape(chain.head())));
    }
    Ok(true)
}

/// How many bytes of payload a buffer takes.
fn room(chain: &Chain) -> usize {
    chain.writable.len().saturating_sub(HEADER_LEN).min(MAX_PAYLOAD)
}

/// Gives a buffer to the guest with a packet in it, whose payload is there already.
fn give(
    rx: &mut VirtQueue<'_>,
    chain: &Chain,
    header: &Header,
    payload: usize,
    budget: &mut Budget,
) -> Result<(), DeviceError> {
    chain.writable.write(rx.memory(), 0, &header.to_bytes());
    rx.push_used(chain, HEADER_LEN + payload).map_err(broken(RX))?;
    budget.spend(payload);
    Ok(())
}
