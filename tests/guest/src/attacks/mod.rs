//! All attacks by name. Each one returns when it has nothing more to do; a few are how the machine ends.

mod block;
mod container;
mod control;
mod floods;
mod fs;
mod registers;
mod rings;
mod vsock;

pub use container::of_a_container;

use crate::machine::{Machine, halt, say, triple_fault};

type Attack = fn(&Machine);

pub const ALL: &[(&str, Attack)] = &[
    ("registers", registers::every_register),
    ("registers-of-a-running-device", registers::running),
    ("notifications", registers::notifications),
    ("rings", rings::broken),
    ("rings-of-sockets", rings::sockets),
    ("rings-over-one-another", rings::overlapping),
    ("rings-that-move", rings::moving),
    ("rings-broken-for-ever", rings::for_ever),
    ("block-beyond-the-end", block::beyond_the_end),
    ("block-writes", block::writes),
    ("block-status-into-nowhere", block::nowhere),
    ("block-too-many", block::too_many),
    ("vsock-lengths", vsock::lengths),
    ("vsock-addresses", vsock::addresses),
    ("vsock-credit", vsock::credit),
    ("vsock-storm", vsock::storm),
    ("vsock-resets", vsock::resets),
    ("vsock-silence", vsock::silence),
    ("fs-lengths", fs::lengths),
    ("fs-before-hello", fs::before_hello),
    ("fs-nobody", fs::nobody),
    ("fs-names", fs::names),
    ("fs-read-only", fs::read_only),
    ("fs-links", fs::links),
    ("fs-positions", fs::positions),
    ("fs-open-for-ever", fs::open_for_ever),
    ("fs-forgets", fs::forgets),
    ("control-garbage", control::garbage),
    ("control-too-long", control::too_long),
    ("control-other-version", control::other_version),
    ("control-out-of-turn", control::out_of_turn),
    ("control-words", control::words),
    ("control-hello-and-nothing", control::hello_and_nothing),
    ("ports", floods::ports),
    ("memory-without-devices", floods::nowhere),
    ("console", floods::console),
    ("last-words", last_words),
    ("triple-fault", |_| triple_fault()),
    ("halt", |_| halt()),
    ("spin", spin),
];

pub fn find(name: &str) -> Option<Attack> {
    ALL.iter().find(|(other, _)| *other == name).map(|(_, attack)| *attack)
}

/// Last words that clear the screen and set the window's title of whoever reads them.
fn last_words(_: &Machine) {
    say!("Kernel panic - not syncing: \x1b[2J\x1b]0;owned\x07\u{9b}31m");
    triple_fault()
}

/// Never stops, never halts.
fn spin(_: &Machine) {
    say!("hostile: done");
    loop {
        core::hint::spin_loop();
    }
}
