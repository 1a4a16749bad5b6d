//! What is sent in messages is what would be sent as a whole.

#![allow(clippy::cast_possible_truncation, reason = "bytes, in tests")]

use std::{
    io::{ErrorKind, Read},
    os::{fd::AsFd, unix::net::UnixStream},
};

use proptest::prelude::*;

use super::*;

fn vector(pieces: &mut [Vec<u8>]) -> Vector<'_> {
    let mut vector = Vector::new();
    pieces.iter_mut().for_each(|piece| vector.push(piece.as_mut_slice().into()));
    vector
}

/// Pieces whose bytes tell them apart.
fn pieces(lens: &[usize]) -> Vec<Vec<u8>> {
    let byte = |index: usize, at: usize| ((index * 31 + at * 7 + at / 251) % 256) as u8;
    let piece = |(index, len): (usize, &usize)| (0..*len).map(|at| byte(index, at)).collect();
    lens.iter().enumerate().map(piece).collect()
}

/// Sends all of it, to somebody who reads whenever there is no room.
fn send_all(lens: &[usize]) {
    let mut pieces = pieces(lens);
    let expected = pieces.concat();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (mut vector, mut came) = (vector(&mut pieces), Vec::new());
    while !vector.is_empty() {
        match send(ours.as_fd(), &vector) {
            Ok(sent) => {
                assert!(sent > 0 && sent <= vector.len());
                vector.advance(sent);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                assert_eq!(theirs.read_to_end(&mut came).unwrap_err().kind(), ErrorKind::WouldBlock);
            }
        }
    }
    drop(ours);
    theirs.read_to_end(&mut came).unwrap();
    assert!(came == expected, "{lens:?}");
}

#[test]
fn a_packet_as_linux_sends_it_is_two_messages() {
    for lens in [&[64 << 10][..], &[32 << 10, 32 << 10], &[1000, 32 << 10, 31768]] {
        let mut pieces = pieces(lens);
        let vector = vector(&mut pieces);
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MESSAGE_PIECES];
        // SAFETY: no messages.
        let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { std::mem::zeroed() };
        assert_eq!(cut(vector.pieces(), &mut parts, &mut messages), 2);
        for message in &messages[..2] {
            // SAFETY: `cut` had it point to as many entries of `parts`.
            let parts = unsafe {
                std::slice::from_raw_parts(message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen as _)
            };
            assert_eq!(parts.iter().map(|part| part.iov_len).sum::<usize>(), MESSAGE);
        }
    }
}

#[test]
fn what_has_no_room_is_sent_later() {
    send_all(&[1 << 20]);
    send_all(&[MESSAGE * MESSAGES + 1]);
    send_all(&[40_000; 30]);
    send_all(&[4096; 200]);
    send_all(&[MESSAGE + 1, 1, MESSAGE - 1]);
}

#[test]
fn nobody_who_reads() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let mut pieces = pieces(&[100_000]);
    assert_eq!(send(ours.as_fd(), &vector(&mut pieces)).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_any_length(lens in prop::collection::vec(prop_oneof![0_usize..9, 0_usize..9_000, 0_usize..90_000], 0..80)) {
        send_all(&lens);
    }
}
