use std::{cell::RefCell, io::Write};

use vm_memory::GuestMemoryMmap;

use super::*;

const RAM: usize = 32 << 20;
const TEXT: u64 = HOT_END;

/// Writes down what it was asked to map; refuses, if it is told so.
#[derive(Default)]
struct Mapper {
    mapped: RefCell<Vec<(u64, u64, u64)>>,
    refuses: bool,
}

impl MapFile for Mapper {
    fn map_file(&self, _: &File, offset: u64, address: u64, len: u64) -> std::io::Result<()> {
        if self.refuses {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        self.mapped.borrow_mut().push((offset, address, len));
        Ok(())
    }
}

/// A program header: type, flags, offset, address, bytes in the file, bytes in memory.
struct Segment(u32, u32, u64, u64, u64, u64);

const PROCESSORS: Processors = Processors { vcpus: 1, irq_lines: 6 };

const fn load(flags: u32, offset: u64, address: u64, len: u64, room: u64) -> Segment {
    Segment(1, flags, offset, address, len, room)
}

/// An ELF file with these segments, `size` bytes long, whose byte at `i` is `i / 256` where no header is.
fn kernel(segments: &[Segment], entry: u64, size: usize) -> File {
    let mut bytes: Vec<u8> = (0..size).map(|i| u8::try_from((i >> 8) & 0xff).unwrap()).collect();
    let mut header = elf::Elf64_Ehdr {
        e_machine: ELF_MACHINE_X86_64,
        e_entry: entry,
        e_phoff: 64,
        e_phnum: segments.len().try_into().unwrap(),
        ..Default::default()
    };
    header.e_ident[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[..64].copy_from_slice(header.as_slice());
    for (slot, segment) in bytes[64..].chunks_mut(56).zip(segments) {
        let &Segment(p_type, p_flags, p_offset, p_paddr, p_filesz, p_memsz) = segment;
        let header =
            elf::Elf64_Phdr { p_type, p_flags, p_offset, p_paddr, p_filesz, p_memsz, ..Default::default() };
        slot.copy_from_slice(header.as_slice());
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

fn refused(segments: &[Segment], entry: u64) -> String {
    check_kernel(&mut kernel(segments, entry, 0x4000), Path::new("k")).unwrap_err().to_string()
}

fn loaded(mapper: &Mapper, segments: &[Segment]) -> Memory {
    let memory: Memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let mut file = kernel(segments, TEXT, 0x20_2000);
    let entry =
        super::load(&memory, mapper, &mut file, Path::new("k"), b"initrd", "a=b", PROCESSORS).unwrap();
    assert_eq!(entry, GuestAddress(TEXT));
    memory
}

fn byte(memory: &Memory, address: u64) -> u8 {
    memory.read_obj(GuestAddress(address)).unwrap()
}

#[test]
fn maps_text_and_copies_what_every_boot_uses() {
    let mapper = Mapper::default();
    let start = HOT_END - 0x1000;
    let (text, constants) = (0x1000 + HUGE_PAGE, HOT_END + HUGE_PAGE);
    let memory: Memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let data = constants + HUGE_PAGE;
    let segments =
        [load(5, 0x1000, start, text + 0x2010, text + 0x2010), load(6, 0x20_9000, data, 0x1001, 0x9000)];
    let mut file = kernel(&segments, start, 0x20_b000);
    super::load(&memory, &mapper, &mut file, Path::new("k"), b"i", "", PROCESSORS).unwrap();
    assert_eq!(*mapper.mapped.borrow(), [(0x2000, HOT_END, HUGE_PAGE)]);
    let bytes = [start, HOT_END - 1].map(|address| byte(&memory, address));
    assert_eq!(bytes, [0x10, 0x1f], "what every boot runs is copied");
    assert_eq!([HOT_END, constants - 1].map(|address| byte(&memory, address)), [0, 0], "left to the mapping");
    let bytes = [constants, constants + 0x200f, constants + 0x2010].map(|address| byte(&memory, address));
    assert_eq!(bytes, [0x20, 0x40, 0], "constants are copied, and nothing of the file behind them");
    assert_eq!([data + 0x1000, data + 0x1001].map(|address| byte(&memory, address)), [0xa0, 0], "as is data");
}

#[test]
fn copies_what_cannot_be_mapped() {
    let refuses = Mapper { refuses: true, ..Default::default() };
    let memory = loaded(&refuses, &[load(5, 0x1000, TEXT, HUGE_PAGE, HUGE_PAGE)]);
    assert_eq!((byte(&memory, TEXT), byte(&memory, TEXT + 0x2fff)), (0x10, 0x3f));
    // Not at a page's start in the file, and less than a huge page.
    for segment in [load(5, 0x1100, TEXT, HUGE_PAGE, HUGE_PAGE), load(5, 0x1100, TEXT, 0x3000, 0x3000)] {
        let mapper = Mapper::default();
        let memory = loaded(&mapper, &[segment]);
        assert_eq!((byte(&memory, TEXT), byte(&memory, TEXT + 0x2fff)), (0x11, 0x40));
        assert!(mapper.mapped.borrow().is_empty());
    }
}

#[test]
fn refuses_headers_that_make_no_sense() {
    let good = load(5, 0x1000, TEXT, 0x1000, 0x1000);
    assert!(refused(&[load(5, 0x1000, TEXT, 0x4000, 0x4000)], TEXT).contains("truncated"));
    assert!(refused(&[load(5, u64::MAX, TEXT, 0x1000, 0x1000)], TEXT).contains("truncated"));
    assert!(refused(&[load(5, 0, TEXT, 0, 0x1000)], TEXT).contains("nothing to load"));
    assert!(refused(&[load(5, 0x1000, 0xf000, 0x1000, 0x1000)], 0xf000).contains("below 1 MiB"));
    assert!(refused(&[good, load(6, 0x1000, TEXT + 0xfff, 1, 1)], TEXT).contains("overlap"));
    let good = load(5, 0x1000, TEXT, 0x1000, 0x1000);
    assert!(refused(&[good, load(6, 0x1000, u64::MAX, 1, 2)], TEXT).contains("beyond all memory"));
    let good = load(5, 0x1000, TEXT, 0x1000, 0x1000);
    assert!(refused(&[good], TEXT + 0x1000).contains("entry point"));
}

#[test]
fn a_kernel_too_large_for_the_memory_does_not_fit() {
    let memory: Memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let end = RAM as u64;
    for room in [end - TEXT + 1, 1 << 40] {
        let mut file = kernel(&[load(6, 0x1000, TEXT, 0x1000, room)], TEXT, 0x4000);
        let result =
            super::load(&memory, &Mapper::default(), &mut file, Path::new("k"), b"i", "", PROCESSORS);
        assert!(matches!(result, Err(Error::DoesNotFit)), "{room:#x}: {result:?}");
    }
}

#[test]
fn a_small_ramdisk_lies_in_base_memory_and_a_large_one_at_the_end() {
    let (kernel_end, low_end) = (HUGE_PAGE * 8, HUGE_PAGE * 64);
    let small = layout::BASE_MEMORY_END - layout::INITRD.0;
    assert_eq!(place_of_initrd(small, kernel_end, low_end), Some(layout::INITRD.0));
    assert_eq!(place_of_initrd(small + 1, kernel_end, low_end), Some((low_end - small - 1) / PAGE * PAGE));
    assert_eq!(place_of_initrd(low_end - kernel_end, kernel_end, low_end), Some(kernel_end));
    assert_eq!(place_of_initrd(low_end - kernel_end + 1, kernel_end, low_end), None, "over the kernel");
    assert_eq!(place_of_initrd(low_end + 1, kernel_end, low_end), None);
}
