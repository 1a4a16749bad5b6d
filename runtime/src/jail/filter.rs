//! The system calls of the supervisor, a sandbox process's main thread. Those of the other threads are the VMM's.

use mote_vmm::seccomp::{Allowed, Argument, COMMON, Kind, allow, allow_when};
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

/// Leads a command through its life: hears the agent, the caller and signals, and ends the VM.
const LEAD: &[Allowed] = &[
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
];

/// The supervisor of a command.
pub(crate) static SUPERVISOR: Kind = Kind { name: "supervisor", lists: &[COMMON, LEAD] };

/// That of a container, which also serves the control socket. What comes over it is used as it is: nothing is opened for it, no thread
/// started, no socket made.
pub(crate) static CONTAINER_SUPERVISOR: Kind = Kind {
    name: "container supervisor",
    lists: &[
        COMMON,
        LEAD,
        &[
            allow(libc::SYS_accept4), // a command connects
            // Whether a stream that has come blocks.
            allow_when(libc::SYS_fcntl, &[Argument::is(1, libc::F_GETFL.cast_unsigned())]),
            // Whose command it is.
            allow_when(
                libc::SYS_getsockopt,
                &[
                    Argument::is(1, libc::SOL_SOCKET.cast_unsigned()),
                    Argument::is(2, libc::SO_PEERCRED.cast_unsigned()),
                ],
            ),
            allow(libc::SYS_recvmsg), // what it asks for, with the streams that it brings along
            allow(libc::SYS_shutdown), // it does not listen to the answers
            // What kind of file a stream is: by its descriptor, without a name.
            allow_when(libc::SYS_statx, &[Argument::is(2, libc::AT_EMPTY_PATH.cast_unsigned())]),
        ],
    ],
};

#[cfg(test)]
mod tests;
