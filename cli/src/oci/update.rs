//! The limits of `update`: from a file, or from flags.

use std::{io::Read, path::Path};

use mote_runtime::{Error, Kind, named_file};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::args::UpdateFlags;

pub(super) fn resources(flags: &UpdateFlags) -> Result<LinuxResources, Error> {
    if let Some(path) = &flags.resources {
        return read(path);
    }
    let mut resources = LinuxResources::default();
    let mut memory = LinuxMemory::default();
    let size = |text: &Option<String>| text.as_deref().map(parse_size).transpose();
    memory.set_limit(size(&flags.memory)?);
    memory.set_reservation(size(&flags.memory_reservation)?);
    memory.set_swap(size(&flags.memory_swap)?);
    resources.set_memory(Some(memory));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(flags.cpu_shares);
    cpu.set_quota(flags.cpu_quota);
    cpu.set_period(flags.cpu_period);
    cpu.set_cpus(flags.cpuset_cpus.clone());
    cpu.set_mems(flags.cpuset_mems.clone());
    resources.set_cpu(Some(cpu));
    if let Some(limit) = flags.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = flags.blkio_weight {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        resources.set_block_io(Some(block_io));
    }
    Ok(resources)
}

fn read(path: &Path) -> Result<LinuxResources, Error> {
    let wrong = |error: &dyn std::error::Error| {
        Error::because(Kind::Container, format!("resources {}", path.display()), error)
    };
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut text).map_err(|error| wrong(&error))?;
    } else {
        text = named_file::read(path).map_err(|error| wrong(&error))?;
    }
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

/// Bytes, from a number with `k`, `m`, `g` or `t`; -1 stands for no limit.
fn parse_size(text: &str) -> Result<i64, Error> {
    let wrong = || Error::new(Kind::Container, format!("invalid value for a size: {text:?}"));
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let unit = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match unit.chars().last() {
        Some('k') => (&unit[..unit.len() - 1], 10),
        Some('m') => (&unit[..unit.len() - 1], 20),
        Some('g') => (&unit[..unit.len() - 1], 30),
        Some('t') => (&unit[..unit.len() - 1], 40),
        _ => (unit, 0),
    };
    let number = number.parse::<u64>().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("50M", 50 << 20), ("1g", 1 << 30), ("4096", 4096), ("-1", -1), ("1KiB", 1024)]
        {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "m", "-2", "1.5g", "99999999999t"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
