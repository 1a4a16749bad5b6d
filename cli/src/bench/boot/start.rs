//! One start: makes the process, takes the times.

use std::{
    io::Read,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use mote_runtime::Mark;
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};
use serde::Deserialize;

use super::subject::{Kind, Subject};
use crate::bench::children::Measured;

/// How long a rival that has shown its marker may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How much of a failed start's output is shown, in lines.
const LAST_LINES: usize = 5;

/// What a start took. Nanoseconds since just before its process was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    /// What Mote's timeline tells, in the order in which it happened.
    pub(super) marks: Vec<(Mark, u64)>,
    /// When the output had shown the marker.
    pub(super) marker: Option<u64>,
    /// When the process had ended by itself.
    pub(super) exit: Option<u64>,
}

/// What `mote run --timeline=json` prints.
#[derive(Debug, Deserialize)]
struct TimelineOutput {
    start_monotonic_ns: u64,
    phases: Vec<PhaseOutput>,
}

#[derive(Debug, Deserialize)]
struct PhaseOutput {
    phase: Mark,
    since_exec_ns: u64,
}

/// `CLOCK_MONOTONIC`, on which timelines are given.
fn now() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    Ok(u64::try_from(Duration::from(time).as_nanos())?)
}

impl Subject {
    /// Starts it once, and waits for its end.
    pub(super) fn start(&self, limit: Duration) -> anyhow::Result<Start> {
        let failed = || format!("cannot measure '{}'", self.name);
        match &self.kind {
            Kind::Mote(_) => self.start_mote(limit, &[]).map(|(start, _)| start).with_context(failed),
            Kind::Rival { .. } => self.start_rival(limit).with_context(failed),
        }
    }

    /// Starts a machine of Mote's once; returns what it logged.
    pub(super) fn start_with_log(&self, limit: Duration) -> anyhow::Result<String> {
        let started = self.start_mote(limit, &["--debug", "--log-format=json"]);
        started.map(|(_, log)| log).with_context(|| format!("cannot count what '{}' does", self.name))
    }

    /// Returns also what it wrote to standard error.
    fn start_mote(&self, limit: Duration, log_options: &[&str]) -> anyhow::Result<(Start, String)> {
        let (stdout, stdout_writer) = std::io::pipe().context("cannot make a pipe")?;
        let (mut stderr, stderr_writer) = std::io::pipe().context("cannot make a pipe")?;
        let (program, arguments) = self.command();
        let mut command = Command::new(program);
        command
            .args(log_options)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout_writer)
            .stderr(stderr_writer);
        let before = now()?;
        let mut process = Measured::spawn(&mut command).context("cannot start mote")?;
        drop(command);
        let deadline = process.kill_after(limit)?;
        let (marker, output) = watch(stdout, self.marker.as_deref())?;
        let mut words = String::new();
        stderr.read_to_string(&mut words).context("cannot read the timeline")?;
        let status = process.wait().context("cannot wait for mote")?;
        let exit = now()?;
        ensure!(!deadline.is_over(), "not done within {} s (--limit)", limit.as_secs());
        ensure!(status.success(), "{}", ended(status, words.as_bytes()));
        if let Some(text) = &self.marker {
            ensure!(marker.is_some(), "'{text}' is not in its output: {}", ended(status, &output));
        }
        let marks = marks(&words, before).with_context(|| format!("no timeline in: {words}"))?;
        let since = |at: u64| at.saturating_sub(before);
        Ok((Start { marks, marker: marker.map(since), exit: Some(since(exit)) }, words))
    }

    fn start_rival(&self, limit: Duration) -> anyhow::Result<Start> {
        let (output, writer) = std::io::pipe().context("cannot make a pipe")?;
        let (program, arguments) = self.command();
        let mut command = Command::new(program);
        let second = writer.try_clone().context("cannot make a pipe")?;
        command.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(second);
        let before = now()?;
        let mut process = Measured::spawn(&mut command).context("cannot start a shell")?;
        drop(command);
        let text = self.marker.as_deref().unwrap_or_default();
        let deadline = process.kill_after(limit)?;
        let (marker, words) = watch(&output, Some(text))?;
        let over = deadline.is_over();
        drop(deadline);
        let Some(marker) = marker else {
            let status = process.wait().context("cannot wait for it")?;
            if over {
                bail!(
                    "its output did not show '{text}' within {} s (--limit){}",
                    limit.as_secs(),
                    said(&words)
                );
            }
            bail!("its output did not show '{text}': {}", ended(status, &words));
        };
        process.signal(Signal::SIGTERM);
        let deadline = process.kill_after(GRACE)?;
        process.wait().context("cannot wait for it")?;
        drop(deadline);
        Ok(Start { marks: Vec::new(), marker: Some(marker.saturating_sub(before)), exit: None })
    }
}

/// Reads `output` until `marker` has appeared or, without a marker, to its end. Returns when it appeared, and the output.
fn watch(mut output: impl Read, marker: Option<&str>) -> anyhow::Result<(Option<u64>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = match output.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read its output"),
        };
        let at = now()?;
        if count == 0 {
            return Ok((None, all));
        }
        // The marker may have begun in what was read before.
        let from = all.len().saturating_sub(marker.map_or(0, str::len));
        all.extend_from_slice(&buffer[..count]);
        if let Some(marker) = marker
            && all[from..].windows(marker.len()).any(|window| window == marker.as_bytes())
        {
            return Ok((Some(at), all));
        }
    }
}

/// The marks in `mote`'s words, which end with its timeline.
fn marks(words: &str, before: u64) -> anyhow::Result<Vec<(Mark, u64)>> {
    let line = words.lines().rfind(|line| line.starts_with('{')).context("no line begins with {")?;
    let timeline: TimelineOutput = serde_json::from_str(line)?;
    let since = |phase: PhaseOutput| {
        let at = timeline.start_monotonic_ns.saturating_add(phase.since_exec_ns);
        (phase.phase, at.saturating_sub(before))
    };
    let mut marks: Vec<_> = timeline.phases.into_iter().map(since).collect();
    // Marks of the guest's are late by the time that a message takes; none can come after the host has seen its consequence.
    if let Some(finished) = marks.iter().find(|(mark, _)| *mark == Mark::Finished).map(|(_, at)| *at) {
        marks.iter_mut().for_each(|(_, at)| *at = (*at).min(finished));
    }
    marks.sort_by_key(|(mark, at)| (*at, *mark));
    Ok(marks)
}

fn ended(status: ExitStatus, output: &[u8]) -> String {
    format!("it ended ({status}){}", said(output))
}

fn said(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return " without a word".into();
    }
    format!(" and said: {}", lines[lines.len().saturating_sub(LAST_LINES)..].join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rival(command: &str) -> Subject {
        let kind = Kind::Rival { command: command.into() };
        Subject { name: "rival".into(), kind, marker: Some("READY".into()) }
    }

    fn start(command: &str, limit: u64) -> Result<Start, String> {
        rival(command).start(Duration::from_secs(limit)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_rival_is_measured_by_its_marker() {
        for command in ["echo is READY; sleep 1000", "printf REA >&2; printf DY >&2; exec sleep 1000"] {
            let start = start(command, 100).unwrap();
            assert!(start.marker.is_some() && start.exit.is_none() && start.marks.is_empty());
        }
    }

    #[test]
    fn a_rival_that_fails_is_told_with_its_words() {
        let error = start("echo no such bundle >&2; exit 3", 100).unwrap_err();
        for word in ["rival", "READY", "exit status: 3", "no such bundle"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        let error = start("exit 0", 100).unwrap_err();
        assert!(error.contains("without a word"), "{error}");
    }

    #[test]
    fn a_marker_that_never_appears_ends_with_the_limit() {
        let error = start("echo hello; exec sleep 1000", 1).unwrap_err();
        assert!(error.contains("within 1 s") && error.contains("hello"), "{error}");
    }

    #[test]
    fn marks_are_put_on_the_callers_clock() {
        let words = "a warning\n{\"start_monotonic_ns\":1000,\"phases\":[{\"phase\":\"process-started\",\
                     \"since_exec_ns\":20,\"own_ns\":20},{\"phase\":\"hello-received\",\"since_exec_ns\":50,\"own_ns\":30}]}\n";
        assert_eq!(marks(words, 990).unwrap(), [(Mark::ProcessStarted, 30), (Mark::HelloReceived, 60)]);
        assert!(marks("mote: no kernel", 0).is_err());
    }

    #[test]
    fn the_last_lines_are_enough() {
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        assert_eq!(said(text.as_bytes()), " and said: line 95; line 96; line 97; line 98; line 99");
    }
}
