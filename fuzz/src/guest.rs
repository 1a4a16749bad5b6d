//! A device in its window, and the guest that drives it: one small step after the other, each of them read from the input.
//!
//! There is a step for everything that a guest can do: any register, any byte of memory. And there are steps that make sense
//! (a descriptor, a packet, a request), so that the fuzzer need not find out what a queue is.

use std::{
    fs::File,
    io::{Read, Write},
    net::Shutdown,
    os::unix::{fs::FileExt, net::UnixStream},
    path::Path,
    sync::Arc,
};

use mote_vmm::{
    Memory,
    virtio::{
        Device, Wake,
        block::Block,
        fs::{Cache, Fs, Share},
        mmio::MmioDevice,
        vsock::{Endpoint, Vsock},
    },
};
use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    resource::{Resource, setrlimit},
    signal::{SigHandler, Signal, signal},
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::{Script, Writer};

/// Guest memory: two pieces with a hole between them.
const PIECE: u64 = 0x4_0000;
const HOLE_END: u64 = 0x8_0000;
const END: u64 = HOLE_END + PIECE;
/// Rings of queue 0, 1, 2; from each: descriptors, available, used.
const RINGS: u64 = 0x1_0000;
const RING_LEN: u64 = 0x3000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const SIZE: u16 = 16;
/// Where packets and requests are put together.
const BUFFERS: u64 = 0x2_0000;

/// The guest's context identifier.
const CID: u32 = 3;
/// Ports of the host that are listened at.
const PORTS: std::ops::Range<u32> = 1..4;
/// The disk's size in bytes.
const DISK: usize = 8192;

/// The most steps of one input.
const STEPS: usize = 512;

mod step {
    pub(super) const WRITE_REGISTER: u8 = 0;
    pub(super) const READ_REGISTER: u8 = 1;
    pub(super) const WRITE_MEMORY: u8 = 2;
    pub(super) const DESCRIPTOR: u8 = 3;
    pub(super) const OFFER: u8 = 4;
    pub(super) const SET_AVAILABLE: u8 = 5;
    pub(super) const NOTIFY: u8 = 6;
    pub(super) const EVENTS: u8 = 7;
    pub(super) const HOST_WRITE: u8 = 8;
    pub(super) const HOST_READ: u8 = 9;
    pub(super) const HOST_CLOSE: u8 = 10;
    pub(super) const PACKET: u8 = 11;
    pub(super) const REQUEST: u8 = 12;
    pub(super) const START: u8 = 13;
    pub(super) const FILES: u8 = 14;
    pub(super) const COUNT: u8 = 15;
}

/// Which device the guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A socket device with three ports.
    Vsock,
    /// A disk of 16 sectors.
    Block {
        /// Whether it is read-only.
        read_only: bool,
    },
    /// Two shares, of which the second is read-only.
    Fs,
}

/// A guest and its device.
pub struct Guest {
    kind: Kind,
    memory: Memory,
    window: Arc<MmioDevice>,
    line: EventFd,
    hosts: Vec<UnixStream>,
    disk: File,
    available: [u16; 3],
    shares: Option<Shares>,
}

impl Guest {
    /// A guest whose device has just been switched on.
    ///
    /// # Panics
    /// The host has no memory or no descriptors left.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let piece = usize::try_from(PIECE).unwrap();
        let memory =
            Memory::from_ranges(&[(GuestAddress(0), piece), (GuestAddress(HOLE_END), piece)]).unwrap();
        let disk = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC).unwrap());
        let mut hosts = Vec::new();
        let shares = (kind == Kind::Fs).then(Shares::new);
        let device: Box<dyn Device> = match kind {
            Kind::Fs => {
                let shares = shares.as_ref().map(Shares::list).unwrap_or_default();
                let device = Fs::new("fuzz", &shares, END).unwrap();
                device.enter_thread().unwrap();
                Box::new(device)
            }
            Kind::Vsock => {
                let (device, ports) = Vsock::new(CID).unwrap();
                for port in PORTS {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    ours.set_nonblocking(true).unwrap();
                    ports.accept_once(port, Endpoint::socket(theirs));
                    hosts.push(ours);
                }
                Box::new(device)
            }
            Kind::Block { read_only } => {
                disk.write_all_at(&[0xda; DISK], 0).unwrap();
                Box::new(Block::from_file(disk.try_clone().unwrap(), Path::new("disk"), read_only).unwrap())
            }
        };
        let line = EventFd::new(nix::libc::EFD_NONBLOCK).unwrap();
        let window =
            MmioDevice::new(device, memory.clone(), Box::new(line.try_clone().unwrap()), 0x600).unwrap();
        Self { kind, memory, window, line, hosts, disk, available: [0; 3], shares }
    }

    /// Does what the input says, and looks at what must hold whatever it says.
    ///
    /// # Panics
    /// It does not hold.
    pub fn run(&mut self, mut script: Script<'_>) {
        for _ in 0..STEPS {
            if self.step(&mut script).is_none() {
                break;
            }
        }
        if let Some(shares) = &self.shares {
            shares.check();
        }
        if let Kind::Block { read_only } = self.kind {
            assert_eq!(self.disk.metadata().unwrap().len(), DISK as u64, "the disk has another size");
            let mut bytes = [0; DISK];
            self.disk.read_exact_at(&mut bytes, 0).unwrap();
            assert!(!read_only || bytes == [0xda; DISK], "a read-only disk was written to");
        }
    }

    /// Brings the device to `DRIVER_OK` with all queues at their places.
    pub fn start(&mut self) {
        for (offset, value) in [(0x70, 0), (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
            self.write(offset, value);
        }
        for queue in 0..3_u32 {
            let base = u32::try_from(RINGS + u64::from(queue) * RING_LEN).unwrap();
            let used = base + u32::try_from(USED).unwrap();
            let available = base + u32::try_from(AVAILABLE).unwrap();
            for (offset, value) in
                [(0x30, queue), (0x38, SIZE.into()), (0x80, base), (0x90, available), (0xa0, used), (0x44, 1)]
            {
                self.write(offset, value);
            }
            self.available = [0; 3];
            let _ = self.memory.write_obj(0_u16, GuestAddress(u64::from(available) + 2));
        }
        self.write(0x70, 15);
    }

    fn write(&self, offset: u64, value: u32) {
        self.window.write(offset, &value.to_le_bytes());
    }

    /// An address near something, or anywhere.
    fn address(script: &mut Script<'_>) -> Option<u64> {
        let base = match script.byte()? % 8 {
            0 => 0,
            1 => PIECE,
            2 => HOLE_END,
            3 => END,
            4 => RINGS,
            5 => BUFFERS,
            6 => return script.long(),
            _ => u64::MAX,
        };
        Some(base.wrapping_add(i64::from(script.half()? as i16) as u64))
    }

    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % step::COUNT {
            step::WRITE_REGISTER => {
                let (offset, len, value) = (script.half()?, script.byte()?, script.long()?);
                // Nearly always as wide as registers are.
                let len = if len < 8 { usize::from(len) } else { 4 };
                self.window.write(u64::from(offset % 0x200), &value.to_le_bytes()[..len]);
            }
            step::READ_REGISTER => {
                let (offset, len) = (script.half()?, script.byte()?);
                let mut data = [0; 8];
                self.window.read(u64::from(offset) % 0x1000, &mut data[..usize::from(len % 9)]);
            }
            step::WRITE_MEMORY => {
                let (address, bytes) = (Self::address(script)?, script.bytes()?);
                let _ = self.memory.write_slice(bytes, GuestAddress(address));
            }
            step::DESCRIPTOR => {
                let (queue, index) = (script.byte()? % 3, script.byte()?);
                let (address, len) = (Self::address(script)?, script.word()?);
                let (flags, next) = (script.byte()?, script.byte()?);
                self.descriptor(queue, index.into(), (address, len, (flags % 8).into()), next.into());
            }
            step::OFFER => {
                let (queue, head) = (script.byte()? % 3, script.byte()?);
                self.offer(queue, head.into());
            }
            step::SET_AVAILABLE => {
                let (queue, index) = (script.byte()? % 3, script.half()?);
                self.set_available(queue, index);
            }
            step::NOTIFY => {
                let queue = script.byte()?;
                self.write(0x50, queue.into());
            }
            step::EVENTS => self.window.process(Wake::Events),
            step::HOST_WRITE => {
                let (port, len) = (script.byte()?, script.half()?);
                if let Some(mut host) = self.host(port) {
                    let _ = host.write(&vec![port; len.into()]);
                }
            }
            step::HOST_READ => {
                let port = script.byte()?;
                if let Some(mut host) = self.host(port) {
                    let _ = host.read(&mut [0; 4096]);
                }
            }
            step::HOST_CLOSE => {
                let (port, how) = (script.byte()?, script.byte()?);
                let how = [Shutdown::Both, Shutdown::Read, Shutdown::Write][usize::from(how % 3)];
                let _ = self.host(port)?.shutdown(how);
            }
            step::PACKET => self.packet(script)?,
            step::REQUEST => self.request(script)?,
            step::FILES => self.files(script)?,
            _ => self.start(),
        }
        let _ = self.line.read();
        Some(())
    }

    fn host(&self, port: u8) -> Option<&UnixStream> {
        self.hosts.get(usize::from(port) % self.hosts.len().max(1))
    }

    fn descriptor(&self, queue: u8, index: u16, (address, len, flags): (u64, u32, u16), next: u16) {
        let at = RINGS + u64::from(queue) * RING_LEN + 16 * u64::from(index % SIZE);
        let _ = self.memory.write_obj(address, GuestAddress(at));
        let _ = self.memory.write_obj(len, GuestAddress(at + 8));
        let _ = self.memory.write_obj(flags, GuestAddress(at + 12));
        let _ = self.memory.write_obj(next, GuestAddress(at + 14));
    }

    fn offer(&mut self, queue: u8, head: u16) {
        let index = self.available[usize::from(queue)];
        let ring = RINGS + u64::from(queue) * RING_LEN + AVAILABLE;
        let _ = self.memory.write_obj(head, GuestAddress(ring + 4 + 2 * u64::from(index % SIZE)));
        self.set_available(queue, index.wrapping_add(1));
    }

    fn set_available(&mut self, queue: u8, index: u16) {
        self.available[usize::from(queue)] = index;
        let ring = RINGS + u64::from(queue) * RING_LEN + AVAILABLE;
        let _ = self.memory.write_obj(index, GuestAddress(ring + 2));
    }

    /// A packet of the socket device, whose fields are mostly right; the last bits of `wrong` say which are not.
    fn packet(&mut self, script: &mut Script<'_>) -> Option<()> {
        let (wrong, port, op, flags) = (script.byte()?, script.byte()?, script.byte()?, script.byte()?);
        let (buf_alloc, fwd_cnt, len) = (script.word()?, script.word()?, script.half()?);
        let mut lies = |bit: u8| if wrong & bit != 0 { script.word() } else { Some(0) };
        let (cid, kind, lie) = (lies(1)?, lies(2)?, lies(4)?);
        let mut bytes = Vec::new();
        bytes.extend(u64::from(CID ^ cid).to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(u32::from(port >> 4).to_le_bytes());
        bytes.extend(u32::from(port & 7).to_le_bytes());
        bytes.extend((u32::from(len) ^ lie).to_le_bytes());
        bytes.extend((1 ^ kind as u16).to_le_bytes());
        bytes.extend(u16::from(op % 10).to_le_bytes());
        bytes.extend(u32::from(flags).to_le_bytes());
        bytes.extend(buf_alloc.to_le_bytes());
        bytes.extend(fwd_cnt.to_le_bytes());
        let _ = self.memory.write_slice(&bytes, GuestAddress(BUFFERS));
        self.descriptor(1, 0, (BUFFERS, 44, 1), 1);
        self.descriptor(1, 1, (BUFFERS + 44, len.into(), 0), 0);
        self.offer(1, 0);
        self.write(0x50, 1);
        Some(())
    }

    /// A request of the block device.
    fn request(&mut self, script: &mut Script<'_>) -> Option<()> {
        let (kind, sector, len) = (script.byte()?, script.long()?, script.half()?);
        let _ = self.memory.write_obj(u32::from(kind % 16), GuestAddress(BUFFERS));
        let _ = self.memory.write_obj(sector, GuestAddress(BUFFERS + 8));
        let direction = if kind % 16 == 1 { 0 } else { 2 };
        self.descriptor(0, 0, (BUFFERS, 16, 1), 1);
        self.descriptor(0, 1, (BUFFERS + 0x1000, len.into(), 1 | direction), 2);
        self.descriptor(0, 2, (BUFFERS + 0x800, 1, 2), 0);
        self.offer(0, 0);
        self.write(0x50, 0);
        Some(())
    }
}

impl Guest {
    /// A request of the file system device: a header that is right, and any body.
    fn files(&mut self, script: &mut Script<'_>) -> Option<()> {
        let (opcode, node, body, room) = (script.byte()?, script.byte()?, script.bytes()?, script.half()?);
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(40 + body.len()).unwrap().to_le_bytes());
        bytes.extend(u32::from(opcode).to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(u64::from(node).to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        let _ = self.memory.write_slice(&bytes, GuestAddress(BUFFERS));
        let len = u32::try_from(bytes.len()).unwrap();
        self.descriptor(1, 0, (BUFFERS, len, 1), 1);
        self.descriptor(1, 1, (BUFFERS + 0x1000, room.into(), 2), 0);
        self.offer(1, 0);
        self.write(0x50, 1);
        Some(())
    }
}

/// The host's folders: what is shared, and what is beside it and must stay as it is.
struct Shares {
    folder: tempfile::TempDir,
}

impl Shares {
    const CONTENT: &[u8] = b"not the guest's";

    fn new() -> Self {
        // Nothing that a guest writes here is large.
        let _ = setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, 1 << 20);
        // SAFETY: no handler is installed; a write that is too long fails instead of ending the process.
        let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
        // In memory, where a sync costs nothing.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        for name in ["writable", "read-only", "outside"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.join("folder")).unwrap();
            std::fs::write(path.join("file"), Self::CONTENT).unwrap();
            std::os::unix::fs::symlink("../outside/file", path.join("link")).unwrap();
        }
        Self { folder }
    }

    fn list(&self) -> Vec<Share> {
        let share = |name: &str, read_only| Share {
            source: self.folder.path().join(name),
            read_only,
            cache: Cache::Auto,
        };
        vec![share("writable", false), share("read-only", true)]
    }

    fn check(&self) {
        for name in ["read-only", "outside"] {
            let path = self.folder.path().join(name);
            assert_eq!(std::fs::read(path.join("file")).unwrap(), Self::CONTENT, "{name}");
            assert_eq!(std::fs::read_dir(&path).unwrap().count(), 3, "{name} has other entries");
            assert_eq!(
                std::fs::read_dir(path.join("folder")).unwrap().count(),
                0,
                "{name} has other entries"
            );
        }
        assert_eq!(
            std::fs::read_dir(self.folder.path()).unwrap().count(),
            3,
            "something is beside the shares"
        );
    }
}

/// Steps that make sense, for seeds.
impl Writer {
    /// Writes a register.
    pub fn register(&mut self, offset: u16, value: u32) -> &mut Self {
        self.byte(step::WRITE_REGISTER).half(offset).byte(8).long(value.into())
    }

    /// Reads a register.
    pub fn read_register(&mut self, offset: u16) -> &mut Self {
        self.byte(step::READ_REGISTER).half(offset).byte(4)
    }

    /// Writes a descriptor that points `offset` bytes behind the buffers.
    pub fn descriptor(
        &mut self,
        queue: u8,
        index: u8,
        offset: u16,
        len: u32,
        flags: u8,
        next: u8,
    ) -> &mut Self {
        self.byte(step::DESCRIPTOR).byte(queue).byte(index);
        self.byte(5).half(offset).word(len).byte(flags).byte(next)
    }

    /// Makes a chain available.
    pub fn offer(&mut self, queue: u8, head: u8) -> &mut Self {
        self.byte(step::OFFER).byte(queue).byte(head)
    }

    /// Sets the index of an available ring.
    pub fn set_available(&mut self, queue: u8, index: u16) -> &mut Self {
        self.byte(step::SET_AVAILABLE).byte(queue).half(index)
    }

    /// Notifies a queue.
    pub fn notify(&mut self, queue: u8) -> &mut Self {
        self.byte(step::NOTIFY).byte(queue)
    }

    /// Has the device look at what happened on the host.
    pub fn events(&mut self) -> &mut Self {
        self.byte(step::EVENTS)
    }

    /// Has the host send, read and close.
    pub fn host(&mut self, port: u8, len: u16) -> &mut Self {
        self.byte(step::HOST_WRITE).byte(port).half(len);
        self.byte(step::HOST_READ).byte(port).byte(step::HOST_CLOSE).byte(port).byte(2)
    }

    /// Sends a packet that is right.
    pub fn packet(&mut self, port: u8, op: u8, flags: u8, len: u16) -> &mut Self {
        self.byte(step::PACKET).byte(0).byte(0x50 | port).byte(op).byte(flags);
        self.word(1 << 16).word(0).half(len)
    }

    /// Asks the disk for something.
    pub fn request(&mut self, kind: u8, sector: u64, len: u16) -> &mut Self {
        self.byte(step::REQUEST).byte(kind).long(sector).half(len)
    }

    /// Asks for something in a file system.
    pub fn files(&mut self, opcode: u8, node: u8, body: &[u8]) -> &mut Self {
        self.byte(step::FILES).byte(opcode).byte(node).bytes(body).half(4096)
    }

    /// Resets and starts the device.
    pub fn start(&mut self) -> &mut Self {
        self.byte(step::START)
    }
}
