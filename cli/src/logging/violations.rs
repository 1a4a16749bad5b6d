//! The last log line of a process that made a forbidden system call. It is written from a signal handler: without the logger,
//! whose locks the thread may hold, and without memory that is not there yet.

use std::{
    fmt::{self, Write},
    os::fd::RawFd,
    sync::OnceLock,
    time::SystemTime,
};

use mote_vmm::seccomp::{self, Violation};

use super::LogFormat;

/// Where the line goes, and how it looks.
static LOG: OnceLock<(RawFd, LogFormat)> = OnceLock::new();

/// The status of a failure of ours.
const FAILED: u8 = 125;

/// Has forbidden system calls reported to the descriptor of the log, which stays open as long as the process lives.
pub(super) fn report_to(fd: RawFd, format: LogFormat) {
    // There is one log.
    let _ = LOG.set((fd, format));
    seccomp::report_with(report, FAILED);
}

fn report(violation: &Violation) {
    let Some((fd, format)) = LOG.get() else { return };
    let mut line = Line { bytes: [0; 320], len: 0 };
    // What does not fit is left out.
    let _ = write_line(&mut line, violation, *format, SystemTime::now());
    // SAFETY: the descriptor takes what is initialised, up to `len`, of a buffer that lives on this stack.
    unsafe { nix::libc::write(*fd, line.bytes.as_ptr().cast(), line.len) };
}

/// As [`Shape`](super::Shape) has it. Nothing in the message needs to be escaped.
fn write_line(
    out: &mut impl Write,
    violation: &Violation,
    format: LogFormat,
    now: SystemTime,
) -> fmt::Result {
    let time = humantime::format_rfc3339_seconds(now);
    match format {
        LogFormat::Text => writeln!(out, "time=\"{time}\" level=error msg=\"{violation}\""),
        LogFormat::Json => {
            writeln!(out, "{{\"level\":\"error\",\"msg\":\"{violation}\",\"time\":\"{time}\"}}")
        }
    }
}

struct Line {
    bytes: [u8; 320],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let taken = room.get_mut(..text.len()).ok_or(fmt::Error)?;
        taken.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_like_all_others() {
        let violation = Violation { kind: "vCPU", number: nix::libc::SYS_execve };
        let line = |format| {
            let mut line = Line { bytes: [0; 320], len: 0 };
            write_line(&mut line, &violation, format, SystemTime::UNIX_EPOCH).unwrap();
            String::from_utf8(line.bytes[..line.len].to_vec()).unwrap()
        };
        let text = line(LogFormat::Text);
        assert!(text.starts_with("time=\"1970-01-01T00:00:00Z\" level=error msg=\"seccomp: "), "{text}");
        assert!(text.contains("vCPU thread") && text.ends_with("\"\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json)).unwrap();
        assert_eq!(json["level"], "error");
        assert!(json["msg"].as_str().unwrap().contains("execve (59)"));
    }
}
