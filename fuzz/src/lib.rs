//! What the fuzz targets stand on: a guest that is told by bytes what to do, and the bytes that seeds are made of.
//!
//! Every target reads its input with a [`Script`], and every seed is written with a [`Writer`]: a seed is a sequence of things
//! that make sense, from which the fuzzer departs.

pub mod guest;
pub mod script;

pub use script::{Script, Writer};
