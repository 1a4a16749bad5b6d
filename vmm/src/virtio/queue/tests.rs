//! Queues that are what they should be, and queues that are anything else.

#![allow(clippy::cast_possible_truncation, reason = "small numbers, in tests")]

use proptest::prelude::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestMemory};

use super::*;
use crate::virtio::testing::{AFTER_HOLE, END, HOLE, INDIRECT, NEXT, Ring, WRITE, memory};

const SIZE: u16 = 8;
const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const TABLE: u64 = 0x3_0000;

fn pop(queue: &mut Queue, memory: &Memory) -> Result<Option<Chain>, Error> {
    let mut chain = Chain::default();
    VirtQueue::new(queue, memory).pop(&mut chain).map(|popped| popped.then_some(chain))
}

/// What comes of a queue in which the chain that `write` wrote starts at descriptor 0.
fn one(size: u16, write: impl FnOnce(&mut Ring<'_>)) -> Result<Option<Chain>, Error> {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, size);
    write(&mut ring);
    ring.offer(0);
    pop(&mut ring.queue(), &memory)
}

fn part(address: u64, len: usize) -> Segment {
    Segment { address: GuestAddress(address), len }
}

#[test]
fn a_chain_arrives_as_it_was_written() {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, SIZE);
    let mut queue = ring.queue();
    assert!(pop(&mut queue, &memory).unwrap().is_none());
    for round in 0..20_u64 {
        let parts = [(DATA, 16, 0), (DATA + 64, 1, 0), (AFTER_HOLE, 100, WRITE)];
        let head = ring.chain(&parts);
        let chain = pop(&mut queue, &memory).unwrap().unwrap();
        assert_eq!(chain.head(), head, "round {round}");
        assert_eq!(chain.readable.parts, [part(DATA, 16), part(DATA + 64, 1)]);
        assert_eq!(chain.writable.parts, [part(AFTER_HOLE, 100)]);
        assert_eq!((chain.readable.len(), chain.writable.len()), (17, 100));
        VirtQueue::new(&mut queue, &memory).push_used(&chain, 3).unwrap();
        assert_eq!(ring.used(), [(head.into(), 3)]);
    }
}

#[test]
fn what_was_put_back_comes_again() {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, SIZE);
    let mut queue = ring.queue();
    let heads = [ring.chain(&[(DATA, 1, 0)]), ring.chain(&[(DATA, 2, 0)])];
    for _ in 0..2 {
        let taken = heads.map(|_| pop(&mut queue, &memory).unwrap().unwrap().head());
        assert_eq!(taken, heads);
        heads.iter().for_each(|_| VirtQueue::new(&mut queue, &memory).undo_pop());
    }
}

#[test]
fn an_index_further_ahead_than_the_queue_is_long() {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, SIZE);
    ring.descriptor(0, (DATA, 1, 0), 0);
    ring.set_available(SIZE);
    assert!(pop(&mut ring.queue(), &memory).unwrap().is_some(), "a full queue is none too many");
    for index in [SIZE + 1, 0x7fff, 0x8000, 0xffff] {
        ring.set_available(index);
        assert!(matches!(pop(&mut ring.queue(), &memory), Err(Error::Ring(_))), "{index}");
    }
}

#[test]
fn an_index_that_goes_back() {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, SIZE);
    let mut queue = ring.queue();
    ring.chain(&[(DATA, 1, 0)]);
    ring.chain(&[(DATA, 1, 0)]);
    assert!(pop(&mut queue, &memory).unwrap().is_some());
    ring.set_available(0);
    assert!(matches!(pop(&mut queue, &memory), Err(Error::Ring(_))));
}

#[test]
fn chains_that_do_not_end() {
    let unterminated = |what: &str, write: &dyn Fn(&mut Ring<'_>)| {
        let result = one(SIZE, |ring| write(ring));
        assert!(matches!(result, Err(Error::Unterminated(0))), "{what}: {result:?}");
    };
    unterminated("next out of range", &|ring| ring.descriptor(0, (DATA, 1, NEXT), SIZE));
    unterminated("next far out of range", &|ring| ring.descriptor(0, (DATA, 1, NEXT), 0xffff));
    unterminated("a descriptor that follows itself", &|ring| ring.descriptor(0, (DATA, 1, NEXT), 0));
    unterminated("a cycle", &|ring| {
        (0..SIZE).for_each(|index| ring.descriptor(index, (DATA, 1, NEXT), (index + 1) % SIZE));
    });
    unterminated("a cycle that the head is not part of", &|ring| {
        ring.descriptor(0, (DATA, 1, NEXT), 1);
        ring.descriptor(1, (DATA, 1, NEXT), 2);
        ring.descriptor(2, (DATA, 1, NEXT), 1);
    });
    unterminated("a cycle without a byte", &|ring| ring.descriptor(0, (DATA, 0, NEXT), 0));
}

#[test]
fn heads_out_of_range() {
    for head in [SIZE, SIZE + 1, 0x8000, 0xffff] {
        let memory = memory();
        let mut ring = Ring::new(&memory, RINGS, SIZE);
        ring.offer(head);
        let result = pop(&mut ring.queue(), &memory);
        assert!(matches!(result, Err(Error::Unterminated(at)) if at == head), "{head}: {result:?}");
        let chain = Chain { head, ..Chain::default() };
        assert!(VirtQueue::new(&mut ring.queue(), &memory).push_used(&chain, 0).is_err());
    }
}

/// A chain that is one indirect table of `len` bytes at `table`, whose `count` entries follow each other.
fn indirect(table: u64, len: u32, count: u16, flags: u16) -> Result<Option<Chain>, Error> {
    one(SIZE, |ring| {
        for index in 0..count {
            let more = if index + 1 < count { NEXT } else { 0 };
            ring.entry(TABLE, index, (DATA, 1, flags | more), index + 1);
        }
        ring.descriptor(0, (table, len, INDIRECT), 0);
    })
}

#[test]
fn indirect_tables() {
    let whole = indirect(TABLE, 16 * u32::from(SIZE), SIZE, 0).unwrap().unwrap();
    assert_eq!(whole.readable.len(), usize::from(SIZE));
    for (what, result) in [
        ("a chain longer than the queue", indirect(TABLE, 16 * 9, 9, 0)),
        ("a table inside of a table", indirect(TABLE, 16, 1, INDIRECT)),
        ("a table without an entry", indirect(TABLE, 0, 0, 0)),
        ("part of an entry", indirect(TABLE, 17, 1, 0)),
        ("less than an entry", indirect(TABLE, 15, 1, 0)),
        ("more entries than can be counted", indirect(TABLE, 16 << 16, 9, NEXT)),
        ("as much as there can be", indirect(TABLE, u32::MAX, 1, 0)),
        ("a table in the hole", indirect(HOLE, 16, 1, 0)),
        ("a table that ends in the hole", indirect(HOLE - 8, 16, 1, 0)),
        ("a table at the end", indirect(END - 8, 16, 1, 0)),
        ("a table that wraps around", indirect(u64::MAX - 7, 16, 1, 0)),
    ] {
        assert!(matches!(result, Err(Error::Unterminated(0))), "{what}: {result:?}");
    }
}

#[test]
fn readable_parts_come_first() {
    let result = one(SIZE, |ring| {
        ring.descriptor(0, (DATA, 1, WRITE | NEXT), 1);
        ring.descriptor(1, (DATA, 1, 0), 0);
    });
    assert!(matches!(result, Err(Error::Order(0))), "{result:?}");
}

#[test]
fn descriptors_at_the_edges_of_memory() {
    let at = |address: u64, len: u32| one(SIZE, |ring| ring.descriptor(0, (address, len, WRITE), 0));
    for (address, len) in
        [(0, 1), (HOLE - 1, 1), (0, 0x10_0000), (AFTER_HOLE, 1), (END - 1, 1), (AFTER_HOLE, 0x20_0000)]
    {
        let chain = at(address, len).unwrap().unwrap();
        assert_eq!(chain.writable.parts, [part(address, usize::try_from(len).unwrap())]);
    }
    for (address, len) in [
        (HOLE - 1, 2),
        (HOLE, 1),
        (AFTER_HOLE - 1, 1),
        (AFTER_HOLE - 1, 2),
        // Both ends are memory, what is between them is not.
        (HOLE - 1, 0x10_0002),
        (END - 1, 2),
        (END, 1),
        (0, 0x10_0001),
        (AFTER_HOLE, u32::MAX),
        (0, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX, 2),
        (u64::MAX - 0xffff_fffe, u32::MAX),
        (1 << 63, 1),
    ] {
        let result = at(address, len);
        assert!(matches!(result, Err(Error::OutOfMemory { .. })), "{address:#x} {len:#x}: {result:?}");
    }
}

#[test]
fn a_descriptor_without_a_byte_is_no_way_out() {
    for address in [0, HOLE - 1, HOLE, END - 1, END, u64::MAX] {
        // Some are refused, and none of them gives access to anything.
        if let Ok(chain) = one(SIZE, |ring| ring.descriptor(0, (address, 0, WRITE), 0)) {
            let chain = chain.unwrap();
            assert!(chain.writable.is_empty());
            assert_eq!(chain.writable.write(&memory(), 0, b"x"), 0);
        }
    }
}

#[test]
fn lengths_that_add_up_to_4_gib() {
    // 4096 times the same MiB: the sum is one byte more than 32 bits can say.
    let result = one(0x2000, |ring| {
        (0..0x1000).for_each(|index| ring.entry(AFTER_HOLE, index, (0, 0x10_0000, NEXT), index + 1));
        ring.entry(AFTER_HOLE, 0x1000, (0, 1, 0), 0);
        ring.descriptor(0, (AFTER_HOLE, 16 * 0x1001, INDIRECT), 0);
    });
    assert!(matches!(result, Err(Error::Unterminated(0))), "{result:?}");
}

#[test]
fn queues_that_are_not_there() {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, SIZE);
    ring.chain(&[(DATA, 1, 0)]);
    let mut not_ready = ring.queue();
    not_ready.set_ready(false);
    assert!(matches!(pop(&mut not_ready, &memory), Err(Error::Ring(_))));
    for address in [HOLE, END, u64::MAX - 0xfff] {
        let mut queue = ring.queue();
        queue.try_set_avail_ring_address(GuestAddress(address)).unwrap();
        assert!(matches!(pop(&mut queue, &memory), Err(Error::NoRing)), "{address:#x}");
        let mut queue = ring.queue();
        queue.try_set_desc_table_address(GuestAddress(address)).unwrap();
        assert!(matches!(pop(&mut queue, &memory), Err(Error::Unterminated(0))), "{address:#x}");
        let mut queue = ring.queue();
        queue.try_set_used_ring_address(GuestAddress(address)).unwrap();
        let chain = pop(&mut queue, &memory).unwrap().unwrap();
        let mut queue = VirtQueue::new(&mut queue, &memory);
        assert!(matches!(queue.push_used(&chain, 0), Err(Error::NoRing)), "{address:#x}");
        assert!(queue.enable_notification().is_err() && queue.disable_notification().is_err());
    }
}

/// The index can be read, the entries cannot: without an error, a device would believe in vain that there is more to take.
#[test]
fn an_available_ring_that_ends_in_a_hole() {
    let memory = memory();
    let ring = Ring::new(&memory, RINGS, SIZE);
    let mut queue = ring.queue();
    queue.try_set_avail_ring_address(GuestAddress(HOLE - 4)).unwrap();
    memory.write_obj(1_u16, GuestAddress(HOLE - 2)).unwrap();
    assert!(matches!(VirtQueue::new(&mut queue, &memory).enable_notification(), Err(Error::NoRing)));
    assert!(matches!(pop(&mut queue, &memory), Err(Error::NoRing)));
}

/// Without indices, a flag says it (2.7.6).
#[test]
fn a_driver_that_does_not_want_interrupts() {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, SIZE);
    let mut queue = ring.queue();
    for (flags, wanted) in [(0_u16, true), (1, false), (0, true)] {
        memory.write_obj(flags, GuestAddress(queue.avail_ring())).unwrap();
        ring.chain(&[(DATA, 1, 0)]);
        let chain = pop(&mut queue, &memory).unwrap().unwrap();
        let mut view = VirtQueue::new(&mut queue, &memory);
        assert!(!view.needs_interrupt().unwrap(), "nothing was given back yet");
        view.push_used(&chain, 0).unwrap();
        assert_eq!(view.needs_interrupt().unwrap(), wanted);
    }
}

#[test]
fn two_queues_over_one_another_only_hurt_each_other() {
    let memory = memory();
    let mut ring = Ring::new(&memory, RINGS, SIZE);
    let (mut first, mut second) = (ring.queue(), ring.queue());
    // The second queue's used ring is the first one's table of descriptors.
    second.try_set_used_ring_address(GuestAddress(RINGS)).unwrap();
    ring.chain(&[(DATA, 4, WRITE)]);
    let chain = pop(&mut second, &memory).unwrap().unwrap();
    VirtQueue::new(&mut second, &memory).push_used(&chain, 4).unwrap();
    match pop(&mut first, &memory) {
        Ok(chain) => assert!(chain.is_none_or(|chain| all_in_memory(&chain, &memory))),
        Err(error) => assert!(matches!(error, Error::OutOfMemory { .. } | Error::Unterminated(_))),
    }
}

fn all_in_memory(chain: &Chain, memory: &Memory) -> bool {
    let parts = chain.readable.parts.iter().chain(&chain.writable.parts);
    parts.map(|part| GuestMemory::get_slice(memory, part.address, part.len)).all(|slice| slice.is_ok())
}

/// Addresses that are worth a try.
fn address() -> impl Strategy<Value = u64> {
    let near = |place: u64| (0_u64..64).prop_map(move |offset| place.wrapping_add(offset).wrapping_sub(32));
    prop_oneof![
        near(0),
        near(HOLE),
        near(AFTER_HOLE),
        near(END),
        near(u64::MAX),
        near(RINGS),
        near(TABLE),
        0..END,
        any::<u64>()
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..64, Just(16), Just(32), 0_u32..0x20_0000, any::<u32>()]
}

proptest! {
    /// Whatever is in the rings: no panic, no endless loop, and no chain that is not in memory as a whole.
    #[test]
    fn no_ring_leads_out_of_memory(
        table in prop::collection::vec((address(), len(), 0_u16..8, 0_u16..10), 16),
        heads in prop::collection::vec(0_u16..10, 8),
        index in prop_oneof![0_u16..10, any::<u16>()],
        used_at in prop_oneof![Just(RINGS + 0x2000), (0..END).prop_map(|address| address & !3)],
    ) {
        let memory = memory();
        let mut ring = Ring::new(&memory, RINGS, SIZE);
        for (slot, (address, len, flags, next)) in (0_u16..).zip(&table) {
            let (base, slot) = if slot < 8 { (RINGS, slot) } else { (TABLE, slot - 8) };
            ring.entry(base, slot, (*address, *len, *flags), *next);
        }
        heads.iter().for_each(|head| ring.offer(*head));
        ring.set_available(index);
        let mut queue = ring.queue();
        queue.try_set_used_ring_address(GuestAddress(used_at)).unwrap();
        let mut view = VirtQueue::new(&mut queue, &memory);
        let mut chain = Chain::default();
        for _ in 0..64 {
            match view.pop(&mut chain) {
                Ok(true) => {
                    prop_assert!(all_in_memory(&chain, &memory));
                    let parts = chain.readable.parts.len() + chain.writable.parts.len();
                    prop_assert!(parts <= usize::from(SIZE));
                    let written = chain.writable.write(&memory, 0, &[0; 40]);
                    prop_assert!(written <= chain.writable.len());
                    let _ = view.push_used(&chain, written);
                }
                Ok(false) | Err(_) => break,
            }
        }
        let _ = view.enable_notification();
        let _ = view.needs_interrupt();
    }

    /// Giving back, and who is told of what, is what `virtio-queue` makes of it, wherever the counters are.
    #[test]
    fn notifications_are_what_they_should_be(
        (next_avail, next_used, available, wanted) in any::<(u16, u16, u16, u16)>(),
        near in prop_oneof![Just(None), (0_u16..20).prop_map(Some)],
        event_idx in any::<bool>(),
        written in prop::collection::vec((0..SIZE, any::<u32>()), 0..12),
    ) {
        let wanted = near.map_or(wanted, |offset| next_used.wrapping_add(offset).wrapping_sub(4));
        let mut outcomes = [(); 2].map(|()| {
            let memory = memory();
            let mut ring = Ring::new(&memory, RINGS, SIZE);
            ring.set_available(available);
            let mut queue = ring.queue();
            queue.set_next_avail(next_avail);
            queue.set_next_used(next_used);
            queue.set_event_idx(event_idx);
            memory.write_obj(wanted, GuestAddress(queue.avail_ring() + 4 + 2 * u64::from(SIZE))).unwrap();
            (memory, queue)
        });
        let [(memory, ours), (other_memory, theirs)] = &mut outcomes;
        let mut view = VirtQueue::new(ours, memory);
        view.disable_notification().unwrap();
        theirs.disable_notification(other_memory).unwrap();
        for (head, len) in &written {
            view.push_used(&Chain { head: *head, ..Chain::default() }, *len as usize).unwrap();
            theirs.add_used(other_memory, *head, *len).unwrap();
        }
        prop_assert_eq!(view.enable_notification().unwrap(), theirs.enable_notification(other_memory).unwrap());
        let expected = !written.is_empty() && theirs.needs_notification(other_memory).unwrap();
        prop_assert_eq!(view.needs_interrupt().unwrap(), expected);
        prop_assert!(!view.needs_interrupt().unwrap(), "once is enough");
        prop_assert_eq!(ours.next_used(), theirs.next_used());
        let bytes = |memory: &Memory| {
            let mut bytes = vec![0; 0x1_0000];
            memory.read_slice(&mut bytes, GuestAddress(RINGS)).unwrap();
            bytes
        };
        prop_assert!(bytes(memory) == bytes(other_memory));
    }

    /// Reading and writing at any offset is what it would be if the pieces were one.
    #[test]
    fn segments_are_one_piece(
        lens in prop::collection::vec(0_usize..40, 0..8), offset in 0_usize..200, count in 0_usize..200, seed in any::<u8>(),
    ) {
        let memory = memory();
        let mut segments = Segments::default();
        let mut model = Vec::new();
        for (index, len) in lens.iter().enumerate() {
            let at = DATA + 0x100 * index as u64;
            let bytes: Vec<u8> = (0..*len).map(|n| seed.wrapping_add((n + 7 * index) as u8)).collect();
            memory.write_slice(&bytes, GuestAddress(at)).unwrap();
            segments.push(GuestAddress(at), *len);
            model.extend(bytes);
        }
        prop_assert_eq!(segments.len(), model.len());
        let from = offset.min(model.len());
        let expected = &model[from..(from + count).min(model.len())];
        let mut out = vec![0xee; count];
        prop_assert_eq!(segments.read(&memory, offset, &mut out), expected.len());
        prop_assert_eq!(&out[..expected.len()], expected);
        let mut vector = Vector::new();
        segments.gather(&memory, offset, count, &mut vector);
        prop_assert_eq!(vector.len(), expected.len());

        let new: Vec<u8> = (0..count).map(|n| seed ^ n as u8).collect();
        let written = segments.write(&memory, offset, &new);
        prop_assert_eq!(written, expected.len());
        model[from..from + written].copy_from_slice(&new[..written]);
        let mut all = vec![0; model.len()];
        segments.read(&memory, 0, &mut all);
        prop_assert_eq!(all, model);
    }
}
