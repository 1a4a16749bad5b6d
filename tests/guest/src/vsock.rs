//! A socket device, and packets of any kind.

use crate::{
    machine::{FREE, Machine, read16, read32, write16, write32, write64},
    queue::{NEXT, Ring, WRITE},
    transport::{Device, VSOCK},
};

/// The port that `mote` listens at; one connection is taken there.
pub const CONTROL: u32 = 1024;
pub const CID: u64 = 3;

pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const RST: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const RW: u16 = 5;
pub const CREDIT_UPDATE: u16 = 6;
pub const CREDIT_REQUEST: u16 = 7;

pub const TX: u64 = FREE + 0x20_0000;
const RX: u64 = FREE + 0x30_0000;
const RX_LEN: u32 = 4096;

/// A packet's header; what is not named is right.
#[derive(Clone, Copy)]
pub struct Packet {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Packet {
    pub fn new(op: u16) -> Self {
        Self {
            src_cid: CID,
            dst_cid: 2,
            src_port: 7777,
            dst_port: CONTROL,
            len: 0,
            kind: 1,
            op,
            flags: 0,
            buf_alloc: 1 << 16,
            fwd_cnt: 0,
        }
    }
}

pub struct Socket {
    pub device: Device,
    pub rx: Ring,
    pub tx: Ring,
    /// How many packets were looked at.
    seen: u16,
}

impl Socket {
    /// The machine's socket device, started, without a buffer to receive in.
    pub fn start(machine: &Machine) -> Self {
        let device = Device::find(machine, VSOCK);
        let (rx, tx, events) = (Ring::new(0, 64), Ring::new(1, 64), Ring::new(2, 8));
        device.start(&[&rx, &tx, &events]);
        Self { device, rx, tx, seen: 0 }
    }

    /// Gives the device buffers to write packets into.
    pub fn give_buffers(&self, count: u16) {
        for _ in 0..count {
            let slot = self.rx.index() % self.rx.size;
            self.rx.descriptor(slot, RX + u64::from(slot) * u64::from(RX_LEN), RX_LEN, WRITE, 0);
            self.rx.offer(slot);
        }
        self.device.notify(0);
    }

    /// Writes a packet's header to where packets are sent from.
    pub fn write(packet: &Packet) {
        write64(TX, packet.src_cid);
        write64(TX + 8, packet.dst_cid);
        write32(TX + 16, packet.src_port);
        write32(TX + 20, packet.dst_port);
        write32(TX + 24, packet.len);
        write16(TX + 28, packet.kind);
        write16(TX + 30, packet.op);
        write32(TX + 32, packet.flags);
        write32(TX + 36, packet.buf_alloc);
        write32(TX + 40, packet.fwd_cnt);
    }

    /// Sends a packet with `payload` bytes that follow its header in memory; waits until it was taken. Whether it was.
    pub fn send(&self, packet: &Packet, payload: u32) -> bool {
        Self::write(packet);
        let slot = self.tx.index() % self.tx.size / 2 * 2;
        self.tx.descriptor(slot, TX, 44, NEXT, slot + 1);
        self.tx.descriptor(slot + 1, TX + 44, payload, 0, 0);
        self.tx.offer(slot);
        self.device.notify(1);
        self.tx.wait_all()
    }

    /// The operation of the next packet that came, if there is one within a while; its buffer is given back.
    pub fn receive(&mut self) -> Option<u16> {
        if !crate::machine::wait(|| self.rx.used_index() != self.seen) {
            return None;
        }
        let slot = u64::from(read32(self.rx.used + 4 + 8 * u64::from(self.seen % self.rx.size)));
        self.seen = self.seen.wrapping_add(1);
        let op = read16(RX + slot * u64::from(RX_LEN) + 30);
        self.give_buffers(1);
        Some(op)
    }
}
