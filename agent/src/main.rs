//! The guest's `/init`: an ELF file without `std` and with its own entry point.
//!
//! Everything it does is in the library; here stands only what a program has once: `_start` and the panic handler.

#![no_std]
#![no_main]

#[path = "sys/memory.rs"]
mod memory;
#[path = "sys/start.rs"]
mod start;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let (file, line) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    mote_agent::guest::die(file, line)
}
