//! The processes that are measured, and their end: each has a process group of its own, and whoever interrupts a measurement
//! ends them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::Pid,
};

/// The groups of all children that have not been waited for.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has to be undone if this process is interrupted, in the order in which it was done.
static UNDOINGS: Mutex<BTreeMap<u64, Box<dyn Fn() + Send>>> = Mutex::new(BTreeMap::new());

fn undoings() -> MutexGuard<'static, BTreeMap<u64, Box<dyn Fn() + Send>>> {
    UNDOINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that is undone when this is dropped, or when this process is interrupted, whichever comes first.
#[derive(Debug)]
pub(super) struct Undo(u64);

impl Undo {
    pub(super) fn new(undo: impl Fn() + Send + 'static) -> Self {
        let mut undoings = undoings();
        let number = undoings.last_key_value().map_or(0, |(last, _)| last + 1);
        undoings.insert(number, Box::new(undo));
        Self(number)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let undo = undoings().remove(&self.0);
        if let Some(undo) = undo {
            undo();
        }
    }
}

/// What a terminal and a supervisor send to end a program.
const INTERRUPTS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// From here on, a signal that asks for the end kills all children, says that there is no result, and ends this process.
///
/// Call it while there is one thread: those that are started later inherit that the signals are blocked.
pub(super) fn end_on_interrupt() -> anyhow::Result<()> {
    let signals: SigSet = INTERRUPTS.into_iter().collect();
    signals.thread_block().context("cannot block signals")?;
    let wait = move || {
        let Ok(signal) = signals.wait() else { return };
        // Never let go of: nobody starts another child any more.
        let groups = groups();
        for group in groups.iter() {
            // It fails for those that have just ended.
            let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
        }
        let left = std::mem::take(&mut *undoings());
        left.into_values().rev().for_each(|undo| undo());
        eprintln!("mote: interrupted by {}: the results so far are discarded", signal.as_str());
        std::process::exit(128 + signal as i32);
    };
    std::thread::Builder::new().name("interrupts".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// A process that is measured, the leader of a group. Dropping it kills the group.
#[derive(Debug)]
pub(super) struct Measured {
    child: Child,
    group: Pid,
    waited: bool,
}

impl Measured {
    pub(super) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let mut groups = groups();
        let child = command.process_group(0).spawn()?;
        let group = i32::try_from(child.id()).map_err(std::io::Error::other)?;
        groups.insert(group);
        Ok(Self { child, group: Pid::from_raw(group), waited: false })
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Kills the group when `limit` has passed, unless what is returned is dropped before.
    pub(super) fn kill_after(&self, limit: Duration) -> anyhow::Result<Deadline> {
        let group = self.group;
        Deadline::new(limit, move || {
            // It fails if the group has just ended.
            let _ = killpg(group, Signal::SIGKILL);
        })
    }

    pub(super) fn signal(&self, signal: Signal) {
        if !self.waited {
            // It fails if the group has ended by itself.
            let _ = killpg(self.group, signal);
        }
    }

    pub(super) fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait()?;
        // What is left of the group would hold our pipes open, and its number may soon be somebody else's.
        let _ = killpg(self.group, Signal::SIGKILL);
        self.waited = true;
        groups().remove(&self.group.as_raw());
        Ok(status)
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if !self.waited {
            self.signal(Signal::SIGKILL);
            let _ = self.wait();
        }
    }
}

/// Does something if too much time passes before it is dropped.
#[derive(Debug)]
pub(super) struct Deadline {
    over: Arc<AtomicBool>,
    /// Dropped to say that it is not needed any more.
    met: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Deadline {
    pub(super) fn new(limit: Duration, action: impl FnOnce() + Send + 'static) -> anyhow::Result<Self> {
        let (met, waiting) = mpsc::channel();
        let over = Arc::new(AtomicBool::new(false));
        let passed = Arc::clone(&over);
        let wait = move || {
            if waiting.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                passed.store(true, Ordering::Release);
                action();
            }
        };
        let thread = std::thread::Builder::new().name("deadline".into()).spawn(wait);
        let thread = thread.context("cannot start a thread")?;
        Ok(Self { over, met: Some(met), thread: Some(thread) })
    }

    /// Whether it has passed.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.met = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Stdio, time::Instant};

    use super::*;

    #[test]
    fn a_group_ends_with_its_leader() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // The grandchild holds the pipe.
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & exit 3"]).stdin(Stdio::null()).stdout(writer);
        let mut measured = Measured::spawn(&mut command).unwrap();
        drop(command);
        assert_eq!(measured.wait().unwrap().code(), Some(3));
        std::io::Read::read_to_end(&mut reader, &mut Vec::new()).unwrap();
    }

    #[test]
    fn what_is_done_is_undone_once() {
        let undone = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let undone = Arc::clone(&undone);
            Undo::new(move || undone.lock().unwrap().push(what))
        };
        let (first, second) = (note("first"), note("second"));
        drop(first);
        let third = note("third");
        drop((third, second));
        assert_eq!(*undone.lock().unwrap(), ["first", "third", "second"]);
    }

    #[test]
    fn a_deadline_acts_only_when_it_has_passed() {
        let start = Instant::now();
        let deadline = Deadline::new(Duration::from_secs(1000), || panic!("too early")).unwrap();
        assert!(!deadline.is_over());
        drop(deadline);
        assert!(start.elapsed() < Duration::from_secs(1000));

        let mut measured = Measured::spawn(Command::new("sleep").arg("1000").stdin(Stdio::null())).unwrap();
        let deadline = measured.kill_after(Duration::ZERO).unwrap();
        assert_eq!(measured.wait().unwrap().signal(), Some(9));
        assert!(deadline.is_over());
    }
}
