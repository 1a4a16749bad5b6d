//! Calls `mote` as a user would.
