//! The header of a packet (VIRTIO 1.2, 5.10.6), and what names a connection.

/// The length of a header in bytes.
pub(super) const HEADER_LEN: usize = 44;

/// The host's context identifier (5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// Stream sockets, the only type this device has (5.10.6).
pub(super) const TYPE_STREAM: u16 = 1;

/// Operations (5.10.6).
pub(super) mod op {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RST: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const RW: u16 = 5;
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`] (5.10.6.5): what its sender will do no more.
pub(super) mod shutdown {
    pub(in super::super) const RECEIVE: u32 = 1;
    pub(in super::super) const SEND: u32 = 2;
    pub(in super::super) const BOTH: u32 = RECEIVE | SEND;
}

/// A packet's header, in the order of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// The payload's length in bytes.
    pub(super) len: u32,
    /// The socket type.
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// The sender's buffer for this connection, in bytes.
    pub(super) buf_alloc: u32,
    /// How many bytes the sender has consumed, ever, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut wire = Wire(bytes);
        Self {
            src_cid: u64::from_le_bytes(wire.take()),
            dst_cid: u64::from_le_bytes(wire.take()),
            src_port: u32::from_le_bytes(wire.take()),
            dst_port: u32::from_le_bytes(wire.take()),
            len: u32::from_le_bytes(wire.take()),
            kind: u16::from_le_bytes(wire.take()),
            op: u16::from_le_bytes(wire.take()),
            flags: u32::from_le_bytes(wire.take()),
            buf_alloc: u32::from_le_bytes(wire.take()),
            fwd_cnt: u32::from_le_bytes(wire.take()),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        for field in [
            &self.src_cid.to_le_bytes()[..],
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ] {
            let (slot, tail) = rest.split_at_mut(field.len());
            slot.copy_from_slice(field);
            rest = tail;
        }
        bytes
    }

    /// The answer that there is no such connection (any more).
    pub(super) fn reset_reply(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}

/// What is left of a header.
struct Wire<'a>(&'a [u8]);

impl Wire<'_> {
    /// The next field. The fields of a header are as long as the header, so none is ever missing.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) =
            self.0.split_first_chunk().map_or(([0; N], &[][..]), |(field, rest)| (*field, rest));
        self.0 = rest;
        field
    }
}

/// What names a connection: the ports of its ends. The two context identifiers are always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) guest_port: u32,
    pub(super) host_port: u32,
}

impl Key {
    /// The name as one number, for epoll.
    pub(super) fn token(self) -> u64 {
        u64::from(self.guest_port) << 32 | u64::from(self.host_port)
    }

    pub(super) fn from_token(token: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        Self { guest_port: (token >> 32) as u32, host_port: token as u32 }
    }
}
