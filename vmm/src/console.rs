//! The kernel log: what the guest's kernel writes to its first serial port.
//!
//! The kernel keeps silent at boot (`loglevel=1`), so no character costs an exit; but its last words, printed at the
//! highest level, still come out here: a panic, a restart, a halt. They are the only way to tell these ends apart on a
//! machine without ACPI, so they are read as they pass. The text is the guest's: it decides nothing but how the end
//! of this one VM is called.

use std::{
    collections::VecDeque,
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::Exit;

/// How many bytes of the log are kept.
const TAIL: usize = 16 * 1024;
/// Longer lines are read as if they ended here.
const MAX_LINE: usize = 512;

/// Called, at most once, when the kernel says that it halted: on a machine without ACPI nothing else tells.
type OnHalt = Box<dyn FnOnce() + Send>;

/// The kernel log of one VM: keeps its tail, passes it on to a file, and knows the guest's last words. Clones share it.
#[derive(Clone, Default)]
pub struct KernelLog(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    tail: VecDeque<u8>,
    line: Vec<u8>,
    last_words: Option<Exit>,
    file: Option<Box<dyn Write + Send>>,
    on_halt: Option<OnHalt>,
}

impl KernelLog {
    /// A log that is kept in memory only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A log that is also written to `file`, byte for byte.
    #[must_use]
    pub fn with_file(file: Box<dyn Write + Send>) -> Self {
        let log = Self::default();
        log.state().file = Some(file);
        log
    }

    /// The last `count` lines.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let mut state = self.state();
        let text = String::from_utf8_lossy(state.tail.make_contiguous());
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].iter().map(ToString::to_string).collect()
    }

    /// How the kernel said that it ends, if it did.
    #[must_use]
    pub fn last_words(&self) -> Option<Exit> {
        self.state().last_words.clone()
    }

    /// A writer for a serial port to send into.
    #[must_use]
    pub fn sink(&self) -> LogSink {
        LogSink(self.clone())
    }

    /// Has `on_halt` called when the kernel says that it halted.
    pub(crate) fn on_halt(&self, on_halt: OnHalt) {
        self.state().on_halt = Some(on_halt);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelLog").field("last_words", &self.last_words()).finish_non_exhaustive()
    }
}

/// The sending end of a [`KernelLog`].
#[derive(Debug)]
pub struct LogSink(KernelLog);

impl Write for LogSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let halted = {
            let mut state = self.0.state();
            state.append(bytes);
            match state.last_words {
                Some(Exit::PowerOff) => state.on_halt.take(),
                _ => None,
            }
        };
        if let Some(on_halt) = halted {
            on_halt();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl State {
    fn append(&mut self, bytes: &[u8]) {
        // A log file that cannot be written (a full disk) must not stop the guest.
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_err()
        {
            tracing::warn!("the kernel log can no longer be written to its file");
            self.file = None;
        }
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
        for &byte in bytes {
            if byte == b'\n' || self.line.len() == MAX_LINE {
                if self.last_words.is_none() {
                    self.last_words = last_words(&self.line);
                }
                self.line.clear();
            } else {
                self.line.push(byte);
            }
        }
    }
}

/// What a line of the log says about the end of the guest. The words are those of `kernel/reboot.c` and
/// `kernel/panic.c` of Linux 6.12, behind an optional time stamp.
fn last_words(line: &[u8]) -> Option<Exit> {
    let line = String::from_utf8_lossy(line);
    let text = line.trim();
    let message = match text.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, message)) => message,
        None => text,
    };
    if message.starts_with("Kernel panic - not syncing") {
        return Some(Exit::Panic);
    }
    let reboot = message.strip_prefix("reboot: ")?;
    if reboot.starts_with("Restarting system") {
        Some(Exit::Reboot)
    } else if reboot.ends_with("System halted")
        || reboot.ends_with("System halted instead")
        || reboot.starts_with("Power down")
    {
        Some(Exit::PowerOff)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn knows_the_last_words() {
        let cases = [
            ("[    0.500000] reboot: Restarting system", Some(Exit::Reboot)),
            ("[    0.500000] reboot: Power down", Some(Exit::PowerOff)),
            ("[    0.5] reboot: Power off not available: System halted instead", Some(Exit::PowerOff)),
            ("reboot: System halted", Some(Exit::PowerOff)),
            ("[    1.0] Kernel panic - not syncing: Attempted to kill init!", Some(Exit::Panic)),
            ("[    1.0] evil: reboot: Power down", None),
            ("hello", None),
        ];
        for (line, expected) in cases {
            assert_eq!(last_words(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn the_first_last_word_counts_and_halting_is_told_once() {
        let calls = Arc::new(AtomicU32::new(0));
        let log = KernelLog::new();
        let counter = Arc::clone(&calls);
        log.on_halt(Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        let mut sink = log.sink();
        for byte in b"reboot: System halted\r\nreboot: Restarting system\r\nreboot: System halted\r\n" {
            sink.write_all(&[*byte]).unwrap();
        }
        assert_eq!(log.last_words(), Some(Exit::PowerOff));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let log = KernelLog::new();
        let mut sink = log.sink();
        let endless = vec![b'x'; 1 << 20];
        sink.write_all(&endless).unwrap();
        sink.write_all(b"\nlast line\n").unwrap();
        assert_eq!(log.state().tail.len(), TAIL);
        assert!(log.state().line.len() <= MAX_LINE);
        assert_eq!(log.last_lines(1), ["last line"]);
    }
}
