//! Puts kernel, initial ramdisk, command line and the tables that the kernel reads into guest memory.
//!
//! What the kernel writes to, the text that every boot runs, and constants are copied into huge pages. The rest of the text is
//! *mapped* where guest memory lets it: its pages are the page cache's, read once a host and shared by all VMs that boot this
//! kernel; the few that the kernel patches while it boots become the guest's own.
//!
//! **What can go wrong:** the file is anybody's. Every header is checked before anything is loaded; nothing is loaded below 1 MiB,
//! over another segment, or beyond low memory. A mapped file that is written to or truncated in place later changes or ends
//! the VMs that run from it, and only them: pages that are gone end the vCPU that needs them with an error of KVM's, and a device
//! that is led there with the signal `SIGBUS`. Replacing the file by renaming another over it, as installations do, harms nobody.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use linux_loader::elf;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion};

use super::{Processors, layout, mptable, tables};
use crate::{Error, Memory};

const PAGE: u64 = 4096;
/// `e_ident[EI_CLASS]` of a 64-bit file, and `e_machine` of x86-64 (System V ABI, "ELF header").
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE_X86_64: u16 = 62;
/// `PF_W` of a program header's flags.
const SEGMENT_WRITABLE: u32 = 2;

/// Up to here text is copied, into a huge page: our kernel's linker puts the functions that a boot runs there. Behind it lies what most
/// guests never run.
const HOT_END: u64 = 4 << 20;
/// Where a mapping ends: what does not fill a huge page behind the text are constants, which a boot reads all over. They are copied into
/// one.
const HUGE_PAGE: u64 = 2 << 20;

/// A part of a file that has its place in guest memory. Offsets, addresses and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    offset: u64,
    address: u64,
    len: u64,
    /// How much memory it takes; behind `len` it is zeros.
    room: u64,
    writable: bool,
}

/// A kernel whose headers were checked.
#[derive(Debug)]
pub(crate) struct Headers {
    entry: u64,
    pieces: Vec<Piece>,
}

/// Memory that can show parts of files.
pub(crate) trait MapFile {
    /// Has `len` bytes of guest memory at `address` show those of `file` at `offset`: private to this guest once it writes.
    /// All three are multiples of the page size, and the range lies in low memory.
    ///
    /// # Errors
    /// The file cannot be mapped; nothing has changed.
    fn map_file(&self, file: &File, offset: u64, address: u64, len: u64) -> std::io::Result<()>;
}

/// Checks that a file is a kernel that can be booted, as far as its headers tell: every failure has words of its own.
pub(crate) fn check_kernel(kernel: &mut File, path: &Path) -> Result<Headers, Error> {
    let error = |reason: String| Error::Kernel { path: path.to_owned(), reason };
    let len = kernel.metadata().map_err(|e| error(e.to_string()))?.len();
    let mut header = elf::Elf64_Ehdr::default();
    let whole_header = kernel.rewind().and_then(|()| kernel.read_exact(header.as_mut_slice())).is_ok();
    if !whole_header || header.e_ident[..4] != *b"\x7fELF" {
        return Err(error("not an ELF file; an uncompressed vmlinux is needed".into()));
    }
    let [_, _, _, _, class, data, ..] = header.e_ident;
    let ours = (ELF_CLASS_64, elf::ELFDATA2LSB, ELF_MACHINE_X86_64);
    if (class, u32::from(data), header.e_machine) != ours {
        return Err(error(format!("built for another architecture (ELF machine {})", header.e_machine)));
    }
    let truncated = || error(format!("truncated: its headers describe more than its {len} bytes"));
    let mut pieces = Vec::new();
    let mut segment = elf::Elf64_Phdr::default();
    kernel.seek(std::io::SeekFrom::Start(header.e_phoff)).map_err(|_| truncated())?;
    for _ in 0..header.e_phnum {
        kernel.read_exact(segment.as_mut_slice()).map_err(|_| truncated())?;
        let end = segment.p_offset.checked_add(segment.p_filesz);
        if end.is_none_or(|end| end > len) {
            return Err(truncated());
        }
        if segment.p_type == elf::PT_LOAD && segment.p_memsz > 0 {
            pieces.push(Piece {
                offset: segment.p_offset,
                address: segment.p_paddr,
                len: segment.p_filesz.min(segment.p_memsz),
                room: segment.p_memsz,
                writable: segment.p_flags & SEGMENT_WRITABLE != 0,
            });
        }
    }
    if pieces.iter().all(|piece| piece.len == 0) {
        return Err(error("has nothing to load".into()));
    }
    pieces.sort_by_key(|piece| piece.address);
    let headers = Headers { entry: header.e_entry, pieces };
    match headers.misplaced() {
        None => Ok(headers),
        Some(what) => Err(error(what.into())),
    }
}

impl Headers {
    /// What is wrong with where it wants to be, if anything is.
    fn misplaced(&self) -> Option<&'static str> {
        let mut end = layout::HIGH_MEMORY.0;
        for piece in &self.pieces {
            if piece.address < end {
                return Some("parts of it overlap, or lie below 1 MiB");
            }
            match piece.address.checked_add(piece.room) {
                Some(next) => end = next,
                None => return Some("parts of it lie beyond all memory"),
            }
        }
        let entry = |piece: &Piece| (piece.address..piece.address + piece.len).contains(&self.entry);
        if self.pieces.iter().any(entry) { None } else { Some("its entry point is not in it") }
    }

    /// The end of the memory that it takes.
    fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.address + piece.room)
    }
}

/// Where an initial ramdisk of `len` bytes goes: into base memory, whose huge page is in use anyway, or to the end of low memory, as far
/// from the kernel as possible.
fn place_of_initrd(len: u64, kernel_end: u64, low_end: u64) -> Option<u64> {
    if len <= layout::BASE_MEMORY_END - layout::INITRD.0 {
        return Some(layout::INITRD.0);
    }
    let at = low_end.checked_sub(len)? / PAGE * PAGE;
    (at >= kernel_end).then_some(at)
}

/// Puts the kernel in its place. Guest memory is zero where the file has nothing.
fn load_kernel(
    memory: &Memory,
    mapper: &impl MapFile,
    kernel: &mut File,
    headers: &Headers,
) -> Result<(), std::io::Error> {
    for piece in &headers.pieces {
        let (start, end) = (piece.address, piece.address + piece.len);
        let (from, to) = (HOT_END.clamp(start, end), end / HUGE_PAGE * HUGE_PAGE);
        let offset = |address: u64| piece.offset + (address - start);
        let fits = offset(from).is_multiple_of(PAGE) && from.is_multiple_of(PAGE) && from < to;
        let mapped =
            !piece.writable && fits && mapper.map_file(kernel, offset(from), from, to - from).is_ok();
        let copied = if mapped { [(start, from), (to, end)] } else { [(start, end), (end, end)] };
        for (from, to) in copied {
            let len = usize::try_from(to - from).map_err(std::io::Error::other)?;
            kernel.seek(SeekFrom::Start(offset(from)))?;
            memory
                .read_exact_volatile_from(GuestAddress(from), kernel, len)
                .map_err(std::io::Error::other)?;
        }
    }
    Ok(())
}

/// Loads everything; returns where the kernel is entered.
pub(crate) fn load(
    memory: &Memory,
    mapper: &impl MapFile,
    kernel: &mut File,
    path: &Path,
    initrd: &[u8],
    cmdline: &str,
    processors: Processors,
) -> Result<GuestAddress, Error> {
    let too_small = |_| Error::DoesNotFit;
    let headers = check_kernel(kernel, path)?;

    let low_end = memory.iter().next().map_or(0, GuestMemoryRegion::len);
    if low_end < headers.end() {
        return Err(Error::DoesNotFit);
    }
    let initrd_len = u64::try_from(initrd.len()).map_err(|_| Error::DoesNotFit)?;
    let initrd_at = place_of_initrd(initrd_len, headers.end(), low_end).ok_or(Error::DoesNotFit)?;
    load_kernel(memory, mapper, kernel, &headers)
        .map_err(|error| Error::Kernel { path: path.to_owned(), reason: error.to_string() })?;
    memory.write_slice(initrd, GuestAddress(initrd_at)).map_err(too_small)?;

    if cmdline.len() >= layout::COMMAND_LINE_MAX || cmdline.contains('\0') {
        return Err(Error::CommandLine);
    }
    memory.write_slice(cmdline.as_bytes(), layout::COMMAND_LINE).map_err(too_small)?;
    memory.write_obj(0u8, GuestAddress(layout::COMMAND_LINE.0 + cmdline.len() as u64)).map_err(too_small)?;

    tables::write_boot_params(memory, initrd_at, initrd_len, cmdline.len()).map_err(too_small)?;
    tables::write_page_tables(memory).map_err(too_small)?;
    tables::write_gdt(memory).map_err(too_small)?;
    mptable::write(memory, processors).map_err(too_small)?;
    Ok(GuestAddress(headers.entry))
}

#[cfg(test)]
mod tests;
