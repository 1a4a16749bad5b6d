//! A disk whose driver follows the rules, and disks whose drivers do not.

#![allow(clippy::cast_possible_truncation, reason = "small numbers, in tests")]

use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use proptest::prelude::*;
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{AFTER_HOLE, END, HOLE, Ring, WRITE, memory};

const SECTORS: u64 = 16;
const RINGS: u64 = 0x1_0000;
const HEADER: u64 = 0x2_0000;
const STATUS: u64 = 0x2_1000;
const DATA: u64 = 0x3_0000;
/// A status byte that no device writes.
const NONE: u8 = 0xee;

/// What sector `sector` holds at first.
fn pattern(sector: u64) -> Vec<u8> {
    (0..SECTOR).map(|at| (sector * 31 + at) as u8).collect()
}

struct Fixture<'m> {
    memory: &'m Memory,
    file: File,
    device: Block,
    ring: Ring<'m>,
    queue: Queue,
}

impl<'m> Fixture<'m> {
    fn new(memory: &'m Memory, read_only: bool) -> Self {
        let file = tempfile::tempfile().unwrap();
        (0..SECTORS).for_each(|sector| file.write_all_at(&pattern(sector), sector * SECTOR).unwrap());
        let device = Block::from_file(file.try_clone().unwrap(), Path::new("disk"), read_only).unwrap();
        let ring = Ring::new(memory, RINGS, 256);
        let queue = ring.queue();
        Self { memory, file, device: device.with_id("the disk's name is long"), ring, queue }
    }

    fn process(&mut self, wake: Wake) -> Result<(), DeviceError> {
        let queue = VirtQueue::new(&mut self.queue, self.memory);
        self.device.process(wake, &mut [queue])
    }

    fn header(&self, kind: u32, sector: u64) {
        self.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
    }

    /// A request of the usual shape; returns its status and how many bytes are said to be written.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        self.header(kind, sector);
        let parts = [&[(HEADER, 16, 0)], data, &[(STATUS, 1, WRITE)]].concat();
        self.raw(&parts).unwrap()
    }

    fn raw(&mut self, parts: &[(u64, u32, u16)]) -> Result<(u8, u32), DeviceError> {
        self.memory.write_obj(NONE, GuestAddress(STATUS)).unwrap();
        let head = self.ring.chain(parts);
        self.process(Wake::Queue(0))?;
        let used = self.ring.used();
        let [(used_head, written)] = used[..] else {
            panic!("one request was answered {} times", used.len())
        };
        assert_eq!(used_head, u32::from(head));
        Ok((self.memory.read_obj(GuestAddress(STATUS)).unwrap(), written))
    }

    fn bytes(&self, address: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn disk(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SECTORS * SECTOR).unwrap()];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn assert_untouched(&self) {
        let expected: Vec<u8> = (0..SECTORS).flat_map(pattern).collect();
        assert!(self.disk() == expected, "the disk has changed");
    }
}

#[test]
fn reads_what_is_on_the_disk() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    assert_eq!(disk.request(request::IN, 3, &[(DATA, 1024, WRITE)]), (status::OK, 1025));
    assert_eq!(disk.bytes(DATA, 1024), [pattern(3), pattern(4)].concat());
    assert_eq!(disk.request(request::IN, SECTORS - 1, &[(DATA, 512, WRITE)]), (status::OK, 513));
    assert_eq!(disk.bytes(DATA, 512), pattern(SECTORS - 1));
    // Cut where it suits nobody, and on both sides of the hole.
    let parts = [(HOLE - 100, 100, WRITE), (AFTER_HOLE, 1, WRITE), (DATA, 0, WRITE), (END - 411, 411, WRITE)];
    assert_eq!(disk.request(request::IN, 5, &parts), (status::OK, 513));
    let read = [disk.bytes(HOLE - 100, 100), disk.bytes(AFTER_HOLE, 1), disk.bytes(END - 411, 411)].concat();
    assert_eq!(read, pattern(5));
    assert_eq!(disk.request(request::IN, SECTORS, &[]), (status::OK, 1), "nothing, at the very end");
}

#[test]
fn writes_stay_where_they_belong() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, false);
    memory.write_slice(&[7; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(disk.request(request::OUT, 2, &[(DATA, 200, 0), (DATA + 200, 312, 0)]), (status::OK, 1));
    let mut expected: Vec<u8> = (0..SECTORS).flat_map(pattern).collect();
    expected[1024..1536].fill(7);
    assert_eq!(disk.disk(), expected);
    assert_eq!(disk.request(request::FLUSH, 0, &[]), (status::OK, 1));
    assert_eq!(disk.file.metadata().unwrap().len(), SECTORS * SECTOR);
}

#[test]
fn nothing_beyond_the_end() {
    let memory = memory();
    for read_only in [true, false] {
        let mut disk = Fixture::new(&memory, read_only);
        for (sector, len) in [
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (0, 512 * 17),
            (u64::MAX, 512),
            (u64::MAX - 1, 1024),
            (u64::MAX / 512, 512),
            // The byte offset of this one would wrap around to 0.
            (1 << 55, 512),
            (1 << 63, 512),
        ] {
            for (kind, flags) in [(request::IN, WRITE), (request::OUT, 0)] {
                let answer = disk.request(kind, sector, &[(DATA, len, flags)]);
                assert_eq!(
                    answer,
                    (status::IOERR, if kind == request::IN { 0 } else { 1 }),
                    "{sector:#x} {len}"
                );
            }
        }
        disk.assert_untouched();
        assert_eq!(disk.file.metadata().unwrap().len(), SECTORS * SECTOR, "the disk has not grown");
    }
}

#[test]
fn parts_of_sectors_and_too_much_at_once() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, false);
    for len in [1, 511, 513, 1023] {
        assert_eq!(disk.request(request::IN, 0, &[(DATA, len, WRITE)]).0, status::IOERR, "{len}");
        assert_eq!(disk.request(request::OUT, 0, &[(DATA, len, 0)]).0, status::IOERR, "{len}");
    }
    disk.assert_untouched();
    disk.file.set_len(1 << 30).unwrap();
    let file = disk.file.try_clone().unwrap();
    disk.device = Block::from_file(file, Path::new("disk"), true).unwrap();
    // A MiB of memory, over and over.
    let parts = vec![(AFTER_HOLE, 1 << 20, WRITE); 65];
    assert_eq!(disk.request(request::IN, 0, &parts), (status::IOERR, 0));
    assert_eq!(disk.request(request::IN, 0, &parts[1..]).0, status::OK);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    assert_ne!(disk.device.features() & feature::RO, 0);
    assert_eq!(disk.request(request::OUT, 0, &[(DATA, 512, 0)]), (status::IOERR, 1));
    assert_eq!(disk.request(request::OUT, 0, &[]), (status::IOERR, 1));
    assert_eq!(disk.request(request::FLUSH, 0, &[]), (status::OK, 1));
    disk.assert_untouched();
    // Even if the device forgot: the file itself is open for reading only.
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().set_len(512).unwrap();
    let block = Block::open(path.path(), true).unwrap();
    assert_eq!(block.file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(Errno::EBADF as i32));
}

#[test]
fn a_status_without_a_place_breaks_the_queue() {
    let memory = memory();
    for parts in
        [&[(HEADER, 16, 0)][..], &[(HEADER, 16, 0), (STATUS, 1, 0)], &[(HEADER, 16, 0), (STATUS, 0, WRITE)]]
    {
        let mut disk = Fixture::new(&memory, false);
        disk.header(request::OUT, 0);
        let result = disk.raw(parts);
        assert!(
            matches!(result, Err(DeviceError::Queue { index: 0, source: QueueError::Shape(0) })),
            "{result:?}"
        );
        disk.assert_untouched();
    }
}

#[test]
fn headers_of_any_shape() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    disk.header(request::IN, 1);
    let byte_by_byte: Vec<_> = (0..16).map(|at| (HEADER + at, 1, 0)).collect();
    let parts = [&byte_by_byte[..], &[(DATA, 512, WRITE), (STATUS, 1, WRITE)]].concat();
    assert_eq!(disk.raw(&parts).unwrap(), (status::OK, 513));
    assert_eq!(disk.bytes(DATA, 512), pattern(1));
    // Data and status in one descriptor.
    assert_eq!(disk.raw(&[(HEADER, 16, 0), (STATUS - 512, 513, WRITE)]).unwrap(), (status::OK, 513));
    for len in [0, 1, 4, 8, 12, 15] {
        assert_eq!(disk.raw(&[(HEADER, len, 0), (STATUS, 1, WRITE)]).unwrap().0, status::IOERR, "{len}");
    }
    assert_eq!(disk.raw(&[(STATUS, 1, WRITE)]).unwrap().0, status::IOERR, "no header at all");
}

#[test]
fn kinds_of_requests() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    assert_eq!(disk.request(request::GET_ID, 0, &[(DATA, 20, WRITE)]), (status::OK, 21));
    assert_eq!(disk.bytes(DATA, 20), b"the disk's name is l");
    assert_eq!(disk.request(request::GET_ID, 0, &[(DATA, 512, WRITE)]), (status::OK, 20));
    assert_eq!(disk.request(request::GET_ID, 0, &[(DATA, 19, WRITE)]), (status::IOERR, 0));
    for kind in [2, 3, 5, 6, 7, 9, 11, 13, 0x8000_0000, u32::MAX] {
        assert_eq!(disk.request(kind, 0, &[(DATA, 512, WRITE)]), (status::UNSUPP, 0), "{kind}");
    }
    disk.assert_untouched();
}

#[test]
fn a_disk_that_became_shorter_fails_and_goes_on() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    disk.file.set_len(SECTOR * 2 + 100).unwrap();
    assert_eq!(disk.request(request::IN, 1, &[(DATA, 1024, WRITE)]), (status::IOERR, 612));
    assert_eq!(disk.request(request::IN, 5, &[(DATA, 512, WRITE)]), (status::IOERR, 0));
    assert_eq!(disk.request(request::IN, 1, &[(DATA, 512, WRITE)]), (status::OK, 513));
}

#[test]
fn data_over_everything_that_matters() {
    let memory = memory();
    // The status byte within the data: the status comes last.
    let mut disk = Fixture::new(&memory, true);
    assert_eq!(disk.request(request::IN, 0, &[(STATUS - 100, 512, WRITE)]), (status::OK, 513));
    // The header: it was read before.
    assert_eq!(disk.request(request::IN, 1, &[(HEADER, 512, WRITE)]), (status::OK, 513));
    // All rings: the guest has thrown away its own queue. Whatever follows from that, it is an answer.
    disk.header(request::IN, 0);
    disk.ring.chain(&[(HEADER, 16, 0), (RINGS, 8192, WRITE), (RINGS + 0x2000, 1, WRITE)]);
    let _ = disk.process(Wake::Queue(0));
    let _ = disk.process(Wake::Queue(0));
    disk.assert_untouched();
}

#[test]
fn more_than_a_turn_goes_on_by_itself_and_a_reset_forgets_it() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    disk.file.set_len(1 << 30).unwrap();
    disk.device = Block::from_file(disk.file.try_clone().unwrap(), Path::new("disk"), true).unwrap();
    disk.header(request::IN, 0);
    let parts = [(HEADER, 16, 0), (AFTER_HOLE, 1 << 20, WRITE), (STATUS, 1, WRITE)];
    for _ in 0..20 {
        disk.ring.chain(&parts);
    }
    disk.process(Wake::Queue(0)).unwrap();
    let first = disk.ring.used().len();
    assert!((1..20).contains(&first), "{first} requests in one turn");
    let mut served = first;
    while served < 20 {
        assert!(disk.device.resume.read().is_ok(), "the device wants to go on");
        disk.process(Wake::Events).unwrap();
        served += disk.ring.used().len();
    }
    disk.device.reset();
    assert_eq!(disk.device.resume.read(), Err(Errno::EAGAIN), "a reset device wants nothing");
}

#[test]
fn a_broken_queue_leaves_nothing_to_wake_for() {
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    disk.device.resume.write(1).unwrap();
    disk.ring.offer(0xffff);
    assert!(disk.process(Wake::Queue(0)).is_err());
    assert_eq!(disk.device.resume.read(), Err(Errno::EAGAIN));
}

#[test]
fn files_that_are_no_disks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, [0; 511]).unwrap();
    assert!(matches!(Block::open(&file, true), Err(Error::Empty(_))));
    assert!(matches!(Block::open(folder.path(), true), Err(Error::Kind(_))));
    assert!(matches!(Block::open(Path::new("/dev/null"), true), Err(Error::Kind(_))));
    assert!(matches!(Block::open(&folder.path().join("none"), true), Err(Error::Open { .. })));
    std::fs::write(&file, [0; 1023]).unwrap();
    assert_eq!(Block::open(&file, true).unwrap().capacity(), 1, "part of a sector is not visible");
    let reading = File::open(&file).unwrap();
    assert!(matches!(Block::from_file(reading, &file, false), Err(Error::NotWritable(_))));
}

/// An image that looks like a qcow2 file is what it is: bytes.
#[test]
fn a_format_is_never_guessed() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(b"QFI\xfb\0\0\0\x03", 0).unwrap();
    file.set_len(SECTOR * SECTORS).unwrap();
    let memory = memory();
    let mut disk = Fixture::new(&memory, true);
    disk.device = Block::from_file(file, Path::new("disk"), true).unwrap();
    assert_eq!(disk.device.capacity(), SECTORS);
    assert_eq!(disk.request(request::IN, 0, &[(DATA, 512, WRITE)]).0, status::OK);
    assert_eq!(disk.bytes(DATA, 8), b"QFI\xfb\0\0\0\x03");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a disk that is an array: the same answers, the same bytes.
    #[test]
    fn is_an_array_of_sectors(
        requests in prop::collection::vec(
            (prop_oneof![Just(request::IN), Just(request::OUT), Just(request::FLUSH), 0_u32..16],
             prop_oneof![0..SECTORS + 2, any::<u64>()], 0_u32..5, 0_u32..3, any::<u8>()), 1..40),
        read_only in any::<bool>(),
    ) {
        let memory = memory();
        let mut disk = Fixture::new(&memory, read_only);
        let mut model = disk.disk();
        for (kind, sector, sectors, odd, fill) in requests {
            let len = sectors * 512 + odd;
            memory.write_slice(&vec![fill; len as usize + 1], GuestAddress(DATA)).unwrap();
            let flags = if kind == request::OUT { 0 } else { WRITE };
            let (answer, written) = disk.request(kind, sector, &[(DATA, len, flags)]);
            let end = sector.checked_add(sectors.into()).filter(|end| odd == 0 && *end <= SECTORS);
            let range = end.map(|_| (sector * SECTOR) as usize..(sector * SECTOR) as usize + len as usize);
            let expected = match kind {
                request::IN => range.clone().map_or(status::IOERR, |_| status::OK),
                request::OUT if !read_only => range.clone().map_or(status::IOERR, |_| status::OK),
                request::OUT => status::IOERR,
                request::FLUSH => status::OK,
                request::GET_ID => if len < 20 { status::IOERR } else { status::OK },
                _ => status::UNSUPP,
            };
            prop_assert_eq!(answer, expected, "kind {} sector {} len {}", kind, sector, len);
            prop_assert!(written <= len + 1);
            match (kind, range) {
                (request::IN, Some(range)) => prop_assert_eq!(&disk.bytes(DATA, len.into()), &model[range]),
                (request::OUT, Some(range)) if !read_only => model[range].fill(fill),
                _ => {}
            }
            let after: u8 = memory.read_obj(GuestAddress(DATA + u64::from(len))).unwrap();
            prop_assert_eq!(after, fill, "the byte after the buffer");
        }
        prop_assert_eq!(disk.disk(), model);
    }
}
