//! The system calls of the supervisor, a sandbox process's main thread. Those of the other threads are the VMM's.

use mote_vmm::seccomp::{Argument, COMMON, Kind, allow, allow_when};
use nix::libc;

/// `ioctl` with this request.
macro_rules! ioctl {
    ($request:expr) => {
        allow_when(libc::SYS_ioctl, &[Argument::is(1, request($request))])
    };
}

/// A request of `ioctl`, of which the kernel looks at 32 bits.
const fn request(request: libc::Ioctl) -> u32 {
    #[allow(clippy::cast_possible_truncation)]
    let request = request as u32;
    request
}

/// Leads the command through its life: hears the agent, the caller and signals, and ends the VM.
pub(crate) static SUPERVISOR: Kind = Kind {
    name: "supervisor",
    lists: &[
        COMMON,
        &[
            allow(libc::SYS_dup2),     // the standard streams are let go at the end
            ioctl!(libc::TCGETS),      // the terminal, to be
            ioctl!(libc::TCSETSW),     // set to raw mode and back
            ioctl!(libc::TIOCGWINSZ),  // and its size
            allow(libc::SYS_poll),     // wait
            allow(libc::SYS_pread64),  // what KVM counted, for `--debug`
            allow(libc::SYS_read),     // signals, event descriptors
            allow(libc::SYS_recvfrom), // the agent, the caller
            allow(libc::SYS_sendto),   // the same
            // Has a vCPU thread leave the guest.
            allow_when(libc::SYS_tgkill, &[Argument::is(2, libc::SIGURG.cast_unsigned())]),
        ],
    ],
};
