//! What a guest says to the host: frames in pieces, and events. The first byte says how long the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mote_protocol::{Assembler, Event, HEADER_LEN, Hello, limits};

fuzz_target!(|input: &[u8]| {
    let Some((piece, stream)) = input.split_first() else { return };
    let mut assembler = Assembler::new(vec![0; HEADER_LEN + limits::MAX_EVENT]);
    let mut rest = stream;
    while !rest.is_empty() {
        let spare = assembler.spare();
        assert!(!spare.is_empty(), "an assembler that has no room will never have any");
        let count = rest.len().min(spare.len()).min(usize::from(*piece) + 1);
        spare[..count].copy_from_slice(&rest[..count]);
        assembler.filled(count);
        rest = &rest[count..];
        loop {
            match assembler.next_frame() {
                Ok(Some(frame)) => {
                    let _ = Hello::peek_version(frame.body);
                    let Ok(event) = Event::decode(frame) else { continue };
                    let mut bytes = [0; HEADER_LEN + limits::MAX_EVENT];
                    let len = event.encode(frame.id, &mut bytes).expect("what arrived has room");
                    let mut again = Assembler::new(bytes);
                    again.filled(len);
                    let frame = again.next_frame().expect("a frame").expect("a whole frame");
                    assert_eq!(Event::decode(frame), Ok(event));
                }
                Ok(None) => break,
                Err(_) => {}
            }
        }
    }
});
