//! mote-runtime
