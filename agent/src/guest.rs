//! The real machine: what the guest's PID 1 does before and after it serves the host.

use core::ffi::CStr;

use mote_protocol::{Action, CONTROL_PORT, limits::SEED_LEN};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags},
    io::{Errno, Result},
    mount::MountFlags,
    process::Pid,
    system::RebootCommand,
    time::{ClockId, Timespec},
};

use crate::{Agent, Machine, Stop, agent::say_hello, program::decimal, sys};

/// Serves the host. The first thing that runs in the guest after the kernel, at `entered_ns` of `CLOCK_MONOTONIC`.
pub fn run(entered_ns: u64, requests: &mut [u8]) -> ! {
    match start(entered_ns, requests) {
        Ok(agent) => match agent.run() {
            Stop::Asked(Action::PowerOff | Action::Reboot) => reset(),
            Stop::HostGone => die("the host is gone", 0),
        },
        Err((errno, step)) => die(step, errno.raw_os_error().unsigned_abs()),
    }
}

fn start(
    entered_ns: u64,
    requests: &mut [u8],
) -> core::result::Result<Agent<'_, Guest>, (Errno, &'static str)> {
    let control = sys::net::connect(CONTROL_PORT).map_err(|errno| (errno, "connect"))?;
    // The kernel starts PID 1 without descriptors if there is no console: this one leaves the place of 0, and 0 to 2 are
    // filled below.
    let control = rustix::io::fcntl_dupfd_cloexec(control, 3).map_err(|errno| (errno, "dup"))?;
    say_hello(control.as_fd(), entered_ns).map_err(|errno| (errno, "hello"))?;
    mount_devices().map_err(|errno| (errno, "mount /dev"))?;
    fill_standard_streams().map_err(|errno| (errno, "open /dev/null"))?;
    Agent::new(control, requests, Guest).map_err(|errno| (errno, "epoll"))
}

/// Mounts `/dev`, with the devices that there are and terminals.
///
/// # Errors
/// Those of `mkdir(2)` and `mount(2)`.
pub fn mount_devices() -> Result<()> {
    make_directory(c"/dev")?;
    match rustix::mount::mount(c"devtmpfs", c"/dev", c"devtmpfs", MountFlags::NOSUID, None) {
        // It is mounted there already.
        Ok(()) | Err(Errno::BUSY) => {}
        Err(errno) => return Err(errno),
    }
    // A program that binds /dev into its root takes the terminals along, so that they have names there.
    make_directory(c"/dev/pts")?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount(c"devpts", c"/dev/pts", c"devpts", flags, Some(c"gid=5,mode=620,ptmxmode=666"))
}

fn make_directory(path: &CStr) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes descriptors 0 to 2 `/dev/null`, so that nothing else ever gets these numbers.
fn fill_standard_streams() -> Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let null = rustix::io::fcntl_dupfd_cloexec(null, 3)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// The machine that the agent is PID 1 of.
struct Guest;

impl Machine for Guest {
    fn connect(&mut self, port: u32) -> Result<OwnedFd> {
        sys::net::start_connect(port)
    }

    fn open_terminal(&mut self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open(c"/dev/pts/ptmx", flags, Mode::empty())
    }

    fn set_clock(&mut self, realtime_ns: u64) -> Result<()> {
        const SECOND: u64 = 1_000_000_000;
        let seconds = i64::try_from(realtime_ns / SECOND).map_err(|_| Errno::INVAL)?;
        let rest = i64::try_from(realtime_ns % SECOND).map_err(|_| Errno::INVAL)?;
        rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: rest })
    }

    fn seed_random(&mut self, seed: &[u8; SEED_LEN]) -> Result<()> {
        let urandom = rustix::fs::open(c"/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        sys::system::seed_random(urandom.as_fd(), seed)
    }

    fn kill_all(&mut self, _: &mut dyn Iterator<Item = Pid>) {
        // That there was nobody to kill is no error.
        let _ = sys::signal::kill_all();
    }
}

/// Writes a line to the kernel's log, at the level that reaches every console, and ends the machine; a child of the
/// agent ends only itself.
pub fn die(what: &str, number: u32) -> ! {
    if sys::process::in_child() {
        sys::process::exit(i32::from(u8::MAX));
    }
    say(what, number);
    reset()
}

fn say(what: &str, number: u32) {
    let mut line: heapless::Vec<u8, 200> = heapless::Vec::new();
    let mut digits = [0_u8; 10];
    let digits = decimal(number, &mut digits);
    for part in [b"<0>mote-agent: ", what.as_bytes(), b": ", digits, b"\n"] {
        // Cut if it is longer than a line.
        let room = line.capacity() - line.len();
        let _ = line.extend_from_slice(part.get(..room).unwrap_or(part));
    }
    // A node of its own: this may be said before there is a /dev, or because there is none.
    let node = c"/kmsg";
    let device = rustix::fs::makedev(1, 11);
    let made = rustix::fs::mknodat(CWD, node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device);
    if matches!(made, Ok(()) | Err(Errno::EXIST))
        && let Ok(log) = rustix::fs::open(node, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    {
        // There is nobody left to tell if this fails.
        let _ = rustix::io::write(log, &line);
    }
}

/// Ends the machine. It is reset, not switched off, whatever the host asked for: without firmware there is no switch, so
/// the kernel would halt its processors and the hypervisor would never learn of it. A reset it always sees.
fn reset() -> ! {
    let _ = rustix::system::reboot(RebootCommand::Restart);
    // The call only returns if this is not a machine of the agent's own.
    sys::process::exit(1)
}
