//! The end of a thread that oversteps: one line, and the process is gone.
//!
//! The kernel does not make the call but raises `SIGSYS` in the thread. The handler runs with whatever state the thread was
//! in, perhaps one that an attacker made: it allocates nothing, takes no lock, and never returns.

use std::{
    cell::Cell,
    fmt, io,
    sync::{Once, OnceLock},
};

use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use crate::arch;

/// A system call that a thread may not make.
#[derive(Debug, Clone, Copy)]
pub struct Violation {
    /// The kind of the thread.
    pub kind: &'static str,
    /// The system call's number.
    pub number: i64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = arch::system_call_name(self.number).unwrap_or("unknown");
        let Self { kind, number } = self;
        write!(
            f,
            "seccomp: a {kind} thread made the system call {name} ({number}), which it may not: the sandbox ends"
        )
    }
}

/// How a violation is reported, and the status that the process ends with.
#[derive(Clone, Copy)]
struct Reporter {
    report: fn(&Violation),
    status: i32,
}

static REPORTER: OnceLock<Reporter> = OnceLock::new();

thread_local! {
    /// The kind of this thread. Nothing to build or to drop, so the handler may read it.
    static KIND: Cell<&'static str> = const { Cell::new("unknown") };
}

/// Has violations reported by `report`, after which the process ends with `status`. The first call counts. Without one: a line on
/// standard error and status 1.
///
/// `report` runs in a signal handler: it must not allocate, lock or panic, and may make those system calls only that all
/// threads may make ([`COMMON`](super::COMMON)).
pub fn report_with(report: fn(&Violation), status: u8) {
    // Somebody was faster: theirs stays.
    let _ = REPORTER.set(Reporter { report, status: status.into() });
}

/// A line in a buffer of its own.
struct Line {
    bytes: [u8; 192],
    len: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

fn report_on_standard_error(violation: &Violation) {
    let mut line = Line { bytes: [0; 192], len: 0 };
    // The buffer takes what fits.
    let _ = fmt::Write::write_fmt(&mut line, format_args!("{violation}\n"));
    // SAFETY: the bytes up to `len` are initialised, and the call only reads them.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
}

/// Makes the calling thread ready for a filter: its violations will be reported as those of `kind`.
pub(super) fn prepare(kind: &'static str) -> io::Result<()> {
    static HANDLER: Once = Once::new();
    KIND.set(kind);
    let mut result = Ok(());
    HANDLER.call_once(|| {
        let handler = SigHandler::SigAction(end);
        let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::all());
        // SAFETY: the handler is async-signal-safe, see the module's description; nobody else uses the signal.
        result = unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop);
    });
    result?;
    // A thread that blocks the signal would be killed without a word.
    SigSet::from(Signal::SIGSYS).thread_unblock()?;
    Ok(())
}

extern "C" fn end(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// Where `si_syscall` is in `siginfo_t`, in units of `i32`: behind signo, errno, code, padding, and an address.
    const SI_SYSCALL: usize = 6;
    // SAFETY: the kernel calls the handler of a `SIGSYS` with a whole `siginfo_t`, which is 128 bytes and aligned for `i32`.
    let number = unsafe { info.cast::<i32>().add(SI_SYSCALL).read() };
    let violation = Violation { kind: KIND.get(), number: number.into() };
    let reporter = REPORTER.get().copied();
    let Reporter { report, status } =
        reporter.unwrap_or(Reporter { report: report_on_standard_error, status: 1 });
    report(&violation);
    // SAFETY: ends the process at once; nothing of it is used any more.
    unsafe { libc::_exit(status) }
}
