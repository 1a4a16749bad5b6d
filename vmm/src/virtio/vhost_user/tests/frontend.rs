//! The frontend's half of the protocol (QEMU `docs/interop/vhost-user.rst`), and a driver's half of queue 0.

use std::{
    fs::File,
    io::{self, IoSlice, Read},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        memfd::{MFdFlags, memfd_create},
        socket::{ControlMessage, MsgFlags, sendmsg},
    },
};
use vm_memory::{Bytes, FileOffset, GuestAddress};

use crate::Memory;

/// Where guest memory lies for the frontend, for the guest, and in the file.
const FRONTEND_BASE: u64 = 0x7f00_0000_0000;
const GUEST_BASE: u64 = 0x20_0000;
const FILE_OFFSET: u64 = 0x1000;
const LEN: u64 = 0x10_0000;
/// From the start of guest memory: each queue's rings, and the buffers of queue 0.
const fn rings(queue: u32) -> u64 {
    0x4000 * (queue as u64)
}
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x8_0000;
const SIZE: u16 = 16;

const VERSION: u32 = 1;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

pub(super) struct Frontend {
    socket: UnixStream,
    file: File,
    memory: Memory,
    kicks: [EventFd; 2],
    call: EventFd,
    asked: u16,
    answered: u16,
}

impl Frontend {
    pub(super) fn new(socket: UnixStream) -> Self {
        let file = File::from(memfd_create("guest", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(FILE_OFFSET + LEN).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), FILE_OFFSET);
        let len = usize::try_from(LEN).unwrap();
        let memory =
            Memory::from_ranges_with_files(&[(GuestAddress(GUEST_BASE), len, Some(offset))]).unwrap();
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
        Self { socket, file, memory, kicks: [event(), event()], call: event(), asked: 0, answered: 0 }
    }

    pub(super) fn send(&mut self, request: u32, body: &[u8], fds: &[RawFd]) {
        let len = u32::try_from(body.len()).unwrap();
        let header: Vec<u8> = [request, VERSION, len].iter().flat_map(|word| word.to_le_bytes()).collect();
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
    }

    fn reply(&mut self, request: u32) -> Vec<u8> {
        let mut header = [0; 12];
        self.socket.read_exact(&mut header).unwrap();
        assert_eq!(header[..4], request.to_le_bytes());
        let mut body = vec![0; usize::from(header[8])];
        self.socket.read_exact(&mut body).unwrap();
        body
    }

    fn get_u64(&mut self, request: u32) -> u64 {
        self.send(request, &[], &[]);
        u64::from_le_bytes(self.reply(request).try_into().unwrap())
    }

    fn state(index: u32, value: u32) -> [u8; 8] {
        (u64::from(value) << 32 | u64::from(index)).to_le_bytes()
    }

    pub(super) fn features(&mut self) -> u64 {
        self.get_u64(1)
    }

    pub(super) fn set_features(&mut self, accepted: u64) {
        self.send(2, &accepted.to_le_bytes(), &[]);
    }

    pub(super) fn negotiate(&mut self, accepted: u64) {
        self.features();
        let protocol = self.get_u64(15);
        self.send(16, &protocol.to_le_bytes(), &[]);
        self.send(3, &[], &[]);
        self.set_features(accepted);
    }

    pub(super) fn queue_count(&mut self) -> u64 {
        self.get_u64(17)
    }

    pub(super) fn config(&mut self, offset: u32, len: u32) -> Vec<u8> {
        let mut body: Vec<u8> = [offset, len, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        body.resize(12 + len as usize, 0);
        self.send(24, &body, &[]);
        self.reply(24).split_off(12)
    }

    pub(super) fn share_memory(&mut self) {
        let table = [1, GUEST_BASE, LEN, FRONTEND_BASE, FILE_OFFSET];
        let body: Vec<u8> = table.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        self.send(5, &body, &[self.file.as_raw_fd()]);
    }

    pub(super) fn set_vring_num(&mut self, index: u32, size: u32) {
        self.send(8, &Self::state(index, size), &[]);
    }

    pub(super) fn set_vring_addr(&mut self, index: u32, start: u64) {
        let addresses = [start, start.wrapping_add(USED), start.wrapping_add(AVAILABLE), 0];
        let mut body = Self::state(index, 0).to_vec();
        body.extend(addresses.iter().flat_map(|word| word.to_le_bytes()));
        self.send(9, &body, &[]);
    }

    /// Describes a ring and starts it.
    pub(super) fn set_up_ring(&mut self, index: u32) {
        self.set_vring_num(index, SIZE.into());
        self.send(10, &Self::state(index, 0), &[]);
        self.set_vring_addr(index, FRONTEND_BASE + rings(index));
        let (kick, call) = (self.kicks[index as usize].as_fd().as_raw_fd(), self.call.as_fd().as_raw_fd());
        self.send(13, &u64::from(index).to_le_bytes(), &[call]);
        self.send(12, &u64::from(index).to_le_bytes(), &[kick]);
    }

    pub(super) fn enable(&mut self, index: u32) {
        self.send(18, &Self::state(index, 1), &[]);
    }

    /// Stops a ring; returns the next available index.
    pub(super) fn stop_ring(&mut self, index: u32) -> u32 {
        self.send(11, &Self::state(index, 0), &[]);
        let body = self.reply(11);
        u32::from_le_bytes(body[4..].try_into().unwrap())
    }

    pub(super) fn kick(&mut self, index: usize) {
        self.kicks[index].write(1).unwrap();
    }

    /// Whether the other end has hung up.
    pub(super) fn is_closed(&mut self) -> bool {
        match self.socket.read(&mut [0]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    fn write<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(GUEST_BASE + at)).unwrap();
    }

    /// Puts a question, and room for an answer, into queue 0.
    pub(super) fn ask(&mut self, question: &[u8]) {
        let head = self.asked % (SIZE / 2) * 2;
        let buffer = BUFFERS + u64::from(head) * 16;
        self.memory.write_slice(question, GuestAddress(GUEST_BASE + buffer)).unwrap();
        let descriptors =
            [(head, buffer, question.len(), NEXT, head + 1), (head + 1, buffer + 16, 4, WRITE, 0)];
        for (index, buffer, len, flags, next) in descriptors {
            let at = u64::from(index) * 16;
            self.write(at, GUEST_BASE + buffer);
            self.write(at + 8, u32::try_from(len).unwrap());
            self.write(at + 12, flags);
            self.write(at + 14, next);
        }
        self.write(AVAILABLE + 4 + u64::from(self.asked % SIZE) * 2, head);
        self.asked += 1;
        self.write(AVAILABLE + 2, self.asked);
    }

    /// Starts queue 0 anew, as a driver does after a reset.
    pub(super) fn forget_questions(&mut self) {
        (self.asked, self.answered) = (0, 0);
        self.write(AVAILABLE + 2, 0u16);
        self.write(USED + 2, 0u16);
    }

    /// Waits for the interrupt, and takes the next answer from queue 0.
    pub(super) fn answer(&mut self) -> Vec<u8> {
        let timeout = PollTimeout::from(10_000u16);
        assert_eq!(
            poll(&mut [PollFd::new(self.call.as_fd(), PollFlags::POLLIN)], timeout),
            Ok(1),
            "no interrupt"
        );
        self.call.read().unwrap();
        let used: u16 = self.memory.read_obj(GuestAddress(GUEST_BASE + USED + 2)).unwrap();
        assert_eq!(used, self.answered + 1);
        let element = GUEST_BASE + USED + 4 + u64::from(self.answered % SIZE) * 8;
        let head: u32 = self.memory.read_obj(GuestAddress(element)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(element + 4)).unwrap();
        self.answered = used;
        let mut answer = vec![0; len as usize];
        let at = GUEST_BASE + BUFFERS + u64::from(head) * 16 + 16;
        self.memory.read_slice(&mut answer, GuestAddress(at)).unwrap();
        answer
    }
}
