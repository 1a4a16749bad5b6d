//! A guest that attacks its host instead of booting Linux.
//!
//! It is loaded as a kernel is, on KVM at its 64-bit entry, on QEMU at the 32-bit one of PVH; it has no interrupts, no heap, and all
//! of memory to itself. `attack=NAME` on its command line chooses one of [`attacks::ALL`], or in its file, where there is no command
//! line (`attacks/container.rs`). What it says goes to the first serial
//! port: what it found out, then `hostile: done`. Then it halts for ever, unless the attack itself is how it ends.
//!
//! To add an attack, write a function that takes a [`Machine`], and give it a name in [`attacks::ALL`]; its caller is in
//! `tests/tests/e2e/hostile.rs`.

#![no_std]
#![no_main]
#![allow(unreachable_pub, missing_docs, reason = "a program, not a library")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    reason = "a guest that fails says so and halts"
)]

mod attacks;
mod block;
mod boot;
mod fs;
mod machine;
mod queue;
mod transport;
mod vsock;

use machine::{Machine, say};

/// Called on the stack of its own that `boot.rs` sets up. `info` is what the loader left: `boot_params`, or with `pvh`, PVH's.
extern "C" fn main(info: u64, pvh: u64) -> ! {
    // SAFETY: called once, before anything else looks at the command line.
    let machine = unsafe { Machine::find(info, pvh != 0) };
    let name = machine.option("attack=");
    match attacks::find(name) {
        Some(attack) => attack(&machine),
        None if name.is_empty() => attacks::of_a_container(&machine),
        None => say!("hostile: no such attack"),
    }
    say!("hostile: done");
    machine::halt()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("hostile: failed: {}", info);
    machine::halt()
}
