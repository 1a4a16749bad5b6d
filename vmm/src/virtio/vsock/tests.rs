//! Guests that keep to the rules of streams, and guests that do not.

#![allow(clippy::cast_possible_truncation, reason = "small numbers, in tests")]

mod guest;

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
};

use proptest::prelude::*;

use self::guest::{CID, Guest, PORT};
use super::{
    credit::BUF_ALLOC,
    packet::{Header, op, shutdown},
    table::MAX_RESETS,
    *,
};
use crate::virtio::testing::{WRITE, memory};

/// What can be read from a socket that does not block. One that was closed with bytes unread is reset.
fn read_all(mut socket: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {
            panic!("{error}")
        }
        _ => bytes,
    }
}

fn ops(packets: &[(Header, Vec<u8>)]) -> Vec<u16> {
    packets.iter().map(|(header, _)| header.op).collect()
}

#[test]
fn a_stream_from_beginning_to_end() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (socket, closed) = guest.listen(PORT);
    let packets = guest.send(guest.header(op::REQUEST), b"");
    assert_eq!(ops(&packets), [op::RESPONSE]);
    assert_eq!(packets[0].0.buf_alloc, BUF_ALLOC);
    guest.send(guest.header(op::RW), b"from the guest");
    assert_eq!(read_all(&socket), b"from the guest");
    (&socket).write_all(b"from the host").unwrap();
    let packets = guest.run();
    assert_eq!(packets.iter().map(|(_, data)| &data[..]).collect::<Vec<_>>(), [b"from the host"]);
    drop(socket);
    let packets = guest.run();
    assert_eq!(ops(&packets), [op::SHUTDOWN]);
    let both = Header { flags: shutdown::BOTH, ..guest.header(op::SHUTDOWN) };
    assert_eq!(ops(&guest.send(both, b"")), [op::RST]);
    assert_eq!((closed.count(), guest.device.table.sizes()), (1, (0, 0, 0)));
}

#[test]
fn nobody_waits_at_a_port() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    for port in [0, 1, PORT, u32::MAX] {
        let packets = guest.send(Header { dst_port: port, ..guest.header(op::REQUEST) }, b"");
        assert_eq!(ops(&packets), [op::RST]);
        assert_eq!((packets[0].0.src_port, packets[0].0.dst_port), (port, guest.header(0).src_port));
    }
    let _socket = guest.listen(PORT);
    assert_eq!(ops(&guest.send(guest.header(op::REQUEST), b"")), [op::RESPONSE]);
    let other = Header { src_port: 2, ..guest.header(op::REQUEST) };
    assert_eq!(ops(&guest.send(other, b"")), [op::RST], "an endpoint is for one connection");
}

#[test]
fn packets_from_or_to_somebody_else_are_dropped() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (socket, _) = guest.listen(PORT);
    guest.connect();
    let cid = u64::from(CID);
    for (src_cid, dst_cid) in [
        (cid + 1, 2),
        (2, 2),
        (0, 2),
        (cid | 1 << 32, 2),
        (u64::MAX, 2),
        (cid, 0),
        (cid, 1),
        (cid, cid),
        (cid, 2 | 1 << 32),
    ] {
        for op in 0..9 {
            let packets = guest.send(Header { src_cid, dst_cid, ..guest.header(op) }, b"stray");
            assert!(packets.is_empty(), "{src_cid:#x} to {dst_cid:#x}: {packets:?}");
        }
    }
    assert!(read_all(&socket).is_empty());
    guest.send(guest.header(op::RW), b"still there");
    assert_eq!(read_all(&socket), b"still there");
}

#[test]
fn lengths_that_lie() {
    let memory = memory();
    for len in [5, 1 << 16, 1 << 31, u32::MAX] {
        let mut guest = Guest::new(&memory);
        let (socket, closed) = guest.listen(PORT);
        guest.connect();
        let packets = guest.send_raw(Header { len, ..guest.header(op::RW) }, b"four");
        assert_eq!(ops(&packets), [op::RST], "{len}");
        assert!(read_all(&socket).is_empty() && closed.count() == 1);
        // The same without a connection.
        let packets = guest.send_raw(Header { len, src_port: 9, ..guest.header(op::RW) }, b"four");
        assert_eq!(ops(&packets), [op::RST], "{len}");
    }
    let mut guest = Guest::new(&memory);
    let (socket, _) = guest.listen(PORT);
    guest.connect();
    guest.send_raw(Header { len: 2, ..guest.header(op::RW) }, b"fours");
    assert_eq!(read_all(&socket), b"fo", "bytes beyond the payload are nothing");
    guest.send_raw(Header { len: 0, ..guest.header(op::RW) }, b"four");
    assert!(read_all(&socket).is_empty());
}

#[test]
fn packets_without_a_whole_header() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (socket, _) = guest.listen(PORT);
    guest.connect();
    for len in [0, 1, 43] {
        guest.offer_tx(&[(guest::TX_BUFFERS, len, 0)]);
        assert!(guest.run_tx().is_empty());
    }
    // A chain that the device could only write to.
    guest.offer_tx(&[(guest::TX_BUFFERS, 4096, WRITE)]);
    assert!(guest.run_tx().is_empty());
    guest.send(guest.header(op::RW), b"still there");
    assert_eq!(read_all(&socket), b"still there");
}

#[test]
fn headers_in_pieces() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (socket, _) = guest.listen(PORT);
    guest.connect();
    guest.write_tx(&guest.header(op::RW), 5, b"bytes");
    let parts: Vec<_> = (0..49).map(|at| (guest::TX_BUFFERS + at, 1, 0)).collect();
    guest.offer_tx(&parts);
    guest.run_tx();
    assert_eq!(read_all(&socket), b"bytes");
}

#[test]
fn packets_that_mean_nothing() {
    let memory = memory();
    for op in [0, 2, 8, 9, 255, u16::MAX] {
        let mut guest = Guest::new(&memory);
        let (_socket, closed) = guest.listen(PORT);
        guest.connect();
        assert_eq!(ops(&guest.send(guest.header(op), b"x")), [op::RST], "{op}");
        assert_eq!(closed.count(), 1);
    }
    let mut guest = Guest::new(&memory);
    for kind in [0, 2, u16::MAX] {
        let packets = guest.send(Header { kind, ..guest.header(op::REQUEST) }, b"");
        assert_eq!((ops(&packets), packets[0].0.kind), (vec![op::RST], kind));
    }
    for op in [op::RESPONSE, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 77] {
        assert_eq!(ops(&guest.send(guest.header(op), b"")), [op::RST], "no such connection: {op}");
    }
    assert!(guest.send(guest.header(op::RST), b"").is_empty(), "a reset is never answered");
}

#[test]
fn a_second_request_for_the_same_stream() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (_socket, closed) = guest.listen(PORT);
    let _other = guest.listen(PORT);
    guest.connect();
    assert_eq!(ops(&guest.send(guest.header(op::REQUEST), b"")), [op::RST]);
    assert_eq!((closed.count(), guest.device.table.sizes()), (1, (0, 0, 0)));
    assert_eq!(ops(&guest.send(guest.header(op::REQUEST), b"")), [op::RESPONSE], "the next endpoint's turn");
}

/// A reader on the host that does not read: credit bounds what is kept, and the guest that sends more loses the stream.
#[test]
fn more_than_credit_allows() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (socket, closed) = guest.listen(PORT);
    guest.connect();
    let chunk = vec![7; 64 << 10];
    let (mut sent, mut credit, mut fwd) = (0_u32, BUF_ALLOC, 0);
    while credit - sent.wrapping_sub(fwd) >= 64 << 10 {
        for (header, _) in guest.send(guest.header(op::RW), &chunk) {
            (credit, fwd) = (header.buf_alloc, header.fwd_cnt);
            assert_ne!(header.op, op::RST);
        }
        sent += 64 << 10;
        assert!(sent < 64 << 20, "credit comes to an end");
    }
    assert_eq!(ops(&guest.send(guest.header(op::CREDIT_REQUEST), b"")), [op::CREDIT_UPDATE]);
    let packets = guest.send(guest.header(op::RW), &vec![8; 64 << 10]);
    assert_eq!(ops(&packets), [op::RST]);
    // What was sent within credit is still written, by a thread that waits for the reader. Nothing of the rest.
    socket.set_nonblocking(false).unwrap();
    let mut bytes = Vec::new();
    (&socket).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), sent as usize);
    assert!(bytes.iter().all(|byte| *byte == 7));
    assert_eq!(closed.wait(), 1);
}

#[test]
fn buffers_of_the_guests_that_make_no_sense() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (socket, _) = guest.listen(PORT);
    let none = Header { buf_alloc: 0, ..guest.header(op::REQUEST) };
    assert_eq!(ops(&guest.send(none, b"")), [op::RESPONSE]);
    (&socket).write_all(&[1; 1000]).unwrap();
    assert!(guest.run().is_empty(), "no room, no bytes");
    let mut update = |buf_alloc, fwd_cnt| {
        let header = Header { buf_alloc, fwd_cnt, ..guest.header(op::CREDIT_UPDATE) };
        guest.send(header, b"").iter().map(|(_, data)| data.len()).sum::<usize>()
    };
    assert_eq!(update(10, 0), 10);
    assert_eq!(update(10, 0), 0);
    assert_eq!(update(5, 0), 0, "shrunk below what is in flight");
    assert_eq!(update(u32::MAX, 11), 0, "consumed what was not sent");
    assert_eq!(update(1 << 20, 1 << 31), 0);
    assert_eq!(update(20, 10), 20);
    assert_eq!(update(u32::MAX, 30), 970, "huge: all there is");
}

/// A storm of connects, to a device that has nowhere to put its answers.
#[test]
fn a_storm_of_connects() {
    let memory = memory();
    let mut guest = Guest::without_buffers(&memory);
    let mut sent = 0_u32;
    for port in 0..20_000 {
        let request = Header { src_port: port, ..guest.header(op::REQUEST) };
        guest.write_tx(&request, 0, b"");
        if guest.tx_room() {
            sent += 1;
            guest.offer_tx(&[(guest::TX_BUFFERS, 44, 0)]);
            guest.run_tx();
        }
        let (connections, ready, resets) = guest.device.table.sizes();
        assert!(connections == 0 && ready == 0 && resets <= MAX_RESETS);
    }
    assert!(sent as usize >= MAX_RESETS, "{sent}");
    // The guest takes its answers: everything goes on.
    let mut answers = 0;
    loop {
        guest.give_buffers(16);
        let packets = guest.run_rx();
        answers += packets.len();
        assert!(packets.iter().all(|(header, _)| header.op == op::RST));
        if packets.is_empty() {
            break;
        }
    }
    assert_eq!(answers, sent as usize);
    assert_eq!(guest.device.table.sizes(), (0, 0, 0));
}

/// Host and guest are both full; once there are buffers again, the stream goes on.
#[test]
fn a_guest_without_buffers_gets_its_bytes_later() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (socket, _) = guest.listen(PORT);
    let large = Header { buf_alloc: u32::MAX, ..guest.header(op::REQUEST) };
    guest.send(large, b"");
    guest.take_buffers_away();
    let mut written = 0;
    while let Ok(count) = (&socket).write(&[3; 4096]) {
        written += count;
        assert!(guest.run().is_empty());
    }
    let mut received = 0;
    while received < written {
        guest.give_buffers(1);
        let packets = guest.run_rx();
        assert_eq!(packets.len(), 1, "{received} of {written}");
        received += packets[0].1.len();
    }
    assert_eq!(received, written);
}

#[test]
fn buffers_that_hold_no_byte_break_the_device() {
    let memory = memory();
    for part in [(guest::RX_BUFFERS, 44, WRITE), (guest::RX_BUFFERS, 0, WRITE), (guest::RX_BUFFERS, 4096, 0)]
    {
        let mut guest = Guest::without_buffers(&memory);
        let (_socket, closed) = guest.listen(PORT);
        guest.offer_rx(&[part]);
        guest.write_tx(&guest.header(op::REQUEST), 0, b"");
        guest.offer_tx(&[(guest::TX_BUFFERS, 44, 0)]);
        let result = guest.process(Wake::Queue(TX));
        assert!(
            matches!(result, Err(DeviceError::Queue { index: RX, source: QueueError::Shape(_) })),
            "{result:?}"
        );
        assert_eq!((closed.count(), guest.device.table.sizes()), (1, (0, 0, 0)));
    }
}

#[test]
fn resets_in_every_state() {
    type Step = fn(&mut Guest<'_>, &UnixStream);
    let states: [(&str, Step); 8] = [
        ("asked for", |guest, _| {
            guest.take_buffers_away();
            guest.send(guest.header(op::REQUEST), b"");
        }),
        ("connected", |guest, _| guest.connect()),
        ("with bytes for the host", |guest, _| {
            guest.connect();
            for _ in 0..4 {
                guest.send(guest.header(op::RW), &[1; 50_000]);
            }
        }),
        ("with bytes for the guest", |guest, mut socket| {
            guest.connect();
            guest.take_buffers_away();
            socket.write_all(b"never taken").unwrap();
            guest.run();
        }),
        ("which the guest will not write to", |guest, _| {
            guest.connect();
            guest.send(Header { flags: shutdown::SEND, ..guest.header(op::SHUTDOWN) }, b"");
        }),
        ("which the guest will not read from", |guest, _| {
            guest.connect();
            guest.send(Header { flags: shutdown::RECEIVE, ..guest.header(op::SHUTDOWN) }, b"");
        }),
        ("which the host has closed", |guest, socket| {
            guest.connect();
            socket.shutdown(std::net::Shutdown::Both).unwrap();
            guest.run();
        }),
        ("which owes credit", |guest, _| {
            guest.connect();
            guest.take_buffers_away();
            guest.send(guest.header(op::CREDIT_REQUEST), b"");
        }),
    ];
    for (name, reach) in states {
        for device_reset in [false, true] {
            let memory = memory();
            let mut guest = Guest::new(&memory);
            let (socket, closed) = guest.listen(PORT);
            reach(&mut guest, &socket);
            if device_reset {
                guest.device.reset();
            } else {
                guest.send(guest.header(op::RST), b"");
                assert_eq!(guest.send(guest.header(op::RST), b"").len(), 0, "{name}: once more");
            }
            assert_eq!(guest.device.table.sizes(), (0, 0, 0), "{name}");
            assert!(!guest.is_woken(), "{name}: a stream that is gone wakes nobody");
            // Bytes that were on their way are written by a thread, which ends when the reader has them.
            socket.set_nonblocking(false).unwrap();
            let _ = (&socket).read_to_end(&mut Vec::new());
            assert_eq!(closed.wait(), 1, "{name}");
        }
    }
}

#[test]
fn rings_that_break() {
    let memory = memory();
    let mut guest = Guest::new(&memory);
    let (_socket, closed) = guest.listen(PORT);
    guest.connect();
    guest.break_tx();
    assert!(matches!(guest.process(Wake::Queue(TX)), Err(DeviceError::Queue { index: TX, .. })));
    assert_eq!((closed.count(), guest.device.table.sizes()), (1, (0, 0, 0)));
    assert!(!guest.is_woken());
}

#[test]
fn context_identifiers_that_are_reserved() {
    for cid in [0, 1, 2, u32::MAX] {
        assert!(Vsock::new(cid).is_err(), "{cid}");
    }
    assert!(Vsock::new(u32::MAX - 1).is_ok());
}

/// One step of a guest that does anything, or of the host.
#[derive(Debug, Clone)]
enum Step {
    Packet { port: u32, op: u16, flags: u32, buf_alloc: u32, fwd_cnt: u32, len: Option<u32>, payload: usize },
    Buffers(u16),
    HostWrites(usize),
    HostReads,
    HostCloses(std::net::Shutdown),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    use std::net::Shutdown::{Both, Read, Write};
    let op = prop_oneof![4 => 1_u16..8, 2 => Just(op::RW), 1 => any::<u16>()];
    let number = || prop_oneof![Just(0_u32), 0_u32..1000, Just(u32::MAX), any::<u32>()];
    let lying = prop_oneof![6 => Just(None), 1 => number().prop_map(Some)];
    prop_oneof![
        12 => (1_u32..4, op, 0_u32..4, number(), number(), lying, 0_usize..5000).prop_map(
            |(port, op, flags, buf_alloc, fwd_cnt, len, payload)| Step::Packet { port, op, flags, buf_alloc, fwd_cnt, len, payload }
        ),
        2 => (0_u16..8).prop_map(Step::Buffers),
        2 => (0_usize..20_000).prop_map(Step::HostWrites),
        2 => Just(Step::HostReads),
        1 => prop_oneof![Just(Both), Just(Read), Just(Write)].prop_map(Step::HostCloses),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever a guest does: the tables stay within their bounds, the host reads what the guest sent and nothing else, every
    /// endpoint is over exactly once.
    #[test]
    fn any_guest(steps in prop::collection::vec(step(), 0..80)) {
        let memory = memory();
        let mut guest = Guest::new(&memory);
        let mut hosts = Vec::new();
        for port in 1..4 {
            hosts.push(guest.listen(port));
        }
        let fill = |port: u32| 0x40 + port as u8;
        for step in steps {
            match step {
                Step::Packet { port, op, flags, buf_alloc, fwd_cnt, len, payload } => {
                    let header = Header { dst_port: port, flags, buf_alloc, fwd_cnt, ..guest.header(op) };
                    let bytes = vec![fill(port); payload];
                    let header = Header { len: len.unwrap_or(payload as u32), ..header };
                    guest.send_raw(header, &bytes);
                }
                Step::Buffers(0) => guest.take_buffers_away(),
                Step::Buffers(count) => { guest.give_buffers(count); guest.run_rx(); }
                Step::HostWrites(len) => {
                    for (socket, _) in &hosts {
                        let _ = { socket }.write(&vec![1; len]);
                    }
                    guest.run();
                }
                Step::HostReads => {
                    for (port, (socket, _)) in (1..).zip(&hosts) {
                        prop_assert!(read_all(socket).iter().all(|byte| *byte == fill(port)));
                    }
                    guest.run();
                }
                Step::HostCloses(how) => {
                    let _ = hosts[0].0.shutdown(how);
                    guest.run();
                }
                Step::Reset => guest.device.reset(),
            }
            let (connections, ready, resets) = guest.device.table.sizes();
            prop_assert!(connections <= hosts.len() && ready <= connections && resets <= MAX_RESETS);
        }
        let sockets: Vec<_> = hosts.iter().map(|(socket, _)| socket).collect();
        drop(guest);
        for socket in sockets {
            socket.set_nonblocking(false).unwrap();
            let _ = { socket }.read_to_end(&mut Vec::new());
        }
    }
}
