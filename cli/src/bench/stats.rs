//! Distributions of durations, and what is said of them.

use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The histogram keeps three digits: a value is off by at most one in a thousand.
const DIGITS: u8 = 3;
/// The longest duration that is told from longer ones, in nanoseconds: an hour.
const MOST: u64 = 3_600_000_000_000;

/// Durations in nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Distribution(Histogram<u64>);

/// What is said of a distribution. Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) min_ns: u64,
    pub(crate) median_ns: u64,
    pub(crate) p95_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}

impl Distribution {
    /// No durations yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, MOST, DIGITS)?))
    }

    /// The distribution of `durations`.
    pub(crate) fn of(durations: impl IntoIterator<Item = u64>) -> anyhow::Result<Self> {
        let mut all = Self::new()?;
        durations.into_iter().for_each(|duration| all.record(duration));
        Ok(all)
    }

    /// Adds a duration; one of 0 counts as 1 ns, one above an hour as an hour.
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    pub(crate) fn summary(&self) -> Summary {
        // The histogram answers with the highest value of a bucket, and that can lie above the largest that was recorded.
        let max = self.0.max();
        let at = |quantile| self.0.value_at_quantile(quantile).min(max);
        Summary {
            count: self.0.len(),
            min_ns: self.0.min(),
            median_ns: at(0.5),
            p95_ns: at(0.95),
            p99_ns: at(0.99),
            max_ns: max,
        }
    }

    /// The values that occurred, in order, each with how often.
    pub(crate) fn values(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

/// Nanoseconds as milliseconds.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The nanoseconds that have passed.
pub(crate) fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// MiB a second, for `bytes` in `ns` nanoseconds.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn mib_per_s(bytes: u64, ns: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 20)) / (ns.max(1) as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) * 1000 <= expected
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let summary = Distribution::of((1..=1000).rev().map(|ms| ms * 1_000_000)).unwrap().summary();
        assert_eq!(summary.count, 1000);
        for (value, expected) in [
            (summary.min_ns, 1_000_000),
            (summary.median_ns, 500_000_000),
            (summary.p95_ns, 950_000_000),
            (summary.p99_ns, 990_000_000),
            (summary.max_ns, 1_000_000_000),
        ] {
            assert!(near(value, expected), "{value} for {expected}");
        }
    }

    #[test]
    fn one_value_is_every_quantile() {
        let summary = Distribution::of([70_123_456]).unwrap().summary();
        let all = [summary.min_ns, summary.median_ns, summary.p95_ns, summary.p99_ns, summary.max_ns];
        assert!(all.iter().all(|value| near(*value, 70_123_456)), "{all:?}");
        assert!(all.is_sorted());
    }

    #[test]
    fn nothing_is_lost_at_the_ends() {
        let summary = Distribution::of([0, u64::MAX]).unwrap().summary();
        assert_eq!((summary.count, summary.min_ns), (2, 1));
        assert!(near(summary.max_ns, MOST));
    }

    #[test]
    fn rates_are_in_binary_units() {
        assert!((mib_per_s(64 << 20, 100_000_000) - 640.0).abs() < 1e-9);
        assert!(mib_per_s(1, 0).is_finite());
    }
}
