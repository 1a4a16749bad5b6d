//! The guest binary's entry point, and the memory that it is given.
//!
//! Compiled into the binary only: a program with a C library has its own `_start`.

use mote_agent::{REQUEST_BUFFER_LEN, sys::clock};

/// The room for requests. In `.bss`: a page of it costs nothing until a request reaches it.
static mut REQUESTS: [u8; REQUEST_BUFFER_LEN] = [0; REQUEST_BUFFER_LEN];

// The kernel enters here with the stack pointer aligned to 16 bytes. A call leaves it as the System V ABI wants it at a
// function's first instruction; rbp is cleared as the end of the chain of frames.
core::arch::global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "call {enter}",
    "ud2",
    ".size _start, . - _start",
    enter = sym enter,
);

extern "C" fn enter() -> ! {
    let entered_ns = clock::monotonic_ns();
    let requests = &raw mut REQUESTS;
    // SAFETY: this function runs once, as the program's first, and nothing else names `REQUESTS`.
    let requests: &'static mut [u8] = unsafe { &mut *requests };
    mote_agent::guest::run(entered_ns, requests)
}
