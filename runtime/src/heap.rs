//! The memory of processes of which there are as many as there are machines.
//!
//! **Callers:** who starts a sandbox process, before; its main thread, at its start, and when everything is set up.

use nix::libc;

/// Has all threads share one heap: each would get its own, with pages that nobody else uses. They allocate little, and seldom at once.
pub(crate) fn share() {
    // SAFETY: sets a number in the allocator, before there is a second thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives back what only the start needed: the command line's description, filters on their way to the kernel, the order, what was read
/// from files.
pub(crate) fn trim() {
    // SAFETY: gives back what is free; may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
