//! The meter: what runs in the guest for `mote bench io`. An ELF file like the agent's, beside it and never with it.
//!
//! Without arguments it is `/init`: it makes `/dev`, connects to the host and serves tasks over that stream. With an argument it
//! is a command, and serves them over standard input and output.

#![no_std]
#![no_main]

#[path = "../sys/memory.rs"]
mod memory;
#[path = "../sys/meter_start.rs"]
mod start;

use mote_agent::{
    guest, meter,
    sys::{self, Errno, process::standard_streams},
};
use mote_protocol::meter::PORT;

fn run(is_init: bool, room: &mut meter::Room<'_>) -> ! {
    if is_init {
        match serve_as_init(room) {
            Ok(()) => guest::die("the host has no more tasks", 0),
            Err((errno, step)) => guest::die(step, errno.raw_os_error().unsigned_abs()),
        }
    }
    let [input, output, _] = standard_streams();
    match meter::serve(input, output, room) {
        Ok(()) => sys::process::exit(0),
        Err(errno) => sys::process::exit(errno.raw_os_error()),
    }
}

fn serve_as_init(room: &mut meter::Room<'_>) -> Result<(), (Errno, &'static str)> {
    guest::mount_devices().map_err(|errno| (errno, "mount /dev"))?;
    let host = sys::net::connect(PORT).map_err(|errno| (errno, "connect"))?;
    let host = rustix::fd::AsFd::as_fd(&host);
    meter::serve(host, host, room).map_err(|errno| (errno, "serve"))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    guest::die(file, line)
}
