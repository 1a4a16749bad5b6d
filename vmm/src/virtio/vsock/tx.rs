//! Packets of the guest's (VIRTIO 1.2, 5.10.6.6 says what is answered with a reset).

use super::{
    Budget, Stopped, TX, Vsock, broken,
    connection::{Connection, Verdict},
    packet::{HEADER_LEN, HOST_CID, Header, Key, TYPE_STREAM, op},
};
use crate::{
    Memory,
    virtio::{DeviceError, Segments, VirtQueue, queue::transfer::Vector},
};

impl Vsock {
    /// Takes the packets that there are, as long as a reset in answer to each of them could be kept.
    pub(super) fn take_packets<'m>(
        &mut self,
        tx: &mut VirtQueue<'m>,
        vector: &mut Vector<'m>,
        budget: &mut Budget,
    ) -> Result<Stopped, DeviceError> {
        // Moved out and back, so that packets can be looked at while connections change.
        let mut chain = std::mem::take(&mut self.tx_chain);
        let stopped = loop {
            if budget.is_spent() {
                break Stopped::Spent;
            }
            if self.table.resets_full() {
                break Stopped::NoBuffers;
            }
            if !tx.pop(&mut chain).map_err(broken(TX))? {
                break Stopped::Done;
            }
            self.take_packet(&chain.readable, tx.memory(), vector);
            tx.push_used(&chain, 0).map_err(broken(TX))?;
            budget.spend(chain.readable.len().saturating_sub(HEADER_LEN));
        };
        self.tx_chain = chain;
        Ok(stopped)
    }

    fn take_packet<'m>(&mut self, packet: &Segments, memory: &'m Memory, vector: &mut Vector<'m>) {
        // Copied once: the guest may change it meanwhile.
        let mut bytes = [0; HEADER_LEN];
        if packet.read(memory, 0, &mut bytes) < HEADER_LEN {
            tracing::debug!("guest sent a packet without a header");
            return;
        }
        let header = Header::parse(&bytes);
        if header.src_cid != u64::from(self.guest_cid) || header.dst_cid != HOST_CID {
            tracing::debug!(?header, "guest sent a packet from or to somebody else");
            return;
        }
        let key = Key { guest_port: header.src_port, host_port: header.dst_port };
        let whole = usize::try_from(header.len).is_ok_and(|len| len <= packet.len() - HEADER_LEN);
        if header.kind != TYPE_STREAM || !whole {
            tracing::debug!(?header, "guest sent a broken packet");
            if self.table.get(key).is_some() && header.kind == TYPE_STREAM {
                self.table.settle(key, Verdict::Reset);
            } else {
                self.refuse(&header);
            }
            return;
        }
        match header.op {
            op::REQUEST => self.connect(&header, key),
            op::RST => self.table.remove(key),
            _ => match self.table.get(key) {
                Some(connection) => {
                    let verdict = connection.packet(&header, packet, memory, vector);
                    self.table.settle(key, verdict);
                }
                None => self.refuse(&header),
            },
        }
    }

    fn connect(&mut self, request: &Header, key: Key) {
        match self.table.get(key) {
            // The guest uses the port again, and never said that it had let go of it.
            Some(old) if old.is_over() => self.table.remove(key),
            Some(_) => return self.table.settle(key, Verdict::Reset),
            None => {}
        }
        let nobody = u32::MAX;
        if self.table.is_full() || key.guest_port == nobody || key.host_port == nobody {
            return self.refuse(request);
        }
        let Some(endpoint) = self.ports.take(key.host_port) else { return self.refuse(request) };
        match Connection::join(request, key, endpoint, &self.epoll) {
            Ok(connection) => self.table.insert(key, connection),
            Err(error) => {
                tracing::warn!(%error, port = key.host_port, "host's end of a stream cannot be used");
                self.refuse(request);
            }
        }
    }

    /// Answers a packet with a reset, unless it is one.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST {
            self.table.refuse(header.reset_reply());
        }
    }
}
