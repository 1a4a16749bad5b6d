//! `mote`.
fn main() {}
