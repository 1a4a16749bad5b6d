//! Programs of the kernel's own: seccomp filters, and the device filters of cgroups.

use rustix::{
    fd::BorrowedFd,
    io::{Errno, Result},
};

use super::raw;

/// `struct sock_fprog`.
#[repr(C)]
struct SockProgram {
    len: u16,
    filter: *const u8,
}

/// `seccomp(2)` with `SECCOMP_SET_MODE_FILTER`. `filter` holds whole `struct sock_filter`.
///
/// # Errors
/// `EINVAL` if it does not, or is too long or no valid filter; `EACCES` without privileges.
pub fn set_seccomp(flags: u32, filter: &[u8]) -> Result<()> {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    const INSTRUCTION: usize = 8;
    // The kernel would answer with a new descriptor or a thread's number, which nobody expects.
    const WITH_RESULT: u32 = (1 << 0) | (1 << 3);
    if !filter.len().is_multiple_of(INSTRUCTION) || flags & WITH_RESULT != 0 {
        return Err(Errno::INVAL);
    }
    let len = u16::try_from(filter.len() / INSTRUCTION).map_err(|_| Errno::INVAL)?;
    let program = SockProgram { len, filter: filter.as_ptr() };
    let flags = usize::try_from(flags).map_err(|_| Errno::INVAL)?;
    let pointer = (&raw const program).expose_provenance();
    let _ = program.filter.expose_provenance();
    // SAFETY: the structure lives past the call and points to `len` instructions, which the kernel copies and checks.
    unsafe { raw::syscall(raw::SECCOMP, [SECCOMP_SET_MODE_FILTER, flags, pointer, 0, 0]) }.map(|_| ())
}

/// The part of `union bpf_attr` that loading a program takes; the kernel reads what is left out as zeros.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part that attaching a program to a cgroup takes.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads `program`, whole `struct bpf_insn`, and has it decide which devices the cgroup may use.
///
/// # Errors
/// Those of `bpf(2)`, with the command that failed.
pub fn attach_device_filter(
    cgroup: BorrowedFd<'_>,
    program: &[u8],
) -> core::result::Result<(), (Errno, &'static str)> {
    const BPF_PROG_LOAD: usize = 5;
    const BPF_PROG_ATTACH: usize = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    const INSTRUCTION: usize = 8;
    if !program.len().is_multiple_of(INSTRUCTION) {
        return Err((Errno::INVAL, "BPF_PROG_LOAD"));
    }
    // Instructions of 64-bit immediates apart, the kernel wants them aligned; it copies them first, so it does not mind.
    let load = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len() / INSTRUCTION).unwrap_or(u32::MAX),
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let pointer = (&raw const load).expose_provenance();
    // SAFETY: the structure has the length that is passed, and it, the instructions and the licence live past the call; the
    // kernel only reads them.
    let loaded = unsafe { raw::syscall(raw::BPF, [BPF_PROG_LOAD, pointer, size_of::<Load>(), 0, 0]) };
    let loaded = loaded.map_err(|errno| (errno, "BPF_PROG_LOAD"))?;
    let attach = Attach {
        target: u32::try_from(raw::descriptor(cgroup)).unwrap_or(u32::MAX),
        program: u32::try_from(loaded).unwrap_or(u32::MAX),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    let pointer = (&raw const attach).expose_provenance();
    // SAFETY: as above.
    let attached = unsafe { raw::syscall(raw::BPF, [BPF_PROG_ATTACH, pointer, size_of::<Attach>(), 0, 0]) };
    // The program's descriptor closes on exec, and the cgroup keeps the program.
    attached.map(|_| ()).map_err(|errno| (errno, "BPF_PROG_ATTACH"))
}
