//! Where something was measured, so that figures are not taken for those of another machine.

use std::fs;

use serde::Serialize;

/// The host of a measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Host {
    /// The version of `mote`.
    pub(crate) mote: &'static str,
    /// The host's kernel.
    pub(crate) kernel: String,
    /// The processor, in its maker's words.
    pub(crate) processor: String,
    /// How many of them.
    pub(crate) cpus: usize,
    /// In MiB.
    pub(crate) memory_mib: u64,
}

impl Host {
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let model = info.lines().find(|line| line.starts_with("model name"));
        Self {
            mote: env!("CARGO_PKG_VERSION"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model
                .and_then(|line| line.split_once(':'))
                .map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            memory_mib: crate::memory::of_host().unwrap_or(0) >> 20,
        }
    }

    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        format!(
            "mote {} on Linux {}, {} x {}, {} MiB",
            self.mote, self.kernel, self.cpus, self.processor, self.memory_mib
        )
    }
}
