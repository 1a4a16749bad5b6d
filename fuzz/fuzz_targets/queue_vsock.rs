//! The socket device, behind queues that hold anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mote_fuzz::{
    Script,
    guest::{Guest, Kind},
};

fuzz_target!(|input: &[u8]| {
    let mut guest = Guest::new(Kind::Vsock);
    guest.start();
    guest.run(Script::new(input));
});
