//! The lists. Each entry has its reason, each list is in the order of the alphabet.
//!
//! What is *not* here is the point: no kind of thread may start a program, a process or a thread, make a socket, map anything
//! executable, change its user, or signal another process; and none but the file server may open a file.

use nix::libc;

use super::{Allowed, Argument, EXECUTABLE, Kind, allow, allow_when};
use crate::virtio::DeviceType;

/// What every thread may do: have memory, wait for other threads, log, end.
pub const COMMON: &[Allowed] = &[
    allow(libc::SYS_brk),           // the heap
    allow(libc::SYS_clock_gettime), // times of log lines, on hosts where they cost a system call
    allow(libc::SYS_close),         // whatever held a descriptor is dropped
    allow(libc::SYS_exit),          // the thread ends
    allow(libc::SYS_exit_group),    // the process ends: a violation
    // Looks whether a descriptor that it closes is open.
    #[cfg(debug_assertions)]
    allow_when(libc::SYS_fcntl, &[Argument::is(1, libc::F_GETFD.cast_unsigned())]),
    allow(libc::SYS_futex),   // locks
    allow(libc::SYS_getpid),  // abort() after a panic
    allow(libc::SYS_gettid),  // abort() after a panic
    allow(libc::SYS_madvise), // the allocator and the end of a thread give memory back
    // The allocator; nobody maps anything executable,
    allow_when(libc::SYS_mmap, &[Argument::lacks(2, EXECUTABLE)]),
    // nor makes it so.
    allow_when(libc::SYS_mprotect, &[Argument::lacks(2, EXECUTABLE)]),
    allow(libc::SYS_mremap),          // a large buffer grows
    allow(libc::SYS_munmap),          // the allocator, the end of a thread
    allow(libc::SYS_restart_syscall), // a wait goes on after the process was stopped
    allow(libc::SYS_rt_sigprocmask),  // the end of a thread, abort()
    allow(libc::SYS_rt_sigreturn),    // a signal handler ends
    allow(libc::SYS_sched_yield),     // the standard library's channels
    allow(libc::SYS_sigaltstack),     // the end of a thread
    // abort() after a panic.
    allow_when(libc::SYS_tgkill, &[Argument::is(2, libc::SIGABRT.cast_unsigned())]),
    allow(libc::SYS_write), // log lines, event descriptors
];

/// `KVM_RUN`, `_IO(0xae, 0x80)` of `linux/kvm.h`.
const KVM_RUN: u32 = 0xae80;

/// `KVM_SIGNAL_MSI`, `_IOW(0xae, 0xa5, struct kvm_msi)`.
const KVM_SIGNAL_MSI: u32 = 0x4020_aea5;

/// What a device under KVM interrupts its guest with.
const INTERRUPTS: &[Allowed] = &[allow_when(libc::SYS_ioctl, &[Argument::is(1, KVM_SIGNAL_MSI)])];

/// A vCPU: runs the guest, answers its register accesses. A reset of a device drops what the device held.
pub static VCPU: Kind = Kind {
    name: "vCPU",
    lists: &[
        COMMON,
        &[
            allow(libc::SYS_epoll_ctl),  // a reset socket device forgets its descriptors
            allow(libc::SYS_epoll_wait), // and what was still to be told of them
            allow_when(libc::SYS_ioctl, &[Argument::is(1, KVM_RUN)]),
            allow(libc::SYS_poll), // waits for room in the kernel log's file, if that is a pipe
            allow(libc::SYS_preadv2), // and others what they left to be done, in an event descriptor
            allow(libc::SYS_shutdown), // ends their streams
        ],
    ],
};

/// What devices do, whoever calls them: read and write descriptors that they were given.
const DEVICE: &[Allowed] = &[
    allow(libc::SYS_epoll_ctl),  // the socket device watches a stream
    allow(libc::SYS_epoll_wait), // wait for the guest and for streams
    allow(libc::SYS_fdatasync),  // the guest flushes its disk
    allow(libc::SYS_preadv2),    // the guest reads its disk; event descriptors
    allow(libc::SYS_pwritev2),   // the guest writes its disk
    allow(libc::SYS_read),       // event descriptors
    allow(libc::SYS_readv),      // a stream, from a pipe, a terminal or a file
    allow(libc::SYS_recvmsg),    // a stream, from a socket
    allow(libc::SYS_sendmmsg),   // a stream, to a socket, 32 KiB at a time
    allow(libc::SYS_sendmsg),    // and what is less
    allow(libc::SYS_shutdown),   // a stream's direction ends
    allow(libc::SYS_writev),     // a stream, to a pipe, a terminal or a file
];

/// The device loop under KVM.
pub static DEVICES: Kind = Kind { name: "device", lists: &[COMMON, DEVICE, INTERRUPTS] };

/// A device behind QEMU. Its messages come over a socket, with descriptors: guest memory, to be mapped.
pub static VHOST_USER: Kind = Kind {
    name: "vhost-user",
    lists: &[
        COMMON,
        DEVICE,
        &[
            allow(libc::SYS_poll), // wait for QEMU and for notifications
        ],
    ],
};

/// What the file server does: open, change and list what is shared, all of it by open folders and single names in them.
const FILES: &[Allowed] = &[
    allow(libc::SYS_copy_file_range), // the guest copies within a share
    allow(libc::SYS_fallocate),       // the guest reserves room
    allow(libc::SYS_fchmodat),        // the guest changes permissions
    allow(libc::SYS_fchownat),        // the guest changes owners
    allow(libc::SYS_fdatasync),       // the guest flushes a file
    allow(libc::SYS_fstatfs),         // how much room there is
    allow(libc::SYS_fsync),           // the guest flushes a file
    allow(libc::SYS_ftruncate),       // the guest shortens a file
    allow(libc::SYS_getdents64),      // the guest lists a folder
    allow(libc::SYS_getxattr),        // extended attributes
    allow(libc::SYS_linkat),          // the guest makes a link
    allow(libc::SYS_listxattr),       // extended attributes
    allow(libc::SYS_lseek),           // where a list of a folder goes on; data and holes
    allow(libc::SYS_mkdirat),         // the guest makes a folder
    allow(libc::SYS_mknodat), // the guest makes a pipe, a socket, a device node: a name, which is never opened
    allow(libc::SYS_openat),  // the guest opens a file or folder
    allow(libc::SYS_preadv2), // the guest reads; event descriptors
    allow(libc::SYS_pwritev2), // the guest writes
    allow(libc::SYS_readlinkat), // the guest reads a link
    allow(libc::SYS_removexattr), // extended attributes
    allow(libc::SYS_renameat2), // the guest renames
    allow(libc::SYS_setxattr), // extended attributes
    allow(libc::SYS_statx),   // what a file is
    allow(libc::SYS_symlinkat), // the guest makes a symbolic link
    allow(libc::SYS_umask),   // the guest's mask has been applied
    allow(libc::SYS_unlinkat), // the guest removes a name
    allow(libc::SYS_utimensat), // the guest sets times
];

/// The file server under KVM.
pub static FILE_SERVER: Kind = Kind {
    name: "file server",
    lists: &[
        COMMON,
        FILES,
        INTERRUPTS,
        &[
            allow(libc::SYS_epoll_wait), // wait for the guest
            allow(libc::SYS_read),       // event descriptors
        ],
    ],
};

/// The file server behind QEMU.
pub static VHOST_USER_FILE_SERVER: Kind = Kind {
    name: "vhost-user file server",
    lists: &[
        COMMON,
        FILES,
        &[
            allow(libc::SYS_poll),    // wait for QEMU and for notifications
            allow(libc::SYS_recvmsg), // QEMU's requests
            allow(libc::SYS_sendmsg), // answers
        ],
    ],
};

/// The kind of the thread that works for a device, here or behind QEMU.
pub(crate) fn of_device(device_type: DeviceType, vhost_user: bool) -> &'static Kind {
    match (device_type, vhost_user) {
        (DeviceType::Fs, false) => &FILE_SERVER,
        (DeviceType::Fs, true) => &VHOST_USER_FILE_SERVER,
        (_, false) => &DEVICES,
        (_, true) => &VHOST_USER,
    }
}

/// Passes on the bytes of one stream, or what connections left behind that are gone.
pub static PUMP: Kind = Kind {
    name: "pump",
    lists: &[
        COMMON,
        &[
            allow(libc::SYS_poll),     // wait until something can be passed on
            allow(libc::SYS_read),     // from what cannot be read without blocking; event descriptors
            allow(libc::SYS_recvfrom), // from the device
            allow(libc::SYS_sendmmsg), // to a socket, what a connection left behind
            allow(libc::SYS_sendmsg),  // and what is less than 32 KiB of it
            allow(libc::SYS_sendto),   // to the device
            allow(libc::SYS_shutdown), // the end of a stream
            allow(libc::SYS_writev),   // to anything else, what a connection left behind
        ],
    ],
};

/// Stays with QEMU: reads what it says, kills it when asked, reaps it.
pub static QEMU: Kind = Kind {
    name: "QEMU",
    lists: &[
        COMMON,
        &[
            allow(libc::SYS_pidfd_send_signal), // QEMU is to end: there is one descriptor of a process, and it is QEMU's
            allow(libc::SYS_poll),              // wait for it to say something, or to end
            allow(libc::SYS_recvfrom),          // what it says
            allow(libc::SYS_sendto),            // have it begin
            allow(libc::SYS_wait4),             // reap it
        ],
    ],
};
