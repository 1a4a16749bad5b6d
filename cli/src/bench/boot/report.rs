//! The results of `mote bench boot`. Their JSON is described in docs/bench.md.

use std::{collections::BTreeMap, fmt::Write as _};

use mote_runtime::Mark;
use serde::Serialize;

use super::{
    counts::Counts,
    start::Start,
    subject::{Kind, Machine, Subject},
};
use crate::bench::{
    host::Host,
    stats::{Distribution, Summary, ms},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(super) struct BootReport {
    pub(super) kind: &'static str,
    pub(super) host: Host,
    pub(super) runs: u32,
    pub(super) warm_up: u32,
    pub(super) parallel: u32,
    pub(super) marker: Option<String>,
    pub(super) subjects: Vec<SubjectReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct SubjectReport {
    pub(super) name: String,
    /// None for a rival.
    pub(super) machine: Option<Machine>,
    /// In the order in which they are reached.
    pub(super) phases: Vec<PhaseReport>,
    /// Until the marker was seen.
    pub(super) marker: Option<Summary>,
    /// Until the process had ended.
    pub(super) exit: Option<Summary>,
    /// During one start more. None for a rival.
    pub(super) counts: Option<Counts>,
}

#[derive(Debug, Serialize)]
pub(super) struct PhaseReport {
    pub(super) phase: Mark,
    #[serde(skip)]
    pub(super) description: &'static str,
    /// Since the start.
    pub(super) since: Summary,
    /// Since the phase before it.
    pub(super) own: Summary,
}

/// What was measured of one subject.
pub(super) struct Results<'a> {
    subject: &'a Subject,
    phases: BTreeMap<Mark, Phase>,
    marker: Distribution,
    exit: Distribution,
    empty: Distribution,
    pub(super) counts: Option<Counts>,
}

struct Phase {
    since: Distribution,
    own: Distribution,
}

impl<'a> Results<'a> {
    pub(super) fn new(subject: &'a Subject) -> anyhow::Result<Self> {
        let empty = Distribution::new()?;
        let (marker, exit) = (empty.clone(), empty.clone());
        Ok(Self { subject, phases: BTreeMap::new(), marker, exit, empty, counts: None })
    }

    pub(super) fn add(&mut self, start: &Start) {
        let mut before = 0;
        for &(mark, since) in &start.marks {
            let phase = self
                .phases
                .entry(mark)
                .or_insert_with(|| Phase { since: self.empty.clone(), own: self.empty.clone() });
            phase.since.record(since);
            phase.own.record(since.saturating_sub(before));
            before = since;
        }
        start.marker.into_iter().for_each(|since| self.marker.record(since));
        start.exit.into_iter().for_each(|since| self.exit.record(since));
    }

    /// Until the marker, if there is one, else until the exit.
    pub(super) fn whole(&self) -> &Distribution {
        if self.marker.summary().count > 0 { &self.marker } else { &self.exit }
    }

    pub(super) fn report(&self) -> SubjectReport {
        let mut phases: Vec<_> = self
            .phases
            .iter()
            .map(|(mark, phase)| PhaseReport {
                phase: *mark,
                description: mark.describe(),
                since: phase.since.summary(),
                own: phase.own.summary(),
            })
            .collect();
        phases.sort_by_key(|phase| (phase.since.median_ns, phase.phase));
        let some =
            |distribution: &Distribution| Some(distribution.summary()).filter(|summary| summary.count > 0);
        SubjectReport {
            name: self.subject.name.clone(),
            machine: match &self.subject.kind {
                Kind::Mote(machine) => Some(machine.clone()),
                Kind::Rival { .. } => None,
            },
            phases,
            marker: some(&self.marker),
            exit: some(&self.exit),
            counts: self.counts.clone(),
        }
    }
}

impl BootReport {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{}\n{} starts each, {} at a time, {} to warm up; milliseconds\n",
            self.host.describe(),
            self.runs,
            self.parallel,
            self.warm_up
        );
        for subject in &self.subjects {
            let _ = write!(text, "\n{}", subject.table().render());
            if let Some(counts) = &subject.counts {
                let _ = writeln!(text, "{}", counts.text());
            }
        }
        if self.subjects.len() > 1 {
            let _ = write!(text, "\n{}", self.comparison().render());
        }
        text
    }

    /// One line a subject: what counts in the end.
    fn comparison(&self) -> Table {
        let what = if self.marker.is_some() { "until the marker" } else { "until the exit" };
        let mut table = Table::new(&[what, "min", "median", "p95", "p99", "max"]);
        for subject in &self.subjects {
            let whole = if self.marker.is_some() { subject.marker } else { subject.exit };
            if let Some(whole) = whole {
                table.line([subject.name.clone()].into_iter().chain(numbers(&whole)));
            }
        }
        table
    }
}

impl SubjectReport {
    fn table(&self) -> Table {
        let mut table = Table::new(&[&self.name, "since", "min", "median", "p95", "p99", "max"]);
        for phase in &self.phases {
            let cells = [phase.description.to_owned(), number(phase.since.median_ns)];
            table.line(cells.into_iter().chain(numbers(&phase.own)));
        }
        for (what, whole) in [("whole, until the marker", self.marker), ("whole, until the exit", self.exit)]
        {
            if let Some(whole) = whole {
                let cells = [what.to_owned(), number(whole.median_ns)];
                table.line(cells.into_iter().chain(numbers(&whole)));
            }
        }
        table
    }
}

pub(super) fn number(ns: u64) -> String {
    format!("{:.3}", ms(ns))
}

pub(super) fn numbers(summary: &Summary) -> [String; 5] {
    let Summary { min_ns, median_ns, p95_ns, p99_ns, max_ns, .. } = *summary;
    [min_ns, median_ns, p95_ns, p99_ns, max_ns].map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BootReport {
        let machine = Machine { hypervisor: "kvm", vcpus: 1, memory_mib: 128, kernel: None };
        let subject = Subject { name: "mote kvm".into(), kind: Kind::Mote(machine), marker: None };
        let mut results = Results::new(&subject).unwrap();
        for extra in [0, 2_000_000, 1_000_000] {
            results.add(&Start {
                marks: vec![
                    (Mark::ProcessStarted, 1_000_000),
                    (Mark::FirstEntry, 5_000_000 + extra),
                    (Mark::HelloReceived, 55_000_000 + extra),
                ],
                marker: None,
                exit: Some(70_000_000 + extra),
            });
        }
        results.counts = Some(Counts { kvm: None, minor_faults: 1, major_faults: 0 });
        let host = Host {
            mote: "1.0",
            kernel: "6.1".into(),
            processor: "a processor".into(),
            cpus: 2,
            memory_mib: 1024,
        };
        let subjects = vec![results.report()];
        BootReport { kind: "boot", host, runs: 3, warm_up: 1, parallel: 1, marker: None, subjects }
    }

    #[test]
    fn json_has_the_documented_shape() {
        let json = serde_json::to_value(sample()).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(keys(&json), set(&["kind", "host", "runs", "warm_up", "parallel", "marker", "subjects"]));
        assert_eq!(keys(&json["host"]), set(&["mote", "kernel", "processor", "cpus", "memory_mib"]));
        let subject = &json["subjects"][0];
        assert_eq!(keys(subject), set(&["name", "machine", "phases", "marker", "exit", "counts"]));
        assert_eq!(keys(&subject["machine"]), set(&["hypervisor", "vcpus", "memory_mib", "kernel"]));
        assert_eq!(keys(&subject["phases"][0]), set(&["phase", "since", "own"]));
        let summary = set(&["count", "min_ns", "median_ns", "p95_ns", "p99_ns", "max_ns"]);
        assert_eq!(keys(&subject["phases"][0]["since"]), summary);
        assert_eq!(keys(&subject["exit"]), summary);
        assert_eq!(subject["phases"][2]["phase"], "hello-received");
        assert_eq!(keys(&subject["counts"]), set(&["kvm", "minor_faults", "major_faults"]));
        assert!(subject["marker"].is_null());
    }

    #[test]
    fn phases_have_their_own_time() {
        let report = sample();
        let [started, entry, hello] = &report.subjects[0].phases[..] else { panic!("{report:?}") };
        let near = |value: u64, expected: u64| value.abs_diff(expected) * 1000 <= expected;
        assert!(near(started.own.max_ns, 1_000_000));
        assert!(near(entry.own.min_ns, 4_000_000) && near(entry.own.median_ns, 5_000_000));
        assert!(near(hello.own.median_ns, 50_000_000) && near(hello.since.median_ns, 56_000_000));
    }

    #[test]
    fn text_names_every_phase() {
        let text = sample().text();
        for words in ["first vCPU entry", "hello received", "whole, until the exit", "3 starts each"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
