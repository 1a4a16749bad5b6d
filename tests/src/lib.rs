//! What the tests of Mote as a whole stand on.
//!
//! [`lab`] is a machine with KVM where there is none: a stock distribution kernel under QEMU's software emulation with
//! an emulated AMD-V. [`harness`] is what an end-to-end test needs to call `mote` as a user would, on the machine
//! itself and inside the lab alike.
//!
//! This crate calls programs. It must not depend on the crates that it tests, apart from the archive writer of
//! `mote-initrd`, which packs the lab's own ramdisk.

pub mod figures;
pub mod harness;
pub mod lab;
