//! Amounts of memory on the command line, as podman writes them: `512m`, `2g`, a bare number is bytes.

use std::{fmt, str::FromStr};

/// Guest RAM comes in pieces of this size, in bytes.
const STEP: u64 = 2 << 20;

/// An amount of guest RAM: at least the least that a VM can have, rounded up to whole pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemorySize(u64);

impl MemorySize {
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = parse(text).ok_or("not a size; write a number with b, k, m or g, as in 512m")?;
        if bytes < mote_vmm::MIN_MEMORY {
            return Err("a VM needs at least 32m".into());
        }
        bytes.checked_next_multiple_of(STEP).map(Self).ok_or_else(|| "too large".into())
    }
}

/// Any amount of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Size {
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map(Self).ok_or_else(|| "not a size; write a number with b, k, m or g, as in 512m".into())
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0 >> 20)
    }
}

/// The bytes that `text` means.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let unit = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match unit.as_bytes().last()? {
        b'k' => (&unit[..unit.len() - 1], 10),
        b'm' => (&unit[..unit.len() - 1], 20),
        b'g' => (&unit[..unit.len() - 1], 30),
        b't' => (&unit[..unit.len() - 1], 40),
        _ => (unit, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The host's memory in bytes, if it tells.
pub(crate) fn of_host() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_podmans_units() {
        for (text, bytes) in [
            ("128m", 128 << 20),
            ("128M", 128 << 20),
            ("128mb", 128 << 20),
            ("128MiB", 128 << 20),
            ("1g", 1 << 30),
            ("131072k", 128 << 20),
            ("134217728", 128 << 20),
            ("134217728b", 128 << 20),
            ("33m", 34 << 20),
        ] {
            assert_eq!(text.parse::<MemorySize>(), Ok(MemorySize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_nonsense_and_too_little() {
        for text in
            ["", "m", "b", "-1m", "1.5g", "12x", "31m", "0", "99999999999999999999", "18014398509481983k"]
        {
            assert!(text.parse::<MemorySize>().is_err(), "{text}");
        }
    }
}
