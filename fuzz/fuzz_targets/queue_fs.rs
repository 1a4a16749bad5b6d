//! The file system device, behind queues that hold anything: whatever is asked for, nothing outside of what is shared is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mote_fuzz::{
    Script,
    guest::{Guest, Kind},
};

fuzz_target!(|input: &[u8]| {
    let mut guest = Guest::new(Kind::Fs);
    guest.start();
    guest.run(Script::new(input));
});
