//! What a user of `mote` does, with real machines. The same program runs in both lanes: see docs/testing.md.

#![allow(missing_docs)]

mod archive;
mod bad_input;
mod bench;
mod command;
mod config;
mod container;
mod container_death;
mod container_terminal;
mod container_view;
mod death;
mod engines;
mod host_side;
mod hostile;
mod hostile_container;
mod images;
mod jail;
mod jail_container;
mod machine;
mod planted;
mod rootfs;
mod shares;
mod streams;
mod terminal;
