//! The gate: figures against those of a baseline.
//!
//! The baseline is a JSON object from names to values, one a line, sorted: readable in a review, where each of its lines is a decision.

use std::{collections::BTreeMap, io, path::Path};

use super::{Figure, Kind};

/// How much worse a figure may be, of its baseline.
const TOLERANCE: f64 = 0.03;

/// Names and values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Baseline(BTreeMap<String, f64>);

/// What is wrong with one figure.
#[derive(Debug, Clone, PartialEq)]
pub enum Complaint {
    /// More than 3 % worse.
    Worse {
        /// The figure now.
        figure: Figure,
        /// The value in the baseline.
        before: f64,
    },
    /// In the baseline, but not measured.
    NotMeasured(String),
    /// Measured, but not in the baseline.
    NotInBaseline(String),
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Worse { figure, before } => {
                let Figure { name, value, unit, .. } = figure;
                let percent = (value / before - 1.0) * 100.0;
                write!(f, "{name}: {value:.3} {unit}, was {before:.3} ({percent:+.1} %)")
            }
            Self::NotMeasured(name) => write!(f, "{name}: in the baseline, but not measured"),
            Self::NotInBaseline(name) => write!(f, "{name}: measured, but not in the baseline"),
        }
    }
}

/// What chance moves from one phase of a start to the next: half a tick of the host's clock.
const SHIFT_MS: f64 = 2.0;

/// A difference that is not one: less than it takes to notice, in the figure's unit.
fn noise(figure: &Figure) -> f64 {
    match figure.unit {
        "ms" => 0.05,
        "KiB" => 16.0,
        "MiB" => 0.3,
        _ => 0.0,
    }
}

impl Baseline {
    /// The baseline that these figures make.
    #[must_use]
    pub fn of(figures: &[Figure]) -> Self {
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Self(watched(figures).map(|figure| (figure.name.clone(), rounded(figure.value))).collect())
    }

    /// Reads one.
    ///
    /// # Errors
    /// The file cannot be read, or is not an object of numbers.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self(serde_json::from_str(&std::fs::read_to_string(path)?)?))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, serde_json::to_string_pretty(&self.0)? + "\n")
    }

    /// Everything that is wrong with `figures`; nothing if they may pass.
    ///
    /// Of a start that is too slow as a whole, every phase that is slower is named; in one that is not, a phase has to be slower by
    /// more than chance.
    #[must_use]
    pub fn complaints(&self, figures: &[Figure]) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        let is_slow = |name: &str| {
            let wholes = figures.iter().filter(|figure| figure.kind == Kind::Whole);
            let mut same = wholes.filter(|figure| subject(&figure.name) == subject(name));
            same.any(|figure| self.0.get(&figure.name).is_some_and(|before| is_worse(figure, *before)))
        };
        for figure in watched(figures) {
            match self.0.get(&figure.name) {
                None => complaints.push(Complaint::NotInBaseline(figure.name.clone())),
                Some(before)
                    if is_worse(figure, *before)
                        && (figure.kind != Kind::Phase
                            || figure.value - before > SHIFT_MS
                            || is_slow(&figure.name)) =>
                {
                    complaints.push(Complaint::Worse { figure: figure.clone(), before: *before });
                }
                Some(_) => {}
            }
        }
        let measured = |name: &str| figures.iter().any(|figure| figure.name == name);
        let missing = self.0.keys().filter(|name| !measured(name));
        complaints.extend(missing.cloned().map(Complaint::NotMeasured));
        complaints
    }

    /// How many figures have become more than 3 % better: time for a new baseline.
    #[must_use]
    pub fn improvements(&self, figures: &[Figure]) -> usize {
        let better = |figure: &&Figure| {
            self.0.get(&figure.name).is_some_and(|before| {
                let (now, before) = (Figure { value: *before, ..(*figure).clone() }, figure.value);
                is_worse(&now, before)
            })
        };
        watched(figures).filter(better).count()
    }
}

/// What a figure is about: its name without the last part.
fn subject(name: &str) -> &str {
    name.rsplit_once(": ").map_or(name, |(subject, _)| subject)
}

fn watched(figures: &[Figure]) -> impl Iterator<Item = &Figure> {
    figures.iter().filter(|figure| figure.kind != Kind::Shown)
}

fn is_worse(figure: &Figure, before: f64) -> bool {
    let by = if figure.less_is_better() { figure.value - before } else { before - figure.value };
    // A value that is not a number is worse than any.
    !(by <= before.abs() * TOLERANCE || by <= noise(figure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Limit, boot, figures};

    fn figure(name: &str, value: f64, unit: &'static str, limit: Limit) -> Figure {
        Figure::new(name, value, unit, limit)
    }

    #[test]
    fn a_doctored_baseline_is_noticed_and_the_phase_named() {
        let measured = figures(&boot::tests::sample()).unwrap();
        let honest = Baseline::of(&measured);
        assert_eq!(honest.complaints(&measured), []);
        let mut doctored = honest.clone();
        *doctored.0.get_mut("start with 1 vCPU, 128 MiB: phase guest kernel").unwrap() *= 0.9;
        assert_eq!(doctored.complaints(&measured), [], "chance");
        *doctored.0.get_mut("start with 1 vCPU, 128 MiB: to exit").unwrap() *= 0.9;
        let [whole, phase] = &doctored.complaints(&measured)[..] else { panic!("two complaints") };
        assert!(whole.to_string().contains("to exit"), "{whole}");
        let text = phase.to_string();
        assert!(text.contains("phase guest kernel") && text.contains("+11.1 %"), "{text}");
    }

    #[test]
    fn three_percent_is_the_line() {
        for (limit, good, bad) in
            [(Limit::Less, 102.9, 103.1), (Limit::Most(1.0), 102.9, 103.1), (Limit::More, 97.1, 96.9)]
        {
            let baseline = Baseline::of(&[figure("x", 100.0, "MiB/s", limit)]);
            assert_eq!(baseline.complaints(&[figure("x", good, "MiB/s", limit)]), [], "{limit:?}");
            assert_eq!(baseline.complaints(&[figure("x", bad, "MiB/s", limit)]).len(), 1, "{limit:?}");
        }
        let baseline = Baseline::of(&[figure("x", 100.0, "ms", Limit::Less)]);
        assert_eq!(baseline.complaints(&[figure("x", f64::NAN, "ms", Limit::Less)]).len(), 1);
        assert_eq!(baseline.improvements(&[figure("x", 96.0, "ms", Limit::Less)]), 1);
        assert_eq!(baseline.improvements(&[figure("x", 98.0, "ms", Limit::Less)]), 0);
    }

    #[test]
    fn what_is_missing_on_either_side_fails() {
        let baseline = Baseline::of(&[figure("old", 1.0, "ms", Limit::Less)]);
        assert_eq!(
            baseline.complaints(&[figure("new", 1.0, "ms", Limit::Less)]),
            [Complaint::NotInBaseline("new".into()), Complaint::NotMeasured("old".into())]
        );
    }

    #[test]
    fn baselines_survive_their_file() {
        let folder = crate::harness::temporary();
        let path = folder.path().join("baseline.json");
        let baseline = Baseline::of(&[figure("x", 1.23456, "ms", Limit::Less)]);
        baseline.write(&path).unwrap();
        assert_eq!(Baseline::read(&path).unwrap(), baseline);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"x\": 1.235\n}\n");
        std::fs::write(&path, "{ \"x\": \"fast\" }").unwrap();
        assert!(Baseline::read(&path).is_err());
    }
}
