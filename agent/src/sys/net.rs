//! vsock streams to the host, and the loopback device.

use rustix::{
    fd::OwnedFd,
    io::{Errno, Result},
    ioctl::{Setter, ioctl},
    net::{
        AddressFamily, SocketFlags, SocketType,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    },
};

/// `VMADDR_CID_HOST`.
const HOST_CID: u32 = 2;

/// `struct sockaddr_vm` of `linux/vm_sockets.h`.
#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

// SAFETY: `with_sockaddr` passes a pointer to a whole `sockaddr_vm`, its length, and a family that matches.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        const LENGTH: u8 = 16;
        const { assert!(size_of::<VsockAddress>() == LENGTH as usize) };
        f((&raw const *self).cast(), SocketAddrLen::from(LENGTH))
    }
}

/// Opens a vsock stream to a port of the host's and waits until it is connected.
///
/// # Errors
/// Those of `socket(2)` and `connect(2)`.
pub fn connect(port: u32) -> Result<OwnedFd> {
    open(port, SocketFlags::CLOEXEC)
}

/// Begins to open a non-blocking vsock stream to a port of the host's. It is connected once it is writable and its
/// `SO_ERROR` is 0.
///
/// # Errors
/// Those of `socket(2)` and `connect(2)`.
pub fn start_connect(port: u32) -> Result<OwnedFd> {
    open(port, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

fn open(port: u32, flags: SocketFlags) -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    let family = AddressFamily::VSOCK.as_raw();
    let address = VsockAddress { family, reserved: 0, port, cid: HOST_CID, flags: 0, zero: [0; 3] };
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// `struct ifreq`, with flags.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Brings `lo` of this network namespace up.
///
/// # Errors
/// Those of `socket(2)` and of the `SIOCSIFFLAGS` request.
pub fn raise_loopback() -> Result<()> {
    const SIOCSIFFLAGS: u32 = 0x8914;
    const IFF_UP: u16 = 1;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    let request = InterfaceFlags { name, flags: IFF_UP, rest: [0; 22] };
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which is 40 bytes long, as this structure is.
    unsafe { ioctl(&socket, Setter::<SIOCSIFFLAGS, InterfaceFlags>::new(request)) }
}
