//! The figures that the project watches, taken from what `mote bench … --json` says.
//!
//! **Owns** their names, units and limits, and the comparison with a baseline ([`baseline`]). **Must not know** how anything is
//! measured: that is `mote bench`'s, and there is no second way.

pub mod baseline;
mod boot;
mod container;
mod io;
mod memory;
pub mod walls;

use serde_json::Value;

/// Which way is better, and how far it has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most so much.
    Most(f64),
    /// At least so much.
    Least(f64),
    /// Less is better.
    Less,
    /// More is better.
    More,
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is. Unique.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// How much it may be.
    pub limit: Limit,
    /// How it belongs to others.
    pub kind: Kind,
}

/// How a figure belongs to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It stands for itself.
    Whole,
    /// Part of a whole that is a figure too: watched, so that a loss has a name.
    Phase,
    /// Shown, but not watched: between two figures that are, or too much a matter of chance.
    Shown,
}

/// Why a result is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("mote bench says nothing of {0}")]
pub struct Missing(pub String);

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, limit: Limit) -> Self {
        Self { name: name.into(), value, unit, limit, kind: Kind::Whole }
    }

    /// Whether less of it is better.
    #[must_use]
    pub fn less_is_better(&self) -> bool {
        matches!(self.limit, Limit::Most(_) | Limit::Less)
    }

    /// This figure, or the one of the same name in `others` if that is better.
    #[must_use]
    pub fn better_of(self, others: &[Self]) -> Self {
        let Some(other) = others.iter().find(|other| other.name == self.name) else { return self };
        let is_better =
            if self.less_is_better() { other.value < self.value } else { other.value > self.value };
        if is_better { other.clone() } else { self }
    }

    /// One line: the value beside its limit.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { name, value, unit, .. } = self;
        let line = format!("{name:<60} {value:>9.3} {unit:<5}");
        match self.limit {
            Limit::Most(most) => format!("{line}  at most  {most:>7}{}", verdict(*value <= most)),
            Limit::Least(least) => format!("{line}  at least {least:>7}{}", verdict(*value >= least)),
            Limit::Less | Limit::More => line.trim_end().to_owned(),
        }
    }
}

fn verdict(is_good: bool) -> &'static str {
    if is_good { "" } else { "  OVER" }
}

/// The figures in what `mote bench` printed with `--json`, whichever of its verbs it was.
///
/// # Errors
/// Something is missing that should be there.
pub fn figures(report: &Value) -> Result<Vec<Figure>, Missing> {
    match report["kind"].as_str() {
        Some("boot") => boot::figures(report),
        Some("memory") => memory::figures(report),
        Some("io") => io::figures(report),
        Some("container") => container::figures(report),
        _ => Err(Missing("what it is about".into())),
    }
}

fn number(value: &Value, name: &str) -> Result<f64, Missing> {
    value.as_f64().ok_or_else(|| Missing(name.to_owned()))
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, Missing> {
    value.as_array().ok_or_else(|| Missing(name.to_owned()))
}
