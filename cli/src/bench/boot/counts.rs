//! What is counted during a start, in one start of its own: counting costs time.
//!
//! VM exits come from KVM, through the sandbox process's log: KVM tells them to nobody but the process that has the VM. Page faults are
//! those of all processes of the start, as the host adds them up when they are waited for.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use super::subject::{Kind, Subject};

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// KVM's counters that are not 0. None if the host does not tell, or QEMU runs the machine.
    pub(super) kvm: Option<BTreeMap<String, u64>>,
    /// Page faults that were served from memory.
    pub(super) minor_faults: u64,
    /// Page faults that had to wait for a disk.
    pub(super) major_faults: u64,
}

/// The line of the log in which KVM's counters stand.
#[derive(Deserialize)]
struct LogLine {
    msg: String,
    #[serde(default)]
    counters: String,
}

/// Counts during one start. None for a rival.
pub(super) fn count(subject: &Subject, limit: Duration) -> anyhow::Result<Option<Counts>> {
    if matches!(subject.kind, Kind::Rival { .. }) {
        return Ok(None);
    }
    let faults = || -> anyhow::Result<[u64; 2]> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot read the use of resources")?;
        Ok([u64::try_from(usage.minor_page_faults())?, u64::try_from(usage.major_page_faults())?])
    };
    let before = faults()?;
    let log = subject.start_with_log(limit)?;
    let after = faults()?;
    Ok(Some(Counts {
        kvm: counters(&log),
        minor_faults: after[0].saturating_sub(before[0]),
        major_faults: after[1].saturating_sub(before[1]),
    }))
}

/// KVM's counters in a log.
fn counters(log: &str) -> Option<BTreeMap<String, u64>> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<LogLine>(line).ok());
    let line = lines.into_iter().find(|line| line.msg == "KVM counted" && !line.counters.is_empty())?;
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    line.counters.split(' ').map(pair).collect()
}

impl Counts {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("page faults: {} minor, {} major; ", self.minor_faults, self.major_faults);
        match &self.kvm {
            None => text.push_str("VM exits: this host does not tell"),
            Some(counters) => {
                let exits = counters.get("exits").copied().unwrap_or(0);
                let _ = write!(text, "VM exits: {exits}");
                let reasons = counters.iter().filter(|(name, _)| name.ends_with("_exits"));
                for (name, count) in reasons {
                    let _ = write!(text, ", {} {count}", name.trim_end_matches("_exits").replace('_', " "));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_in_the_log() {
        let log = "not JSON\n{\"level\":\"debug\",\"msg\":\"something else\"}\n\
                   {\"counters\":\"exits=12 io_exits=7 irq_window_exits=2\",\"level\":\"debug\",\"msg\":\"KVM counted\"}\n";
        let counts = Counts { kvm: counters(log), minor_faults: 5, major_faults: 0 };
        assert_eq!(counts.text(), "page faults: 5 minor, 0 major; VM exits: 12, io 7, irq window 2");
    }

    #[test]
    fn a_host_that_does_not_tell_is_no_zero() {
        for log in ["", "{\"msg\":\"KVM counted\",\"counters\":\"\"}"] {
            let counts = Counts { kvm: counters(log), minor_faults: 5, major_faults: 0 };
            assert_eq!(counts.kvm, None);
            assert!(counts.text().contains("does not tell"));
        }
    }
}
