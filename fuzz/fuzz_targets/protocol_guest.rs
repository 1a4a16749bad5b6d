//! What a host says to the guest: requests, and the programs in them, down to the last string.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mote_protocol::{Assembler, HEADER_LEN, Operation, Operations, ProgramWriter, Request};

/// Inputs are no longer than this.
const ROOM: usize = HEADER_LEN + (1 << 16);

fuzz_target!(|input: &[u8]| {
    let mut assembler = Assembler::new(vec![0; ROOM]);
    let count = input.len().min(ROOM);
    assembler.spare()[..count].copy_from_slice(&input[..count]);
    assembler.filled(count);
    loop {
        match assembler.next_frame() {
            Ok(Some(frame)) => {
                let Ok(request) = Request::decode(frame) else { continue };
                let mut bytes = vec![0; ROOM];
                let len = request.encode(frame.id, &mut bytes).expect("what arrived has room");
                let mut again = Assembler::new(bytes);
                again.filled(len);
                let frame = again.next_frame().expect("a frame").expect("a whole frame");
                assert_eq!(Request::decode(frame), Ok(request));
                if let Request::Run(run) = request {
                    walk(run.program);
                }
            }
            Ok(None) => break,
            Err(_) => {}
        }
    }
});

/// Reads a program, and writes it again.
fn walk(program: Operations<'_>) {
    let mut bytes = vec![0; ROOM];
    let mut writer = ProgramWriter::new(&mut bytes);
    let mut read = Vec::new();
    for operation in program {
        let Ok(operation) = operation else { return };
        match operation {
            Operation::Exec { arguments, environment } => {
                // Each string ends where the next one begins.
                let strings = arguments.iter().chain(environment.iter());
                assert!(strings.map(|text| text.to_bytes_with_nul().len()).sum::<usize>() <= ROOM);
            }
            Operation::SetIds { groups, .. } => assert_eq!(groups.iter().count(), groups.iter().len()),
            _ => {}
        }
        writer.push(&operation).expect("what arrived has room");
        read.push(operation);
    }
    let again: Vec<_> = writer.finish().collect();
    assert!(again.into_iter().eq(read.into_iter().map(Ok)));
}
