//! When a sandbox reached what: the raw material of `--timeline` and of benchmarks.

use serde::{Deserialize, Serialize};

use crate::clock;

/// A moment in the life of a sandbox, in the order in which they usually come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// `main` of `mote` runs: the program was loaded and linked.
    ProcessStarted,
    /// `main` of the sandbox process runs.
    SandboxStarted,
    /// Guest RAM is mapped.
    MemoryReady,
    /// The kernel is in guest RAM.
    KernelLoaded,
    /// The VM exists on the hypervisor.
    VmCreated,
    /// The first vCPU runs.
    FirstEntry,
    /// The kernel has started PID 1. Measured in the guest.
    InitStarted,
    /// The agent's hello has arrived.
    HelloReceived,
    /// The command runs. Measured in the guest.
    CommandStarted,
    /// The command has ended. Measured in the guest.
    CommandEnded,
    /// The last byte of output was passed on.
    Finished,
}

impl Mark {
    /// What happened, in a few words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::ProcessStarted => "process started",
            Self::SandboxStarted => "sandbox process started",
            Self::VmCreated => "VM created",
            Self::MemoryReady => "memory ready",
            Self::KernelLoaded => "kernel loaded",
            Self::FirstEntry => "first vCPU entry",
            Self::InitStarted => "kernel handed over to PID 1",
            Self::HelloReceived => "hello received",
            Self::CommandStarted => "command started",
            Self::CommandEnded => "command ended",
            Self::Finished => "output passed on",
        }
    }
}

impl From<mote_vmm::Milestone> for Mark {
    fn from(milestone: mote_vmm::Milestone) -> Self {
        match milestone {
            mote_vmm::Milestone::VmCreated => Self::VmCreated,
            mote_vmm::Milestone::MemoryReady => Self::MemoryReady,
            mote_vmm::Milestone::KernelLoaded => Self::KernelLoaded,
            mote_vmm::Milestone::FirstEntry => Self::FirstEntry,
        }
    }
}

/// Marks with their times: nanoseconds of the host's `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// When the caller was executed, as exactly as the host tells: the moment its CPU time began.
    pub start: u64,
    /// What was reached when.
    pub marks: Vec<(Mark, u64)>,
}

impl Timeline {
    /// A timeline that begins with this process. Call it first thing in `main`.
    #[must_use]
    pub fn begin() -> Self {
        let now = clock::monotonic_ns();
        Self { start: now.saturating_sub(clock::process_cpu_ns()), marks: vec![(Mark::ProcessStarted, now)] }
    }

    pub(crate) fn add(&mut self, mark: Mark, at_ns: u64) {
        self.marks.push((mark, at_ns));
    }

    pub(crate) fn reached(&mut self, mark: Mark) {
        self.add(mark, clock::monotonic_ns());
    }

    /// The marks in order, each with the nanoseconds since the start and since the mark before it.
    pub fn phases(&self) -> Vec<(Mark, u64, u64)> {
        let mut marks = self.marks.clone();
        marks.sort_by_key(|(mark, at)| (*at, *mark));
        let mut before = self.start;
        let mut phases = Vec::with_capacity(marks.len());
        for (mark, at) in marks {
            phases.push((mark, at.saturating_sub(self.start), at.saturating_sub(before)));
            before = at;
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_whatever_the_order_of_arrival() {
        let timeline = Timeline {
            start: 100,
            marks: vec![(Mark::HelloReceived, 400), (Mark::ProcessStarted, 150), (Mark::InitStarted, 390)],
        };
        let phases = timeline.phases();
        assert_eq!(
            phases,
            [(Mark::ProcessStarted, 50, 50), (Mark::InitStarted, 290, 240), (Mark::HelloReceived, 300, 10)]
        );
        assert_eq!(phases.iter().map(|(_, _, own)| own).sum::<u64>(), 300);
    }
}
