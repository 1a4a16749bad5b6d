//! The driver's half of a socket device: packets are written to the transmit queue, and taken from the receive queue.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestAddress};

use super::super::{
    Endpoint, Ports, RX, TX, Vsock,
    packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM, op},
};
use crate::{
    Memory,
    virtio::{
        Device, DeviceError, VirtQueue, Wake,
        testing::{AFTER_HOLE, RING_LEN, Ring, WRITE},
    },
};

pub(super) const CID: u32 = 7;
pub(super) const PORT: u32 = 1024;
const GUEST_PORT: u32 = 5000;

const RINGS: u64 = 0x1_0000;
/// One packet at a time is in here.
pub(super) const TX_BUFFERS: u64 = AFTER_HOLE;
pub(super) const RX_BUFFERS: u64 = AFTER_HOLE + 0x10_0000;
const RX_LEN: u32 = 4096;
const SIZES: [u16; 3] = [256, 256, 16];

pub(super) struct Guest<'m> {
    memory: &'m Memory,
    pub(super) device: Vsock,
    ports: Ports,
    rx: Ring<'m>,
    tx: Ring<'m>,
    queues: Vec<Queue>,
    /// Whether buffers that were used are given to the device again.
    gives_back: bool,
    /// How many buffers the device has.
    buffers: u16,
    /// How many packets the device has not given back yet.
    unsent: usize,
}

/// How often a stream was over.
#[derive(Default)]
pub(super) struct Closed {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Closed {
    pub(super) fn count(&self) -> usize {
        *self.count.lock().unwrap()
    }

    /// Waits until the stream is over: threads may still have bytes of it to write.
    pub(super) fn wait(&self) -> usize {
        let hang = Duration::from_secs(60);
        let (count, _) =
            self.changed.wait_timeout_while(self.count.lock().unwrap(), hang, |count| *count == 0).unwrap();
        *count
    }
}

type Packets = Vec<(Header, Vec<u8>)>;

impl<'m> Guest<'m> {
    /// A guest that has given the device buffers, and gives them again and again.
    pub(super) fn new(memory: &'m Memory) -> Self {
        let mut guest = Self::without_buffers(memory);
        guest.give_buffers(64);
        guest.gives_back = true;
        guest
    }

    pub(super) fn without_buffers(memory: &'m Memory) -> Self {
        let (device, ports) = Vsock::new(CID).unwrap();
        // What an earlier guest left in its rings is not this one's.
        memory.write_slice(&vec![0; 0x10_000], GuestAddress(RINGS)).unwrap();
        let [rx, tx, events] = [0, 1, 2].map(|index: u8| {
            Ring::new(memory, RINGS + RING_LEN * u64::from(index), SIZES[usize::from(index)])
        });
        let queues = [&rx, &tx, &events].map(Ring::queue).into();
        Self { memory, device, ports, rx, tx, queues, gives_back: false, buffers: 0, unsent: 0 }
    }

    /// The host's end of a stream to `port`, and how often it was over.
    pub(super) fn listen(&self, port: u32) -> (UnixStream, Arc<Closed>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let closed = Arc::new(Closed::default());
        let counter = Arc::clone(&closed);
        let endpoint = Endpoint::socket(theirs).on_close(move || {
            *counter.count.lock().unwrap() += 1;
            counter.changed.notify_all();
        });
        self.ports.accept_once(port, endpoint);
        (ours, closed)
    }

    /// A header that is right in everything.
    pub(super) fn header(&self, op: u16) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID,
            src_port: GUEST_PORT,
            dst_port: PORT,
            kind: TYPE_STREAM,
            op,
            buf_alloc: 1 << 20,
            ..Header::default()
        }
    }

    pub(super) fn connect(&mut self) {
        let packets = self.send(self.header(op::REQUEST), b"");
        assert!(matches!(packets[..], [(Header { op: op::RESPONSE, .. }, _)]), "{packets:?}");
    }

    /// Sends a packet whose length is right; returns what came back.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) -> Packets {
        self.send_raw(Header { len: u32::try_from(payload.len()).unwrap(), ..header }, payload)
    }

    /// Sends a packet as it is. One that the device does not take, for want of buffers, is lost.
    pub(super) fn send_raw(&mut self, header: Header, payload: &[u8]) -> Packets {
        if self.unsent > 0 {
            return self.run();
        }
        let len = header.len;
        self.write_tx(&header, len, payload);
        let payload_len = u32::try_from(payload.len()).unwrap();
        self.offer_tx(&[(TX_BUFFERS, 44, 0), (TX_BUFFERS + 44, payload_len, 0)]);
        self.run_tx()
    }

    /// Writes a packet to where [`TX_BUFFERS`] are.
    pub(super) fn write_tx(&self, header: &Header, len: u32, payload: &[u8]) {
        let bytes = Header { len, ..*header }.to_bytes();
        self.memory.write_slice(&bytes, GuestAddress(TX_BUFFERS)).unwrap();
        self.memory.write_slice(payload, GuestAddress(TX_BUFFERS + HEADER_LEN as u64)).unwrap();
    }

    pub(super) fn offer_tx(&mut self, parts: &[(u64, u32, u16)]) {
        self.tx.chain(parts);
        self.unsent += 1;
    }

    /// Whether the transmit queue has room for one more.
    pub(super) fn tx_room(&self) -> bool {
        self.unsent < SIZES[TX].into()
    }

    pub(super) fn break_tx(&mut self) {
        self.tx.set_available(0x7000);
    }

    pub(super) fn offer_rx(&mut self, parts: &[(u64, u32, u16)]) {
        self.rx.chain(parts);
    }

    pub(super) fn give_buffers(&mut self, count: u16) {
        for _ in 0..count.min(SIZES[RX] - self.buffers) {
            self.buffers += 1;
            // A descriptor's place in the table is its buffer's.
            let slot = u64::from(self.rx.next_slot());
            self.rx.chain(&[(RX_BUFFERS + slot * u64::from(RX_LEN), RX_LEN, WRITE)]);
        }
    }

    /// Stops giving buffers, and has the device use up those that it has.
    pub(super) fn take_buffers_away(&mut self) {
        self.gives_back = false;
        self.buffers = 0;
        self.rx = Ring::new(self.memory, RINGS, SIZES[RX]);
        self.rx.set_available(0);
        self.memory.write_slice(&vec![0; 0x4000], GuestAddress(RINGS)).unwrap();
        self.queues[RX] = self.rx.queue();
    }

    pub(super) fn process(&mut self, wake: Wake) -> Result<(), DeviceError> {
        let memory = self.memory;
        let mut queues: Vec<_> = self.queues.iter_mut().map(|queue| VirtQueue::new(queue, memory)).collect();
        self.device.process(wake, &mut queues)
    }

    pub(super) fn run_tx(&mut self) -> Packets {
        self.process(Wake::Queue(TX)).unwrap();
        self.run()
    }

    pub(super) fn run_rx(&mut self) -> Packets {
        self.process(Wake::Queue(RX)).unwrap();
        self.run()
    }

    /// Has the device do all there is to do; returns the packets that came.
    pub(super) fn run(&mut self) -> Packets {
        let mut packets = Vec::new();
        loop {
            let before = packets.len();
            self.receive(&mut packets);
            if packets.len() > before && self.gives_back {
                self.process(Wake::Queue(RX)).unwrap();
            } else if self.is_woken() {
                self.process(Wake::Events).unwrap();
            } else if packets.len() == before {
                self.unsent -= self.tx.used().len();
                return packets;
            }
        }
    }

    /// Whether the device asks to be called.
    pub(super) fn is_woken(&self) -> bool {
        let fd = self.device.epoll.0.as_fd();
        let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() > 0
    }

    fn receive(&mut self, packets: &mut Packets) {
        let used = self.rx.used();
        for (head, written) in used {
            self.buffers = self.buffers.saturating_sub(1);
            let at = GuestAddress(RX_BUFFERS + u64::from(head) * u64::from(RX_LEN));
            let mut bytes = vec![0; usize::try_from(written).unwrap()];
            self.memory.read_slice(&mut bytes, at).unwrap();
            let (header, payload) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
            let header = Header::parse(header);
            assert_eq!(header.len as usize, payload.len());
            packets.push((header, payload.to_vec()));
            if self.gives_back {
                self.give_buffers(1);
            }
        }
    }
}
