//! Guest RAM: private anonymous memory, touched only when it is used.
//!
//! Each range starts at a multiple of 2 MiB and asks for huge pages: a guest that boots touches its memory for the first
//! time all over, and a fault through two levels of page tables is what costs most of that time.
//!
//! Parts of files can be mapped over it. Such a mapping is private too: what the guest writes stays its own.

use std::{fs::File, io, num::NonZeroUsize};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::{
    Error, Memory,
    arch::{MapFile, layout},
};

const HUGE_PAGE: usize = 2 << 20;

/// Guest RAM, unmapped when dropped. The views that [`memory`](Self::memory) gives out must be gone by then: the VM joins all
/// threads that hold one before it drops this.
pub(super) struct GuestRam {
    memory: Memory,
    mappings: Vec<Mapping>,
}

impl GuestRam {
    /// `size` bytes, a multiple of 2 MiB.
    pub(super) fn new(size: u64) -> Result<Self, Error> {
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for (start, len) in layout::ram_ranges(size) {
            let mapping = Mapping::new(len).map_err(|error| Error::HostMemory(size, error))?;
            regions.push(mapping.region(start).map_err(|error| Error::HostMemory(size, error))?);
            mappings.push(mapping);
        }
        let memory = GuestMemoryMmap::from_regions(regions)
            .map_err(|error| Error::HostMemory(size, std::io::Error::other(error)))?;
        Ok(Self { memory, mappings })
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }
}

impl MapFile for GuestRam {
    fn map_file(&self, file: &File, offset: u64, address: u64, len: u64) -> io::Result<()> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let low = self.mappings.first().ok_or_else(outside)?;
        let (start, len) = (usize::try_from(address), usize::try_from(len));
        let (Ok(start), Ok(len)) = (start, len) else { return Err(outside()) };
        let size = NonZeroUsize::new(len).ok_or_else(outside)?;
        let offset = offset.try_into().map_err(|_| outside())?;
        if start.checked_add(len).is_none_or(|end| end > low.len) {
            return Err(outside());
        }
        let place = low.start.addr().checked_add(start).ok_or_else(outside)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        // SAFETY: the range lies in a mapping that belongs to `self`, and is replaced by another that is read and written like it.
        // Views of guest memory do not care what is in it: they are volatile, and the guest could change it at any time.
        unsafe { mmap(Some(place), size, prot, flags, file, offset) }?;
        Ok(())
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        for mapping in &self.mappings {
            // SAFETY: the range was mapped by `Mapping::new` and is unmapped once; see the type for who may still use it.
            if let Err(error) = unsafe { munmap(mapping.start, mapping.len) } {
                tracing::error!(%error, "guest memory cannot be unmapped");
            }
        }
    }
}

struct Mapping {
    start: std::ptr::NonNull<std::ffi::c_void>,
    len: usize,
}

// SAFETY: the pointer is an address range that belongs to this value alone; no thread dereferences it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: u64) -> std::io::Result<Self> {
        let too_large = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let len = usize::try_from(len).map_err(|_| too_large())?;
        let reserved = len.checked_add(HUGE_PAGE).and_then(NonZeroUsize::new).ok_or_else(too_large)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no other memory.
        let base =
            unsafe { mmap_anonymous(None, reserved, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        let head = base.as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: `head` is less than `HUGE_PAGE`, so the result and the `len` bytes behind it lie in the mapping.
        let start = unsafe { base.byte_add(head) };
        let tail = HUGE_PAGE - head;
        // SAFETY: both ranges are parts of the mapping just made that nobody knows of; what is left is `len` bytes at `start`.
        unsafe {
            if head > 0 {
                munmap(base, head)?;
            }
            munmap(start.byte_add(len), tail)?;
        }
        // SAFETY: the range is ours; the advice changes no contents. Hosts without huge pages refuse it, which is fine.
        let _ = unsafe { madvise(start, len, MmapAdvise::MADV_HUGEPAGE) };
        // What a guest has in its memory does not belong into a core file of the host's. It is also what tells guest RAM from
        // everything else in `/proc/PID/smaps`.
        // SAFETY: as above.
        unsafe { madvise(start, len, MmapAdvise::MADV_DONTDUMP) }?;
        Ok(Self { start, len })
    }

    fn region(&self, guest_start: u64) -> std::io::Result<GuestRegionMmap<()>> {
        let prot = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).bits();
        let flags = (MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | MapFlags::MAP_NORESERVE).bits();
        // SAFETY: the range is mapped like this, and stays so until `GuestRam` is dropped.
        let region = unsafe { MmapRegion::build_raw(self.start.as_ptr().cast(), self.len, prot, flags) }
            .map_err(std::io::Error::other)?;
        GuestRegionMmap::new(region, GuestAddress(guest_start))
            .ok_or_else(|| std::io::Error::other("guest memory would wrap around"))
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemory, GuestMemoryRegion};

    use super::*;

    #[test]
    fn leaves_the_hole_for_devices() {
        let ram = GuestRam::new(4 << 30).unwrap();
        let ranges: Vec<_> = ram.memory().iter().map(|r| (r.start_addr().0, r.len())).collect();
        assert_eq!(ranges, [(0, layout::MMIO_START), (layout::ABOVE_4G, (4 << 30) - layout::MMIO_START)]);
        assert!(ram.memory().iter().all(|r| r.as_ptr().align_offset(HUGE_PAGE) == 0));
    }

    #[test]
    fn every_byte_is_there() {
        let ram = GuestRam::new(32 << 20).unwrap();
        for address in [0, (32 << 20) - 8] {
            ram.memory().write_obj(7u64, GuestAddress(address)).unwrap();
            assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(address)).unwrap(), 7);
        }
        assert!(ram.memory().write_obj(0u64, GuestAddress((32 << 20) - 7)).is_err());
    }

    #[test]
    fn shows_a_file_and_keeps_it_as_it_is() {
        use std::{io::Write, os::unix::fs::FileExt};

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * 4096]).unwrap();
        let ram = GuestRam::new(32 << 20).unwrap();
        ram.map_file(&file, 4096, 1 << 20, 8192).unwrap();
        let at = |offset: u64| GuestAddress((1 << 20) + offset);
        assert_eq!(ram.memory().read_obj::<u8>(at(8191)).unwrap(), 7);
        assert_eq!(ram.memory().read_obj::<u8>(at(8192)).unwrap(), 0, "nothing behind it");
        ram.memory().write_obj(9u8, at(0)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [7], "the guest's writes do not reach the file");
    }

    #[test]
    fn refuses_to_map_outside_of_low_memory() {
        let file = tempfile::tempfile().unwrap();
        let ram = GuestRam::new(32 << 20).unwrap();
        for (address, len) in [(32 << 20, 4096), ((32 << 20) - 4096, 8192), (u64::MAX, 4096), (0, 0)] {
            assert!(ram.map_file(&file, 0, address, len).is_err(), "{address:#x} {len}");
        }
    }
}
