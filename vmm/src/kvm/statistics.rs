//! What KVM counted while a VM ran: exits by reason, page faults in its tables, and more. Logged when the VM stops, at level debug.
//!
//! KVM shows its counters in a format that describes itself (`Documentation/virt/kvm/api.rst`, `KVM_GET_STATS_FD`), to whoever has
//! the VM, privileged or not. Hosts before Linux 5.14 do not have it.

use std::{
    collections::BTreeMap,
    fs::File,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
};

use kvm_ioctls::{VcpuFd, VmFd};

vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// The header's fields that are needed: `name_size`, `num_desc`, `desc_offset`, `data_offset`, each an u32 at this offset.
const HEADER: [usize; 4] = [4, 8, 16, 20];
const HEADER_LEN: usize = 24;
/// A descriptor's fixed part: flags (u32), exponent (i16), size (u16), offset (u32), bucket size (u32). A name follows.
const DESCRIPTOR_LEN: usize = 16;
/// Of a descriptor's flags: what kind of number it is, and its unit. A plain count that only grows is 0 in both.
const KIND_AND_UNIT: u32 = 0xff;
/// More than KVM has ever shown: 100 counters with names of 48 bytes are 7 KiB.
const MOST: usize = 1 << 20;

/// The counters of a VM and its vCPUs.
pub(super) struct Statistics(Vec<File>);

impl Statistics {
    /// Empty if this host does not tell.
    pub(super) fn of(vm: &VmFd, vcpus: &[VcpuFd]) -> Self {
        let sources = [vm.as_raw_fd()].into_iter().chain(vcpus.iter().map(AsRawFd::as_raw_fd));
        let open = |fd| {
            // SAFETY: the descriptor is open, borrowed from its owner, and this call takes no argument.
            let counters = unsafe { nix::libc::ioctl(fd, KVM_GET_STATS_FD()) };
            // SAFETY: a result that is not negative is a new descriptor that belongs to nobody else.
            (counters >= 0).then(|| unsafe { File::from_raw_fd(counters) })
        };
        Self(sources.filter_map(open).collect())
    }

    /// Writes the counters that are not 0 to the log, those of all vCPUs added up.
    pub(super) fn log(&self) {
        let mut all = BTreeMap::new();
        for file in &self.0 {
            for (name, value) in read(file).unwrap_or_default() {
                *all.entry(name).or_insert(0u64) += value;
            }
        }
        let counters: Vec<_> = all
            .iter()
            .filter(|(_, value)| **value > 0)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        tracing::debug!(counters = counters.join(" "), "KVM counted");
    }
}

fn read(file: &File) -> Option<Vec<(String, u64)>> {
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0).ok()?;
    let [name_size, count, _, data] = HEADER.map(|offset| number(&header, offset));
    let end = data?.checked_add(count?.checked_mul(name_size?.checked_add(DESCRIPTOR_LEN)?)?)?;
    let mut bytes = vec![0; end.min(MOST)];
    let mut len = 0;
    // The data's length is not announced: up to the end of the file.
    loop {
        if len == bytes.len() {
            bytes.resize((len * 2).clamp(4096, MOST), 0);
        }
        match file.read_at(bytes.get_mut(len..)?, u64::try_from(len).ok()?).ok()? {
            0 => break,
            read => len += read,
        }
    }
    parse(bytes.get(..len)?)
}

/// The plain counts in a statistics file.
fn parse(bytes: &[u8]) -> Option<Vec<(String, u64)>> {
    let [name_size, count, descriptors, data] = HEADER.map(|offset| number(bytes, offset));
    let (name_size, count, descriptors, data) = (name_size?, count?, descriptors?, data?);
    let mut counts = Vec::new();
    for index in 0..count {
        let start = descriptors.checked_add(index.checked_mul(name_size + DESCRIPTOR_LEN)?)?;
        let descriptor = bytes.get(start..start.checked_add(name_size + DESCRIPTOR_LEN)?)?;
        let flags = u32::from_le_bytes(*descriptor.first_chunk()?);
        let values = u16::from_le_bytes([*descriptor.get(6)?, *descriptor.get(7)?]);
        if flags & KIND_AND_UNIT != 0 || values != 1 {
            continue;
        }
        let name = descriptor.get(DESCRIPTOR_LEN..)?.split(|byte| *byte == 0).next()?;
        let place = data.checked_add(number(descriptor, 8)?)?;
        let value = u64::from_le_bytes(*bytes.get(place..)?.first_chunk()?);
        counts.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    Some(counts)
}

fn number(bytes: &[u8], offset: usize) -> Option<usize> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as KVM shows it: each counter with its flags.
    fn file(counters: &[(&str, u32, u64)]) -> Vec<u8> {
        const NAME: usize = 16;
        let count = u32::try_from(counters.len()).unwrap();
        let data = 32 + count * 32;
        let header = [0, 16, count, 24, 32, data];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        bytes.extend(b"kvm-1\0\0\0");
        for (index, (name, flags, _)) in (0u32..).zip(counters) {
            bytes.extend(flags.to_le_bytes());
            bytes.extend([0, 0, 1, 0]);
            bytes.extend((index * 8).to_le_bytes());
            bytes.extend([0; 4]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(NAME, 0);
            bytes.extend(padded);
        }
        bytes.extend(counters.iter().flat_map(|(.., value)| value.to_le_bytes()));
        bytes
    }

    #[test]
    fn counts_are_taken_and_other_numbers_left() {
        let bytes =
            file(&[("exits", 0, 17), ("a gauge", 1, 3), ("some seconds", 0x20, 4), ("io_exits", 0, 5)]);
        assert_eq!(parse(&bytes).unwrap(), [("exits".to_owned(), 17), ("io_exits".to_owned(), 5)]);
    }

    #[test]
    fn a_file_that_is_cut_off_is_no_panic() {
        let bytes = file(&[("exits", 0, 17), ("io_exits", 0, 5)]);
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), None, "{len}");
        }
    }
}
