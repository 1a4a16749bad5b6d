//! The clock.

use rustix::time::Timespec;

use super::raw;

/// Nanoseconds of `CLOCK_MONOTONIC`.
///
/// A plain system call: it is read a few times in a guest's life, and going through the vDSO costs more code than it
/// saves time.
#[must_use]
pub fn monotonic_ns() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the second argument points to a timespec that lives past the call and is written by it alone.
    let result = unsafe {
        raw::syscall(raw::CLOCK_GETTIME, [CLOCK_MONOTONIC, (&raw mut now).expose_provenance(), 0, 0, 0])
    };
    if result.is_err() {
        return 0;
    }
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
