//! The registers of a device that was just switched on, in any order, with any values. The first byte chooses the device.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mote_fuzz::{
    Script,
    guest::{Guest, Kind},
};

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let Some(first) = script.byte() else { return };
    let kind = if first % 2 == 0 { Kind::Vsock } else { Kind::Block { read_only: true } };
    Guest::new(kind).run(script);
});
