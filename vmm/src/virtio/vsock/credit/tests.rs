//! Counters of guests that count well, and of guests that lie.

#![allow(clippy::cast_possible_truncation, reason = "small numbers, in tests")]

use proptest::prelude::*;

use super::*;

#[test]
fn nothing_may_come_before_the_guest_was_told() {
    let mut granted = Granted::default();
    assert_eq!(granted.window(), 0);
    assert!(!granted.take(1) && granted.take(0));
    assert_eq!(granted.tell(), (BUF_ALLOC, 0));
    assert_eq!(granted.window(), BUF_ALLOC);
}

#[test]
fn a_guest_may_send_what_it_was_told_and_not_a_byte_more() {
    let mut granted = Granted::default();
    granted.tell();
    assert!(!granted.take(BUF_ALLOC + 1) && !granted.take(u32::MAX));
    assert!(granted.take(BUF_ALLOC));
    assert!(!granted.take(1));
    // What has left counts once the guest knows.
    granted.forward(100);
    assert!(!granted.take(1));
    assert_eq!(granted.tell(), (BUF_ALLOC, 100));
    assert!(granted.take(100) && !granted.take(1));
}

#[test]
fn no_more_leaves_than_came() {
    let mut granted = Granted::default();
    granted.tell();
    assert!(granted.take(10));
    granted.forward(usize::MAX);
    assert_eq!(granted.tell(), (BUF_ALLOC, 10));
    assert_eq!(granted.window(), BUF_ALLOC);
}

#[test]
fn an_update_is_due_when_half_of_the_buffer_is_hidden() {
    let mut granted = Granted::default();
    assert!(!granted.update_due(BUF_ALLOC));
    granted.tell();
    assert!(granted.take(BUF_ALLOC / 2) && !granted.update_due(BUF_ALLOC));
    granted.forward(1);
    assert!(!granted.update_due(BUF_ALLOC), "half is still open");
    assert!(granted.take(1) && granted.update_due(BUF_ALLOC));
    granted.tell();
    assert!(!granted.update_due(BUF_ALLOC), "all there is to say was said");
}

#[test]
fn an_update_comes_in_time_for_a_guest_with_a_small_buffer() {
    let mut granted = Granted::default();
    granted.tell();
    assert!(granted.take(1000));
    granted.forward(1000);
    assert!(granted.update_due(1000) && !granted.update_due(2000));
    assert!(granted.update_due(0), "one that says nothing of use is told all");
}

#[test]
fn counters_wrap_around() {
    let start = u32::MAX - 10;
    let mut granted = Granted { received: start, forwarded: start, told: Some(start) };
    assert!(granted.take(100));
    granted.forward(100);
    assert_eq!(granted.tell(), (BUF_ALLOC, 89));
    assert_eq!(granted.window(), BUF_ALLOC);

    let mut peer = Peer { buf_alloc: 1000, forwarded: start, sent: start };
    peer.send(400);
    assert_eq!(peer.window(), 600);
    peer.update(1000, 389);
    assert_eq!(peer.window(), 1000);
}

#[test]
fn a_guest_that_lies_gets_nothing() {
    let mut peer = Peer::default();
    assert_eq!(peer.window(), 0, "it has not said anything");
    peer.update(1000, 0);
    peer.send(600);
    assert_eq!(peer.window(), 400);
    for (what, buf_alloc, fwd_cnt) in [
        ("no buffer", 0, 0),
        ("less than what is on its way", 599, 0),
        ("exactly that", 600, 0),
        ("consumed what was not sent", 1000, 601),
        ("far ahead", 1000, 1 << 31),
        ("not even what was sent before", 600, u32::MAX),
    ] {
        peer.update(buf_alloc, fwd_cnt);
        assert_eq!(peer.window(), 0, "{what}");
    }
    peer.update(u32::MAX, 600);
    assert_eq!(peer.window(), u32::MAX, "the guest's own memory; what is sent at once has other bounds");
    peer.update(1000, 600);
    assert_eq!(peer.window(), 1000, "and it can come back to its senses");
}

#[derive(Debug, Clone)]
enum Step {
    Take(u32),
    Forward(usize),
    Tell,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop_oneof![0..BUF_ALLOC * 2, any::<u32>()].prop_map(Step::Take),
        prop_oneof![0_usize..300_000, any::<usize>()].prop_map(Step::Forward),
        Just(Step::Tell),
    ]
}

proptest! {
    #[test]
    fn never_more_than_the_buffer_is_in_flight(start in any::<u32>(), steps in prop::collection::vec(step(), 0..60)) {
        let mut granted = Granted { received: start, forwarded: start, told: None };
        let (mut came, mut left) = (0_u64, 0_u64);
        for step in steps {
            match step {
                Step::Take(len) => {
                    if granted.take(len) {
                        came += u64::from(len);
                    }
                }
                Step::Forward(len) => {
                    granted.forward(len);
                    left += (len as u64).min(came - left);
                }
                Step::Tell => {
                    granted.tell();
                }
            }
            prop_assert!(came - left <= BUF_ALLOC.into());
            prop_assert!(u64::from(granted.window()) + (came - left) <= BUF_ALLOC.into());
            prop_assert_eq!(granted.received.wrapping_sub(granted.forwarded), (came - left) as u32);
        }
    }

    #[test]
    fn a_window_is_never_more_than_the_guest_has(
        steps in prop::collection::vec((any::<u32>(), any::<u32>(), 0_u32..100_000), 0..60),
    ) {
        let mut peer = Peer::default();
        for (buf_alloc, fwd_cnt, len) in steps {
            peer.update(buf_alloc, fwd_cnt);
            let window = peer.window();
            prop_assert!(window <= buf_alloc);
            let len = len.min(window);
            peer.send(len);
            prop_assert_eq!(peer.window(), window - len);
        }
    }
}
