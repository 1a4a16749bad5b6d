//! Streams whose guest keeps to no rule.

use crate::{
    block::Disk,
    machine::Machine,
    vsock::{
        CID, CONTROL, CREDIT_REQUEST, CREDIT_UPDATE, Packet, REQUEST, RESPONSE, RST, RW, SHUTDOWN, Socket,
    },
};

/// A device that has buffers, and is connected to the control port: that works once a machine.
fn connect(machine: &Machine) -> Socket {
    let mut socket = Socket::start(machine);
    socket.give_buffers(32);
    socket.send(&Packet::new(REQUEST), 0);
    assert_eq!(socket.receive(), Some(RESPONSE), "the control port answers");
    socket
}

fn finish(machine: &Machine, socket: &Socket) {
    socket.device.reset();
    Disk::start(machine).assert_works();
}

pub fn lengths(machine: &Machine) {
    let mut socket = connect(machine);
    for (len, payload) in [(1, 0), (44, 43), (u32::MAX, 16), (1 << 31, 0)] {
        socket.send(&Packet { len, ..Packet::new(RW) }, payload);
        assert_eq!(socket.receive(), Some(RST), "a length that lies: {len}");
    }
    // Not even a header.
    for len in [0, 1, 43] {
        socket.tx.descriptor(0, crate::vsock::TX, len, 0, 0);
        socket.tx.offer(0);
        socket.device.notify(1);
        socket.tx.wait_all();
    }
    finish(machine, &socket);
}

pub fn addresses(machine: &Machine) {
    let socket = connect(machine);
    for (src_cid, dst_cid) in [
        (CID + 1, 2),
        (2, 2),
        (u64::MAX, 2),
        (CID | 1 << 32, 2),
        (CID, 0),
        (CID, 1),
        (CID, CID),
        (CID, u64::MAX),
    ] {
        for op in 0..10 {
            assert!(
                socket.send(&Packet { src_cid, dst_cid, ..Packet::new(op) }, 16),
                "it is dropped, not kept"
            );
        }
    }
    for kind in [0, 2, 3, u16::MAX] {
        socket.send(&Packet { kind, ..Packet::new(REQUEST) }, 0);
    }
    for op in [0, 2, 8, 9, 255, u16::MAX] {
        socket.send(&Packet { src_port: 5, ..Packet::new(op) }, 4);
    }
    finish(machine, &socket);
}

pub fn credit(machine: &Machine) {
    let mut socket = connect(machine);
    for (buf_alloc, fwd_cnt) in [
        (0, 0),
        (u32::MAX, 0),
        (0, u32::MAX),
        (u32::MAX, 1),
        (u32::MAX, 1 << 31),
        (1, 0),
        (0, 1),
        (1 << 16, 0),
    ] {
        for _ in 0..8 {
            socket.send(&Packet { buf_alloc, fwd_cnt, ..Packet::new(CREDIT_UPDATE) }, 0);
            socket.send(&Packet { buf_alloc, fwd_cnt, ..Packet::new(CREDIT_REQUEST) }, 0);
        }
    }
    while socket.receive().is_some() {}
    // More than was ever granted, on a stream that nobody listens to any more.
    for _ in 0..64 {
        socket.send(&Packet { len: 0x1_0000, src_port: 6, ..Packet::new(RW) }, 0x1_0000);
    }
    finish(machine, &socket);
}

/// Connects without end: to ports that nobody listens at, with and without buffers for the answers.
pub fn storm(machine: &Machine) {
    for buffers in [0, 1, 32] {
        let mut socket = Socket::start(machine);
        socket.give_buffers(buffers);
        let mut taken = 0;
        for port in 0..3000 {
            let request = Packet { src_port: port, dst_port: 5000 + port % 7, ..Packet::new(REQUEST) };
            if !socket.send(&request, 0) {
                break;
            }
            taken += 1;
            if buffers > 0 {
                assert_eq!(socket.receive(), Some(RST), "nobody is there");
            }
        }
        // Without buffers, the device stops taking packets before they are many.
        assert!(taken < 1000 || buffers > 0, "{taken} answers are kept");
        socket.device.reset();
    }
    Disk::start(machine).assert_works();
}

/// Resets where they do not belong, and of the device in the middle of everything.
pub fn resets(machine: &Machine) {
    for op in [RST, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST] {
        let socket = Socket::start(machine);
        socket.give_buffers(8);
        (0..20).for_each(|_| {
            socket.send(&Packet { src_port: 9, dst_port: 9, flags: 3, ..Packet::new(op) }, 0);
        });
        socket.device.reset();
    }
    let socket = connect(machine);
    for _ in 0..4 {
        socket.send(&Packet { flags: 1, ..Packet::new(SHUTDOWN) }, 0);
        socket.send(&Packet { flags: 3, ..Packet::new(SHUTDOWN) }, 0);
        socket.send(&Packet::new(RST), 0);
        socket.send(&Packet::new(REQUEST), 0);
    }
    finish(machine, &socket);
}

/// A guest that is connected and never gives a buffer again.
pub fn silence(machine: &Machine) {
    let mut socket = Socket::start(machine);
    socket.give_buffers(1);
    socket.send(&Packet { dst_port: CONTROL, buf_alloc: u32::MAX, ..Packet::new(REQUEST) }, 0);
    socket.receive();
    for _ in 0..200 {
        socket.send(&Packet::new(CREDIT_REQUEST), 0);
    }
}
