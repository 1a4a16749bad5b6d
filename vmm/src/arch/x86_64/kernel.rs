//! Puts kernel, initial ramdisk, command line and the tables that the kernel reads into guest memory.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
};

use linux_loader::{
    elf,
    loader::{Elf, KernelLoader},
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemory};

use super::{layout, mptable, tables};
use crate::{Error, Memory};

const PAGE: u64 = 4096;
/// `e_ident[EI_CLASS]` of a 64-bit file, and `e_machine` of x86-64 (System V ABI, "ELF header").
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE_X86_64: u16 = 62;

/// Checks that a file is a kernel that can be booted, as far as its headers tell: every failure has words of its own.
pub(crate) fn check_kernel(kernel: &mut File, path: &Path) -> Result<(), Error> {
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
    let mut loadable = false;
    let mut segment = elf::Elf64_Phdr::default();
    kernel.seek(std::io::SeekFrom::Start(header.e_phoff)).map_err(|_| truncated())?;
    for _ in 0..header.e_phnum {
        kernel.read_exact(segment.as_mut_slice()).map_err(|_| truncated())?;
        let end = segment.p_offset.checked_add(segment.p_filesz);
        if end.is_none_or(|end| end > len) {
            return Err(truncated());
        }
        loadable |= segment.p_type == elf::PT_LOAD && segment.p_filesz > 0;
    }
    if loadable { Ok(()) } else { Err(error("has nothing to load".into())) }
}

/// Loads everything; returns where the kernel is entered.
pub(crate) fn load(
    memory: &Memory,
    kernel: &mut File,
    path: &Path,
    initrd: &[u8],
    cmdline: &str,
    vcpus: u8,
) -> Result<GuestAddress, Error> {
    let too_small = |_| Error::DoesNotFit;
    check_kernel(kernel, path)?;
    let loaded = Elf::load(memory, None, kernel, Some(layout::HIGH_MEMORY)).map_err(|source| {
        use linux_loader::loader::elf::Error as ElfError;
        match source {
            linux_loader::loader::Error::Elf(ElfError::ReadKernelImage) => Error::DoesNotFit,
            other => Error::Kernel { path: path.to_owned(), reason: other.to_string() },
        }
    })?;

    // The initial ramdisk goes to the end of the first range, as far from the kernel as possible.
    let low_end = memory.iter().next().map_or(0, vm_memory::GuestMemoryRegion::len);
    let initrd_len = u64::try_from(initrd.len()).map_err(|_| Error::DoesNotFit)?;
    let initrd_at = low_end.checked_sub(initrd_len).ok_or(Error::DoesNotFit)? / PAGE * PAGE;
    if initrd_at < loaded.kernel_end {
        return Err(Error::DoesNotFit);
    }
    memory.write_slice(initrd, GuestAddress(initrd_at)).map_err(too_small)?;

    if cmdline.len() >= layout::COMMAND_LINE_MAX || cmdline.contains('\0') {
        return Err(Error::CommandLine);
    }
    memory.write_slice(cmdline.as_bytes(), layout::COMMAND_LINE).map_err(too_small)?;
    memory.write_obj(0u8, GuestAddress(layout::COMMAND_LINE.0 + cmdline.len() as u64)).map_err(too_small)?;

    tables::write_boot_params(memory, initrd_at, initrd_len, cmdline.len()).map_err(too_small)?;
    tables::write_page_tables(memory).map_err(too_small)?;
    tables::write_gdt(memory).map_err(too_small)?;
    mptable::write(memory, vcpus).map_err(too_small)?;
    Ok(loaded.kernel_load)
}
