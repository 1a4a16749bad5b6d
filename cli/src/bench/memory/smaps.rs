//! What a process's memory is made of, from `/proc/PID/smaps`, with guest RAM told from everything else.
//!
//! **How guest RAM is recognised.** Not by its size. On KVM it is the only memory that the process keeps out of core dumps (`dd` in
//! `VmFlags`); pieces of files that are mapped into it lie between two such pieces, without a gap. What was found must add up to the
//! RAM that the machine was given, or nothing is reported. With QEMU it is the one memory file (`/memfd:`) that QEMU shares with the
//! devices.

use anyhow::{Context, ensure};
use serde::Serialize;

/// Amounts of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Amounts {
    /// Resident, whoever else has it.
    pub(crate) rss: u64,
    /// Resident, each page divided by the number of those who have it.
    pub(crate) pss: u64,
    /// Resident here and elsewhere.
    pub(crate) shared: u64,
    /// Resident here alone.
    pub(crate) private: u64,
}

impl Amounts {
    pub(super) fn add(&mut self, other: &Self) {
        self.rss += other.rss;
        self.pss += other.pss;
        self.shared += other.shared;
        self.private += other.private;
    }
}

/// A process's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) guest: Amounts,
    pub(super) own: Amounts,
}

#[derive(Debug, Default)]
struct Mapping {
    start: u64,
    end: u64,
    name: String,
    amounts: Amounts,
    not_dumped: bool,
}

impl Mapping {
    fn is_guest_ram_of_kvm(&self) -> bool {
        self.not_dumped && self.name.is_empty()
    }

    fn is_guest_ram_of_qemu(&self) -> bool {
        self.name.starts_with("/memfd:")
    }
}

/// Splits the memory of a process that runs a machine with `ram` bytes, or, with `None`, of one that has no guest RAM of its own.
pub(super) fn split(smaps: &str, ram: Option<u64>) -> anyhow::Result<Split> {
    let mappings = parse(smaps).context("not the shape of /proc/PID/smaps")?;
    let mut is_guest = vec![false; mappings.len()];
    let mut found = 0;
    let mut start = 0;
    while start < mappings.len() {
        // A run of mappings without gaps.
        let mut end = start + 1;
        while end < mappings.len() && mappings[end].start == mappings[end - 1].end {
            end += 1;
        }
        let run = &mappings[start..end];
        let first = run.iter().position(Mapping::is_guest_ram_of_kvm);
        let last = run.iter().rposition(Mapping::is_guest_ram_of_kvm);
        if let (Some(first), Some(last)) = (first, last) {
            found += run[last].end - run[first].start;
            is_guest[start + first..=start + last].fill(true);
        }
        start = end;
    }
    for (mapping, is_guest) in mappings.iter().zip(&mut is_guest) {
        *is_guest |= mapping.is_guest_ram_of_qemu();
    }
    if let Some(ram) = ram {
        let is_qemu = mappings.iter().any(Mapping::is_guest_ram_of_qemu);
        ensure!(
            is_qemu || found == ram,
            "guest RAM is not recognised: {found} bytes look like it, and the machine has {ram}"
        );
    }
    let mut split = Split::default();
    for (mapping, is_guest) in mappings.iter().zip(is_guest) {
        if is_guest { &mut split.guest } else { &mut split.own }.add(&mapping.amounts);
    }
    Ok(split)
}

fn parse(smaps: &str) -> Option<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let (key, value) = line.split_once(char::is_whitespace)?;
        if let Some((start, end)) = key.split_once('-') {
            let address = |text: &str| u64::from_str_radix(text, 16).ok();
            // Permissions, offset, device, inode; then the name, which may hold blanks, or nothing.
            let name = value.split_whitespace().skip(4).collect::<Vec<_>>().join(" ");
            let (start, end) = (address(start)?, address(end)?);
            mappings.push(Mapping { start, end, name, ..Mapping::default() });
            continue;
        }
        let mapping = mappings.last_mut()?;
        if key == "VmFlags:" {
            mapping.not_dumped = value.split_whitespace().any(|flag| flag == "dd");
            continue;
        }
        let amounts = &mut mapping.amounts;
        let place = match key {
            "Rss:" => &mut amounts.rss,
            "Pss:" => &mut amounts.pss,
            "Shared_Clean:" | "Shared_Dirty:" => &mut amounts.shared,
            "Private_Clean:" | "Private_Dirty:" => &mut amounts.private,
            _ => continue,
        };
        *place += value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    }
    Some(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One mapping as the kernel shows it: range, name, sizes in KiB, flags.
    fn mapping(range: &str, name: &str, pss: u64, flags: &str) -> String {
        format!(
            "{range} rw-p 00000000 00:00 0    {name}\nSize: 4 kB\nRss: {} kB\nPss: {pss} kB\nShared_Clean: {pss} kB\n\
             Shared_Dirty: 0 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: {pss} kB\nTHPeligible:    0\nVmFlags: {flags} \n",
            pss * 2
        )
    }

    #[test]
    fn guest_ram_is_told_by_its_flag_and_what_lies_in_it() {
        let smaps = [
            mapping("00400000-00500000", "/usr/bin/mote", 100, "rd ex mr"),
            mapping("00500000-00600000", "", 1, "rd wr"),
            mapping("00600000-00700000", "", 1000, "rd wr dd hg"),
            mapping("00700000-00800000", "/usr/lib/mote/vmlinux", 2000, "rd wr"),
            mapping("00800000-00a00000", "", 4000, "rd wr dd hg"),
            mapping("00a00000-00b00000", "", 2, "rd wr"),
            mapping("7f000000-7f001000", "[vvar]", 0, "rd mr pf io de dd sd"),
        ]
        .concat();
        let split = split(&smaps, Some(4 << 20)).unwrap();
        assert_eq!(split.guest.pss, 7000 << 10);
        assert_eq!(
            split.own,
            Amounts { rss: 206 << 10, pss: 103 << 10, shared: 103 << 10, private: 103 << 10 }
        );
    }

    #[test]
    fn what_does_not_add_up_is_no_result() {
        let smaps = mapping("00600000-00700000", "", 1000, "rd wr dd hg");
        let error = split(&smaps, Some(2 << 20)).unwrap_err();
        assert!(error.to_string().contains("not recognised"), "{error}");
        assert!(split("nonsense", None).is_err());
        assert!(split(&mapping("00600000-00700000", "", 1, "rd"), None).is_ok());
    }

    #[test]
    fn qemus_guest_ram_is_a_memory_file() {
        let smaps = [
            mapping("00600000-00700000", "/memfd:memory-backend-memfd (deleted)", 50, "rd wr sh dd"),
            mapping("00800000-00900000", "[heap]", 7, "rd wr"),
        ]
        .concat();
        let split = split(&smaps, Some(128 << 20)).unwrap();
        assert_eq!((split.guest.pss, split.own.pss), (50 << 10, 7 << 10));
    }
}
