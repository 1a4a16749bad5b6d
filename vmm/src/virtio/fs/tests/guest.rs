//! A guest that says whatever it likes to the file system device.

use std::path::Path;

use nix::errno::Errno;
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestAddress};

use crate::{
    Memory,
    virtio::{
        Device, VirtQueue, Wake,
        fs::{Cache, Fs, Share, abi},
        testing::{self, Ring, WRITE},
    },
};

/// Where requests and replies lie in guest memory.
const REQUEST: u64 = 0x1_0000;
const REPLY: u64 = 0x8_0000;
/// Room for any reply of these tests.
pub(super) const ROOM: u32 = 0x8000;

pub(super) struct Guest<'m> {
    pub(super) fs: Fs,
    memory: &'m Memory,
    ring: Ring<'m>,
    queues: [Queue; 2],
    /// Whose requests these are.
    pub(super) uid: u32,
}

/// Runs `conversation` with a guest that has these shares, in a thread of its own: serving changes the thread that does it.
pub(super) fn with_shares(shares: &[Share], conversation: impl FnOnce(&mut Guest<'_>) + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| converse(shares, conversation));
    });
}

/// The same in the calling thread, which is of no other use afterwards.
pub(super) fn converse(shares: &[Share], conversation: impl FnOnce(&mut Guest<'_>)) {
    let memory = testing::memory();
    let mut guest = Guest::new(&memory, shares);
    guest.fs.enter_thread().unwrap();
    guest.begin();
    conversation(&mut guest);
}

pub(super) fn share(source: &Path, read_only: bool) -> Share {
    Share { source: source.into(), read_only, cache: Cache::Auto }
}

/// A request's body, field by field.
#[derive(Default, Clone)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(super) fn name(self, name: &str) -> Self {
        self.bytes(name.as_bytes()).bytes(b"\0")
    }
}

impl<'m> Guest<'m> {
    fn new(memory: &'m Memory, shares: &[Share]) -> Self {
        let ring = Ring::new(memory, testing::RING_LEN, 256);
        let idle = Ring::new(memory, 2 * testing::RING_LEN, 128).queue();
        let queues = [idle, ring.queue()];
        Self { fs: Fs::new("mote", shares, 0).unwrap(), memory, ring, queues, uid: 0 }
    }

    /// Says hello, as Linux 6.12 does.
    pub(super) fn begin(&mut self) {
        let body = Body::default().u32(7).u32(41).u32(0x2_0000).u32(u32::MAX).u32(u32::MAX).zeros(44);
        let reply = self.ask(abi::opcode::INIT, 0, &body).unwrap();
        assert_eq!(reply.len(), 64);
    }

    /// Puts any bytes into the queue, with `room` for the reply. Returns what the device wrote.
    pub(super) fn send(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        self.memory.write_slice(request, GuestAddress(REQUEST)).unwrap();
        let len = u32::try_from(request.len()).unwrap();
        let mut parts = vec![(REQUEST, len, 0)];
        if room > 0 {
            parts.push((REPLY, room, WRITE));
        }
        self.ring.chain(&parts);
        let [idle, requests] = &mut self.queues;
        let mut queues = [VirtQueue::new(idle, self.memory), VirtQueue::new(requests, self.memory)];
        self.fs.process(Wake::Queue(1), &mut queues).unwrap();
        let [(_, written)] = self.ring.used()[..] else { panic!("one request, one chain back") };
        assert!(written <= room, "{written} bytes written where there is room for {room}");
        let mut reply = vec![0; usize::try_from(written).unwrap()];
        self.memory.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        reply
    }

    pub(super) fn header(&self, opcode: u32, node: u64, body: usize) -> Body {
        let len = u32::try_from(abi::IN_HEADER + body).unwrap();
        Body::default().u32(len).u32(opcode).u64(99).u64(node).u32(self.uid).u32(self.uid).zeros(8)
    }

    /// A proper request. Returns the reply's body, or the error.
    pub(super) fn ask(&mut self, opcode: u32, node: u64, body: &Body) -> Result<Vec<u8>, Errno> {
        let request = self.header(opcode, node, body.0.len()).bytes(&body.0);
        let reply = self.send(&request.0, ROOM);
        let (header, body) = reply.split_at(abi::OUT_HEADER);
        assert_eq!(u32_at(header, 0), u32::try_from(reply.len()).unwrap());
        assert_eq!(u64_at(header, 8), 99);
        match u32_at(header, 4).cast_signed() {
            0 => Ok(body.to_vec()),
            error => {
                assert!(body.is_empty() && error < 0);
                Err(Errno::from_raw(-error))
            }
        }
    }

    /// Returns the node.
    pub(super) fn look_up(&mut self, node: u64, name: &str) -> Result<u64, Errno> {
        self.ask(abi::opcode::LOOKUP, node, &Body::default().name(name)).map(|entry| u64_at(&entry, 0))
    }

    /// Returns the handle.
    pub(super) fn open(&mut self, node: u64, flags: i32) -> Result<u64, Errno> {
        let body = Body::default().u32(flags.cast_unsigned()).u32(0);
        self.ask(abi::opcode::OPEN, node, &body).map(|reply| u64_at(&reply, 0))
    }

    pub(super) fn read(&mut self, node: u64, handle: u64, offset: u64) -> Result<Vec<u8>, Errno> {
        let body = Body::default().u64(handle).u64(offset).u32(4096).zeros(20);
        self.ask(abi::opcode::READ, node, &body)
    }

    pub(super) fn write(&mut self, node: u64, handle: u64, data: &[u8]) -> Result<Vec<u8>, Errno> {
        let size = u32::try_from(data.len()).unwrap();
        let body = Body::default().u64(handle).u64(0).u32(size).zeros(20).bytes(data);
        self.ask(abi::opcode::WRITE, node, &body)
    }

    pub(super) fn forget(&mut self, node: u64, count: u64) {
        let request = self.header(abi::opcode::FORGET, node, 8).u64(count);
        assert!(self.send(&request.0, 0).is_empty());
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
