//! mote-agent
