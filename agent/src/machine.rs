//! What the agent needs from the machine it runs on, beyond the calls that any process may make.

use mote_protocol::{Action, limits::SEED_LEN};
use rustix::{fd::OwnedFd, io::Result, process::Pid};

/// The machine. [`guest`](crate::guest) has the real one; tests bring their own.
pub trait Machine {
    /// Begins to open a non-blocking stream to one of the host's ports. It is connected once it is writable.
    ///
    /// # Errors
    /// If there is no way to the host.
    fn connect(&mut self, port: u32) -> Result<OwnedFd>;

    /// Opens the controlling side of a new pseudo-terminal: non-blocking, closed on exec, not yet unlocked.
    ///
    /// # Errors
    /// If there are no terminals.
    fn open_terminal(&mut self) -> Result<OwnedFd>;

    /// Sets the wall clock to nanoseconds since 1970.
    ///
    /// # Errors
    /// If the kernel refuses the time.
    fn set_clock(&mut self, realtime_ns: u64) -> Result<()>;

    /// Gives the kernel's random number generator fresh entropy.
    ///
    /// # Errors
    /// If the kernel refuses it.
    fn seed_random(&mut self, seed: &[u8; SEED_LEN]) -> Result<()>;

    /// Kills every process but the agent. `started` are those that the agent knows of.
    fn kill_all(&mut self, started: &mut dyn Iterator<Item = Pid>);
}

/// Why an agent has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The host asked for it, and was answered.
    Asked(Action),
    /// The control stream has ended.
    HostGone,
}
