//! What a user of `mote` does, with real machines. The same program runs in both lanes: see docs/testing.md.

#![allow(missing_docs)]

mod bad_input;
mod bench;
mod command;
mod config;
mod death;
mod hostile;
mod images;
mod machine;
mod rootfs;
mod shares;
mod streams;
mod terminal;
