//! The whole agent as an ordinary process, with Unix sockets in the place of vsock.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod commands;
mod conversation;
mod files;
mod gate;
mod harness;
mod namespaces;
mod streams;
mod terminal;
