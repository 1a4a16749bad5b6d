//! Figures of `mote bench io`.

use serde_json::Value;

use super::{Figure, Limit, Missing, list};

/// Path, direction, and the least MiB/s.
const RATES: [(&str, &str, Limit); 6] = [
    ("vsock", "guest to host", Limit::Least(900.0)),
    ("vsock", "host to guest", Limit::Least(600.0)),
    ("block", "sequential, direct", Limit::Least(900.0)),
    ("block", "sequential, page cache", Limit::More),
    ("stdio", "guest to host", Limit::More),
    ("stdio", "host to guest", Limit::More),
];

/// Path, what, and the most milliseconds.
const LATENCIES: [(&str, &str, Limit); 3] = [
    ("vsock", "round trip of one byte", Limit::Most(0.1)),
    ("block", "random 4 KiB, direct", Limit::Most(0.035)),
    ("stdio", "round trip of one byte", Limit::Less),
];

pub(super) fn figures(report: &Value) -> Result<Vec<Figure>, Missing> {
    let mut figures = Vec::new();
    for (path, what, limit) in RATES {
        let value = of_guest(&report["rates"], path, what, "mib_per_s")?;
        figures.push(Figure::new(format!("{path}, {what}"), value, "MiB/s", limit));
    }
    for (path, what, limit) in LATENCIES {
        let value = of_guest(&report["latencies"], path, what, "median_ns")? / 1e6;
        figures.push(Figure::new(format!("{path}, {what}"), value, "ms", limit));
    }
    Ok(figures)
}

/// What the guest's clock says.
fn of_guest(entries: &Value, path: &str, what: &str, key: &str) -> Result<f64, Missing> {
    let name = format!("{path}, {what}");
    let is_it = |entry: &&Value| entry["path"] == path && entry["what"] == what && entry["side"] == "guest";
    let entry = list(entries, &name)?.iter().find(is_it);
    entry.and_then(|entry| entry[key].as_f64()).ok_or(Missing(name))
}
