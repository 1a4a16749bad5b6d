//! The results of `mote bench io`. Their JSON is described in docs/bench.md.

use serde::Serialize;

use crate::bench::{
    host::Host,
    stats::{Distribution, Summary, mib_per_s, ms},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(super) struct IoReport {
    pub(super) kind: &'static str,
    pub(super) host: Host,
    pub(super) hypervisor: &'static str,
    pub(super) vcpus: u8,
    pub(super) memory_mib: u64,
    pub(super) runs: u32,
    /// What `find` walks over.
    pub(super) files: u32,
    pub(super) rates: Vec<Rate>,
    pub(super) latencies: Vec<Latency>,
}

/// How fast many bytes go.
#[derive(Debug, Serialize)]
pub(super) struct Rate {
    /// What they go through: `vsock`, `stdio`, `block`, `folder`, `file`.
    pub(super) path: &'static str,
    pub(super) what: &'static str,
    /// Whose clock.
    pub(super) side: &'static str,
    /// Of one transfer.
    pub(super) bytes: u64,
    pub(super) call_bytes: u32,
    /// From the median time.
    pub(super) mib_per_s: f64,
    pub(super) slowest_mib_per_s: f64,
    pub(super) fastest_mib_per_s: f64,
    pub(super) time: Summary,
}

impl Rate {
    /// From the nanoseconds of transfers of `bytes` bytes each.
    pub(super) fn new(
        path: &'static str,
        what: &'static str,
        side: &'static str,
        bytes: u64,
        call_bytes: u32,
        ns: impl IntoIterator<Item = u64>,
    ) -> anyhow::Result<Self> {
        let time = Distribution::of(ns)?.summary();
        Ok(Self {
            path,
            what,
            side,
            bytes,
            call_bytes,
            mib_per_s: mib_per_s(bytes, time.median_ns),
            slowest_mib_per_s: mib_per_s(bytes, time.max_ns),
            fastest_mib_per_s: mib_per_s(bytes, time.min_ns),
            time,
        })
    }
}

/// How long one small thing takes.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) path: &'static str,
    pub(super) what: &'static str,
    /// Whose clock.
    pub(super) side: &'static str,
    #[serde(flatten)]
    pub(super) summary: Summary,
}

impl IoReport {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut rates = Table::new(&["MiB/s", "clock", "slowest", "median", "fastest"]);
        for rate in &self.rates {
            rates.line([
                format!("{} {}", rate.path, rate.what),
                rate.side.into(),
                format!("{:.0}", rate.slowest_mib_per_s),
                format!("{:.0}", rate.mib_per_s),
                format!("{:.0}", rate.fastest_mib_per_s),
            ]);
        }
        let mut latencies = Table::new(&["ms", "clock", "min", "median", "p95", "p99", "max"]);
        for latency in &self.latencies {
            let summary = &latency.summary;
            let times = [summary.min_ns, summary.median_ns, summary.p95_ns, summary.p99_ns, summary.max_ns];
            let cells = [format!("{} {}", latency.path, latency.what), latency.side.into()];
            latencies.line(cells.into_iter().chain(times.map(|ns| format!("{:.4}", ms(ns)))));
        }
        format!(
            "{}\n{} vCPU, {} MiB, {}; {} runs; find over {} files\n\n{}\n{}",
            self.host.describe(),
            self.vcpus,
            self.memory_mib,
            self.hypervisor,
            self.runs,
            self.files,
            rates.render(),
            latencies.render()
        )
    }
}
