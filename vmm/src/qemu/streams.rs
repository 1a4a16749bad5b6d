//! What a QEMU process says: the guest's kernel log, QEMU's complaints, and the answer on its monitor.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use crate::LogSink;

/// How much is kept of QEMU's complaints, and of what the monitor says before the answer. In bytes.
const KEPT: usize = 4096;
/// How much is read at a time.
const CHUNK: usize = 4096;
/// What the answer to a command has, and the monitor's greeting has not.
const ANSWER: &[u8] = b"\"return\"";
/// How many commands are to be answered before the guest runs.
const ANSWERS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// The guest's first serial port.
    Serial,
    /// QEMU's standard error.
    Complaints,
    /// QEMU's monitor.
    Monitor,
}

pub(super) struct Streams {
    open: Vec<(Stream, UnixStream)>,
    log: LogSink,
    complaints: Vec<u8>,
    monitor: Vec<u8>,
    answered: bool,
}

impl Streams {
    pub(super) fn new(open: Vec<(Stream, UnixStream)>, log: LogSink) -> Self {
        Self { open, log, complaints: Vec::new(), monitor: Vec::new(), answered: false }
    }

    /// Those that have not ended.
    pub(super) fn open(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        self.open.iter().map(|(stream, socket)| (*stream, socket.as_fd()))
    }

    /// Reads what there is of one that is ready.
    pub(super) fn read(&mut self, stream: Stream) {
        let Some(index) = self.open.iter().position(|(open, _)| *open == stream) else { return };
        let mut chunk = [0; CHUNK];
        match self.open[index].1.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A stream that fails has ended as well: QEMU's end was closed with something unread.
            Ok(0) | Err(_) => {
                self.open.swap_remove(index);
            }
            Ok(len) => self.take(stream, &chunk[..len]),
        }
    }

    /// Reads all to the end. QEMU must be gone.
    pub(super) fn drain(&mut self) {
        while let Some((stream, _)) = self.open.first() {
            self.read(*stream);
        }
    }

    /// Whether the monitor has answered everything.
    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    /// The last line that QEMU wrote to its standard error, without its name in front.
    pub(super) fn last_complaint(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.complaints);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        let message = match line.split_once(": ") {
            Some((name, message)) if !name.contains(' ') && name.contains("qemu") => message,
            _ => line,
        };
        Some(message.to_owned())
    }

    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Serial => {
                // Its sink takes everything.
                let _ = self.log.write_all(bytes);
            }
            Stream::Complaints => {
                tracing::debug!("QEMU: {}", String::from_utf8_lossy(bytes).trim_end());
                keep(&mut self.complaints, bytes);
            }
            Stream::Monitor if self.answered => {}
            Stream::Monitor => {
                keep(&mut self.monitor, bytes);
                let answers = self.monitor.windows(ANSWER.len()).filter(|window| *window == ANSWER);
                self.answered = answers.count() >= ANSWERS;
            }
        }
    }
}

/// Appends, and forgets what is too old.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(bytes);
    kept.drain(..kept.len().saturating_sub(KEPT));
}
