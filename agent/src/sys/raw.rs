//! The system call instruction.

use rustix::io::{Errno, Result};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the agent's system calls are written for x86_64");

pub(super) const RT_SIGACTION: usize = 13;
pub(super) const RT_SIGPROCMASK: usize = 14;
pub(super) const CLONE: usize = 56;
pub(super) const EXECVE: usize = 59;
pub(super) const KILL: usize = 62;
pub(super) const PERSONALITY: usize = 135;
pub(super) const CLOCK_GETTIME: usize = 228;
pub(super) const EXIT_GROUP: usize = 231;
pub(super) const IOPRIO_SET: usize = 251;
pub(super) const SIGNALFD4: usize = 289;
pub(super) const DUP3: usize = 292;
pub(super) const PRLIMIT64: usize = 302;
pub(super) const SCHED_SETATTR: usize = 314;
pub(super) const SECCOMP: usize = 317;
pub(super) const BPF: usize = 321;
pub(super) const CLOSE_RANGE: usize = 436;
pub(super) const FACCESSAT2: usize = 439;
pub(super) const MOUNT_SETATTR: usize = 442;

/// One system call.
///
/// # Safety
/// `arguments` must be what system call `number` expects. Memory they point to must be valid for what the call does with
/// it, and descriptors that the call closes or replaces must not be owned by anyone.
pub(super) unsafe fn syscall(number: usize, arguments: [usize; 5]) -> Result<usize> {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: the instruction changes rax, rcx and r11 only, which are declared; it uses no stack. What the kernel does
    // with the arguments is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    usize::try_from(result).map_err(|_| {
        // The kernel returns errors as -4095 to -1.
        Errno::from_raw_os_error(i32::try_from(result.wrapping_neg()).unwrap_or(i32::from(u8::MAX)))
    })
}

/// A descriptor as a system call's argument. Descriptors are never negative.
pub(super) fn descriptor(fd: impl rustix::fd::AsRawFd) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap_or(usize::MAX)
}
