//! Clocks, as nanoseconds.

use nix::{
    sys::time::TimeValLike,
    time::{ClockId, clock_gettime},
};

fn now(clock: ClockId) -> u64 {
    // These clocks exist on every Linux, and their values are positive.
    clock_gettime(clock).map_or(0, |time| u64::try_from(time.num_nanoseconds()).unwrap_or(0))
}

/// The host's `CLOCK_MONOTONIC`, the scale of every timeline.
pub(crate) fn monotonic_ns() -> u64 {
    now(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970.
pub(crate) fn realtime_ns() -> u64 {
    now(ClockId::CLOCK_REALTIME)
}

/// The CPU time that this process has used.
pub(crate) fn process_cpu_ns() -> u64 {
    now(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// An instant on the scale of [`monotonic_ns`].
pub(crate) fn instant_ns(instant: std::time::Instant) -> u64 {
    monotonic_ns().saturating_sub(u64::try_from(instant.elapsed().as_nanos()).unwrap_or(0))
}
