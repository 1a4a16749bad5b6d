//! A guest that speaks with the host, and not as an agent would.

use crate::{
    machine::{Machine, say, write8},
    vsock::{Packet, REQUEST, RESPONSE, RW, Socket, TX},
};

/// Kinds of frames (`protocol/src/message.rs`).
const HELLO: u16 = 0x8001;
const FAILED: u16 = 0x8003;
const EXITED: u16 = 0x8005;
/// A hello of this version: no features, at times 1 and 2.
const GOOD_HELLO: &[u8] = &[mote_protocol::VERSION as u8, 0, 1, 2];

fn connect(machine: &Machine) -> Socket {
    let mut socket = Socket::start(machine);
    socket.give_buffers(32);
    socket.send(&Packet::new(REQUEST), 0);
    assert_eq!(socket.receive(), Some(RESPONSE), "the control port answers");
    socket
}

fn bytes(socket: &Socket, bytes: &[u8]) {
    for (at, byte) in (TX + 44..).zip(bytes) {
        write8(at, *byte);
    }
    let len = bytes.len() as u32;
    // Said first: the host may end us at once.
    say!("hostile: sent {}", len);
    socket.send(&Packet { len, ..Packet::new(RW) }, len);
}

fn frame(socket: &Socket, len: u32, kind: u16, body: &[u8]) {
    let mut frame = [0; 600];
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame[8..10].copy_from_slice(&kind.to_le_bytes());
    frame[12..12 + body.len()].copy_from_slice(body);
    bytes(socket, &frame[..12 + body.len()]);
}

fn whole_frame(socket: &Socket, kind: u16, body: &[u8]) {
    frame(socket, body.len() as u32, kind, body);
}

pub fn garbage(machine: &Machine) {
    bytes(&connect(machine), &[0xa5; 500]);
}

pub fn too_long(machine: &Machine) {
    frame(&connect(machine), u32::MAX, HELLO, GOOD_HELLO);
}

pub fn other_version(machine: &Machine) {
    whole_frame(&connect(machine), HELLO, &[99, 0, 1, 2]);
}

/// Says that the command has ended, before anything was started.
pub fn out_of_turn(machine: &Machine) {
    // Process 1, code 0, time 0.
    whole_frame(&connect(machine), EXITED, &[1, 0, 0, 0]);
}

/// A failure whose words are for a terminal.
pub fn words(machine: &Machine) {
    let socket = connect(machine);
    whole_frame(&socket, HELLO, GOOD_HELLO);
    let text = b"\x1b[2J\nmote: all is well\r\x1b]0;owned\x07";
    let mut body = [0; 64];
    // System, no number, no operation, then the text.
    body[..4].copy_from_slice(&[6, 0, 0, text.len() as u8]);
    body[4..4 + text.len()].copy_from_slice(text);
    // The answer to the host's fourth request, which is the one that starts the command.
    let mut frame = [0; 80];
    let len = 4 + text.len();
    frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
    frame[4] = 4;
    frame[8..10].copy_from_slice(&FAILED.to_le_bytes());
    frame[12..12 + len].copy_from_slice(&body[..len]);
    bytes(&socket, &frame[..12 + len]);
}

pub fn hello_and_nothing(machine: &Machine) {
    whole_frame(&connect(machine), HELLO, GOOD_HELLO);
}
