//! The results of `mote bench boot` as a page.

use std::path::Path;

use mote_runtime::Mark;

use super::report::{BootReport, Results, SubjectReport, number, numbers};
use crate::bench::{
    html::{
        Page,
        chart::{self, Bar, COLOURS, Piece},
    },
    stats::ms,
};

/// Blue is the host's work before the guest runs, orange the guest's kernel, green the agent and the command, grey the end.
fn colour(mark: Mark) -> &'static str {
    match mark {
        Mark::ProcessStarted => "#6c9cf0",
        Mark::SandboxStarted => "#3f78e0",
        Mark::VmCreated => "#2b58b5",
        Mark::MemoryReady => "#86aff5",
        Mark::KernelLoaded => "#4f86e8",
        Mark::FirstEntry => "#3566c8",
        Mark::InitStarted => "#e07b39",
        Mark::HelloReceived => "#1f7d52",
        Mark::CommandStarted => "#2f9e6b",
        Mark::CommandEnded => "#4fb587",
        Mark::Finished => "#7fcba8",
    }
}

const END: &str = "#7a7f8a";

pub(super) fn write(report: &BootReport, results: &[Results<'_>], path: &Path) -> anyhow::Result<()> {
    let circumstances =
        format!("{} starts each, {} at a time, {} to warm up", report.runs, report.parallel, report.warm_up);
    let mut page = Page::new("How long a machine takes to start", &report.host, &circumstances);
    timelines(&mut page, report);
    shares(&mut page, report, results);
    for subject in report.subjects.iter().filter(|subject| !subject.phases.is_empty()) {
        page.heading(&subject.name);
        let row = |phase: &super::report::PhaseReport| {
            (phase.description.to_owned(), colour(phase.phase), phase.own)
        };
        let rows: Vec<_> = subject.phases.iter().map(row).collect();
        page.figure(
            "Each phase's own time: a line from the least to the most, a bar to the 95th percentile, a mark at the median",
            &chart::ranges(&rows),
        );
        page.table(&table(subject));
        if let Some(counts) = &subject.counts {
            page.paragraph(&counts.text());
        }
    }
    page.write(path)
}

fn timelines(page: &mut Page, report: &BootReport) {
    let mut seen = Vec::new();
    let mut rows = Vec::new();
    for subject in &report.subjects {
        let mut pieces = Vec::new();
        let mut sum = 0.0;
        for phase in &subject.phases {
            // Of medians, so that the pieces add up to what the whole took.
            let own = (ms(phase.since.median_ns) - sum).max(0.0);
            sum += own;
            let title = format!("{}: {own:.3} ms", phase.description);
            pieces.push(Piece { value: own, colour: colour(phase.phase), title });
            if !seen.iter().any(|(_, description)| *description == phase.description) {
                seen.push((colour(phase.phase), phase.description));
            }
        }
        let whole = subject.exit.or(subject.marker).map(|whole| ms(whole.median_ns));
        let rest = whole.map_or(0.0, |whole| (whole - sum).max(0.0));
        if rest > 0.0 {
            let what = if subject.machine.is_some() { "end" } else { "until the marker" };
            pieces.push(Piece { value: rest, colour: END, title: format!("{what}: {rest:.3} ms") });
        }
        let total = format!("{:.1} ms", whole.unwrap_or(sum));
        rows.push(Bar { name: subject.name.clone(), pieces, total });
    }
    seen.push((END, "end of the machine, or a start whose phases are not known"));
    page.figure_with_legend("Where the time goes, milliseconds, medians", &chart::bars(&rows, "ms"), &seen);
}

fn shares(page: &mut Page, report: &BootReport, results: &[Results<'_>]) {
    let what = if report.marker.is_some() { "the marker" } else { "the exit" };
    let colours = COLOURS.iter().copied().cycle();
    let lines: Vec<_> =
        colours.clone().zip(results).map(|(colour, one)| (colour, one.whole().values())).collect();
    let names = report.subjects.iter().map(|subject| subject.name.as_str());
    let legend: Vec<_> = colours.zip(names).collect();
    let caption = format!("Which share of the starts had reached {what} when");
    page.figure_with_legend(&caption, &chart::shares(&lines), &legend);
}

fn table(subject: &SubjectReport) -> Vec<Vec<String>> {
    let head = ["ms", "since start", "own: min", "median", "p95", "p99", "max"].map(str::to_owned).to_vec();
    let mut lines = vec![head];
    for phase in &subject.phases {
        let cells = [phase.description.to_owned(), number(phase.since.median_ns)];
        lines.push(cells.into_iter().chain(numbers(&phase.own)).collect());
    }
    for (what, whole) in
        [("whole, until the marker", subject.marker), ("whole, until the exit", subject.exit)]
    {
        if let Some(whole) = whole {
            let cells = [what.to_owned(), number(whole.median_ns)];
            lines.push(cells.into_iter().chain(numbers(&whole)).collect());
        }
    }
    lines
}
