//! A disk, behind queues that hold anything. The first byte says whether it may be written to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mote_fuzz::{
    Script,
    guest::{Guest, Kind},
};

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let Some(first) = script.byte() else { return };
    let mut guest = Guest::new(Kind::Block { read_only: first % 2 == 0 });
    guest.start();
    guest.run(script);
});
