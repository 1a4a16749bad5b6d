//! mote-vmm
