//! The meter's entry point, and the memory that it is given.
//!
//! Compiled into that binary only: a program with a C library has its own `_start`.

use mote_agent::meter::Room;
use mote_protocol::meter::{MAX_CALL, MAX_SAMPLES};

/// Aligned as `O_DIRECT` wants it, whatever the disk's blocks are.
#[repr(align(4096))]
struct Aligned([u8; MAX_CALL]);

static mut BUFFER: Aligned = Aligned([0; MAX_CALL]);
static mut SAMPLES: [u32; MAX_SAMPLES] = [0; MAX_SAMPLES];

// The kernel enters here with the stack pointer aligned to 16 bytes and at the number of arguments. A call leaves it as the
// System V ABI wants it at a function's first instruction; rbp is cleared as the end of the chain of frames.
core::arch::global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, [rsp]",
    "call {enter}",
    "ud2",
    ".size _start, . - _start",
    enter = sym enter,
);

extern "C" fn enter(arguments: usize) -> ! {
    let (buffer, samples) = (&raw mut BUFFER, &raw mut SAMPLES);
    // SAFETY: this function runs once, as the program's first, and nothing else names the two.
    let (buffer, samples) = unsafe { (&mut (*buffer).0, &mut *samples) };
    crate::run(arguments <= 1, &mut Room { buffer, samples })
}
