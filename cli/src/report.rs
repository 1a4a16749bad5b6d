//! What `mote` says at the end: failures and timelines.

use std::{fmt::Write as _, process::ExitCode};

use mote_runtime::{Error, Timeline};

use crate::args::LogFormat;

/// Says why `mote` itself failed.
pub(crate) fn failed(error: &anyhow::Error, debug: bool) -> ExitCode {
    eprintln!("mote: {error:#}");
    tracing::debug!("{error:?}");
    if debug {
        for cause in error.chain().skip(1) {
            eprintln!("  because: {cause}");
        }
    }
    ExitCode::from(125)
}

/// Says why a command could not be run to its end.
pub(crate) fn sandbox_failed(error: &Error, log_file: bool, debug: bool) -> ExitCode {
    let failure = &error.0;
    let mut text = format!("mote: {}\n", printable(&failure.message));
    if debug {
        for cause in &failure.causes {
            let _ = writeln!(text, "  because: {}", printable(cause));
        }
    }
    if !failure.kernel_log.is_empty() {
        let _ = writeln!(text, "the guest's last words:");
        for line in &failure.kernel_log {
            let _ = writeln!(text, "  {}", printable(line));
        }
    }
    eprint!("{text}");
    if log_file {
        tracing::error!("{}", failure.message);
    }
    ExitCode::from(error.exit_status())
}

/// A guest's words may be part of what is said: they stay on their line, and move nobody's terminal.
fn printable(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

/// Shows when what was reached, on standard error.
pub(crate) fn timeline(timeline: &Timeline, format: LogFormat) {
    match format {
        LogFormat::Text => eprint!("{}", timeline_text(timeline)),
        LogFormat::Json => eprintln!("{}", timeline_json(timeline)),
    }
}

#[allow(clippy::cast_precision_loss)]
fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn timeline_text(timeline: &Timeline) -> String {
    let mut text = format!("{:<28} {:>12} {:>12}\n", "phase", "since exec", "own");
    for (mark, since, own) in timeline.phases() {
        let (since, own) = (milliseconds(since), milliseconds(own));
        let _ = writeln!(text, "{:<28} {since:>9.3} ms {own:>9.3} ms", mark.describe());
    }
    text
}

fn timeline_json(timeline: &Timeline) -> serde_json::Value {
    let phases = timeline.phases().into_iter().map(
        |(mark, since, own)| serde_json::json!({ "phase": mark, "since_exec_ns": since, "own_ns": own }),
    );
    serde_json::json!({ "start_monotonic_ns": timeline.start, "phases": phases.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use mote_runtime::Mark;

    use super::*;

    fn sample() -> Timeline {
        Timeline {
            start: 0,
            marks: vec![(Mark::ProcessStarted, 1_500_000), (Mark::HelloReceived, 60_000_000)],
        }
    }

    #[test]
    fn words_of_a_guest_move_no_terminal() {
        assert_eq!(printable("\u{1b}[2Jfür\u{9b}\r\n\t"), r"\u{1b}[2Jfür\u{9b}\r\n\t");
    }

    #[test]
    fn text_has_one_line_a_phase() {
        let text = timeline_text(&sample());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[2].contains("hello received")
                && lines[2].contains("60.000 ms")
                && lines[2].contains("58.500 ms")
        );
    }

    #[test]
    fn json_is_in_nanoseconds() {
        let json = timeline_json(&sample());
        assert_eq!(json["phases"][1]["phase"], "hello-received");
        assert_eq!(json["phases"][1]["since_exec_ns"], 60_000_000);
    }
}
