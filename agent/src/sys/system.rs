//! The kernel's random number generator.

use rustix::{
    fd::BorrowedFd,
    io::Result,
    ioctl::{NoArg, Setter, ioctl, opcode},
};

use mote_protocol::limits::SEED_LEN;

/// `struct rand_pool_info` of `linux/random.h`, with as much room as a seed takes.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    len: i32,
    seed: [u8; SEED_LEN],
}

/// Adds `seed` to the pool behind `urandom`, credited in full, and reseeds the generator from it.
///
/// # Errors
/// Those of the two calls: `EPERM` without `CAP_SYS_ADMIN`.
pub fn seed_random(urandom: BorrowedFd<'_>, seed: &[u8; SEED_LEN]) -> Result<()> {
    const BITS: i32 = 256;
    const LEN: i32 = 32;
    const { assert!(SEED_LEN == LEN as usize && BITS == LEN * 8) };
    // The number encodes the size of the structure's fixed part.
    const ADD_ENTROPY: u32 = opcode::write::<[i32; 2]>(b'R', 0x03);
    const RESEED: u32 = opcode::none(b'R', 0x07);
    let info = PoolInfo { entropy_bits: BITS, len: LEN, seed: *seed };
    // SAFETY: RNDADDENTROPY takes a pointer to this structure and reads `len` bytes after its fixed part.
    unsafe { ioctl(urandom, Setter::<ADD_ENTROPY, PoolInfo>::new(info)) }?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    unsafe { ioctl(urandom, NoArg::<RESEED>::new()) }
}
