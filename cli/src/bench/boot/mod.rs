//! `mote bench boot`: how long a machine takes to start.
//!
//! A start is `mote run -- true`, as its caller sees it: the clock runs from just before the process is made. The phases are those of
//! the timeline that `mote run` reports itself, on the same clock. With rivals, a start is complete when its output shows a
//! marker, for Mote as for the others.
//!
//! When all times are taken, one more start of each machine is counted: exits and page faults.
//!
//! Subjects take turns, so that whatever else happens on the host meanwhile happens to all of them. What a machine leaves is waited for,
//! so that it does not happen to the next one.

mod counts;
mod page;
mod report;
mod start;
mod subject;

use std::{sync::mpsc, time::Duration};

use anyhow::Context;

use self::{
    report::{BootReport, Results},
    start::Start,
    subject::Subject,
};
use super::{args::BootOptions, host::Host, html, orphans::Orphans, print_json, progress};

pub(super) fn bench(options: &BootOptions) -> anyhow::Result<()> {
    let subjects = subject::all(options)?;
    if let Some(path) = &options.html {
        html::check(path)?;
    }
    let limit = Duration::from_secs(options.limit.into());
    let mut results = subjects.iter().map(Results::new).collect::<anyhow::Result<Vec<_>>>()?;
    let total = u64::from(options.warm_up + options.runs) * u64::try_from(subjects.len())?;
    let mut orphans = Orphans::adopt()?;
    let bar = progress::bar(usize::try_from(total)?, "");
    for (counts, runs) in [(false, options.warm_up), (true, options.runs)] {
        let mut left = runs;
        while left > 0 {
            let batch = left.min(options.parallel);
            for (subject, results) in subjects.iter().zip(&mut results) {
                bar.set_message(subject.name.clone());
                let starts = start_together(subject, batch, limit)?;
                // A rival may have left what lives on.
                if subject.is_mote() {
                    orphans.wait()?
                } else {
                    orphans.disregard()?
                }
                if counts {
                    starts.iter().for_each(|start| results.add(start));
                }
                bar.inc(batch.into());
            }
            left -= batch;
        }
    }
    for (subject, results) in subjects.iter().zip(&mut results) {
        results.counts = counts::count(subject, limit)?;
    }
    bar.finish_and_clear();
    let report = BootReport {
        kind: "boot",
        host: Host::here(),
        runs: options.runs,
        warm_up: options.warm_up,
        parallel: options.parallel,
        marker: options.marker.clone(),
        subjects: results.iter().map(Results::report).collect(),
    };
    if let Some(path) = &options.html {
        page::write(&report, &results, path)?;
    }
    if options.output.json {
        print_json(&report)
    } else {
        print!("{}", report.text());
        Ok(())
    }
}

/// Starts `count` machines at the same time, and waits for all of them.
fn start_together(subject: &Subject, count: u32, limit: Duration) -> anyhow::Result<Vec<Start>> {
    if count == 1 {
        return Ok(vec![subject.start(limit)?]);
    }
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for _ in 0..count {
            let sender = sender.clone();
            let work = move || {
                // Whoever waits for it is gone if another has failed.
                let _ = sender.send(subject.start(limit));
            };
            std::thread::Builder::new().spawn_scoped(scope, work).context("cannot start a thread")?;
        }
        Ok(())
    })?;
    drop(sender);
    results.into_iter().collect()
}
