//! A file system device, and requests of any kind.

use crate::{
    machine::{FREE, Machine, read8, read32, read64, write8, write32, write64},
    queue::{NEXT, Ring, WRITE},
    transport::{Device, FS},
};

pub const LOOKUP: u32 = 1;
pub const FORGET: u32 = 2;
pub const GETATTR: u32 = 3;
pub const SETATTR: u32 = 4;
pub const READLINK: u32 = 5;
pub const SYMLINK: u32 = 6;
pub const MKNOD: u32 = 8;
pub const MKDIR: u32 = 9;
pub const UNLINK: u32 = 10;
pub const RMDIR: u32 = 11;
pub const RENAME: u32 = 12;
pub const LINK: u32 = 13;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE_FILE: u32 = 16;
pub const SETXATTR: u32 = 21;
pub const INIT: u32 = 26;
pub const OPENDIR: u32 = 27;
pub const READDIR: u32 = 28;
pub const CREATE: u32 = 35;
pub const BATCH_FORGET: u32 = 42;
pub const FALLOCATE: u32 = 43;
pub const READDIRPLUS: u32 = 44;
pub const RENAME2: u32 = 45;
pub const LSEEK: u32 = 46;
pub const COPY_FILE_RANGE: u32 = 47;
pub const TMPFILE: u32 = 51;

/// The node that a guest starts from: the folder of the shares.
pub const ROOT: u64 = 1;

pub const ENOENT: i32 = 2;
pub const ENFILE: i32 = 23;
pub const EROFS: i32 = 30;

pub const REQUEST: u64 = FREE + 0x40_0000;
const HEADER: u32 = 40;
const REPLY: u64 = FREE + 0x60_0000;
const REPLY_HEADER: u64 = 16;
const ROOM: u32 = 0x20_0000;

/// A request's body, field by field, behind where its header is.
pub struct Body(u32);

impl Body {
    pub fn new() -> Self {
        Self(0)
    }

    pub fn u32(mut self, value: u32) -> Self {
        write32(REQUEST + u64::from(HEADER + self.0), value);
        self.0 += 4;
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        write64(REQUEST + u64::from(HEADER + self.0), value);
        self.0 += 8;
        self
    }

    pub fn zeros(self, count: u32) -> Self {
        (0..count).fold(self, |body, _| body.byte(0))
    }

    /// A byte.
    pub fn byte(mut self, value: u8) -> Self {
        write8(REQUEST + u64::from(HEADER + self.0), value);
        self.0 += 1;
        self
    }

    pub fn bytes(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |body, byte| body.byte(*byte))
    }

    pub fn name(self, name: &[u8]) -> Self {
        self.bytes(name).byte(0)
    }
}

pub struct FileSystem {
    pub device: Device,
    /// The queue for what is not answered, and the one for requests.
    rings: [Ring; 2],
}

impl FileSystem {
    /// The machine's file system device, started; nothing has been said to it.
    pub fn start(machine: &Machine) -> Self {
        let rings = [Ring::new(0, 64), Ring::new(1, 256)];
        let device = Device::find(machine, FS);
        device.start(&[&rings[0], &rings[1]]);
        Self { device, rings }
    }

    /// The same, after hello.
    pub fn begin(machine: &Machine) -> Self {
        let fs = Self::start(machine);
        fs.hello().expect("an answer to hello");
        fs
    }

    /// Says hello, as Linux does.
    pub fn hello(&self) -> Result<u64, i32> {
        self.ask(INIT, 0, Body::new().u32(7).u32(41).u32(0x2_0000).u32(u32::MAX).u32(u32::MAX).zeros(44))
    }

    /// A header in front of the body.
    pub fn header(len: u32, opcode: u32, node: u64) {
        write32(REQUEST, len);
        write32(REQUEST + 4, opcode);
        write64(REQUEST + 8, 99);
        write64(REQUEST + 16, node);
        // User, group, process: root.
        (24..40).for_each(|at| write8(REQUEST + at, 0));
    }

    /// Sends `len` bytes from where requests are, with `room` for the reply; waits until they were taken.
    pub fn send(&self, len: u32, room: u32) {
        let ring = &self.rings[1];
        let slot = ring.index() % ring.size / 2 * 2;
        ring.descriptor(slot, REQUEST, len, if room > 0 { NEXT } else { 0 }, slot + 1);
        ring.descriptor(slot + 1, REPLY, room, WRITE, 0);
        ring.offer(slot);
        self.device.notify(1);
        assert!(ring.wait_all(), "an answer");
    }

    /// A proper request. Returns the first number of the answer's body, or the error.
    pub fn ask(&self, opcode: u32, node: u64, body: Body) -> Result<u64, i32> {
        let len = HEADER + body.0;
        Self::header(len, opcode, node);
        write64(REPLY + REPLY_HEADER, 0);
        self.send(len, ROOM);
        assert_eq!(read64(REPLY + 8), 99, "the answer is to this request");
        match read32(REPLY + 4).cast_signed().wrapping_neg() {
            0 => Ok(read64(REPLY + REPLY_HEADER)),
            error => Err(error),
        }
    }

    /// How many bytes the last answer's body has.
    pub fn answered(&self) -> u32 {
        read32(REPLY) - REPLY_HEADER as u32
    }

    /// A byte of the last answer's body.
    pub fn answer(&self, at: u64) -> u8 {
        read8(REPLY + REPLY_HEADER + at)
    }

    /// A node, looked up.
    pub fn look_up(&self, folder: u64, name: &[u8]) -> Result<u64, i32> {
        self.ask(LOOKUP, folder, Body::new().name(name))
    }

    /// What a share shares.
    pub fn share(&self, index: u8) -> u64 {
        self.look_up(ROOT, &[b'0' + index]).expect("a share")
    }

    /// A handle.
    pub fn open(&self, node: u64, flags: u32) -> Result<u64, i32> {
        self.ask(OPEN, node, Body::new().u32(flags).u32(0))
    }

    /// Panics unless the device works as it should.
    pub fn assert_works(&self) {
        let file = self.look_up(self.share(0), b"file").expect("a file");
        let handle = self.open(file, 0).expect("a handle");
        assert!(self.ask(READ, file, Body::new().u64(handle).u64(0).u32(4096).zeros(20)).is_ok());
        assert_eq!((self.answered(), self.answer(0)), (7, b's'), "the file's contents");
    }
}
