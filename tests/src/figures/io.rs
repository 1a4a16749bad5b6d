//! Figures of `mote bench io`.

use serde_json::Value;

use super::{Figure, Kind, Limit, Missing, list};

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

/// Of a shared folder, and the same on the host: path, what, whose clock. Shown, and without limits.
const FOLDER_RATES: [(&str, &str, &str); 5] = [
    ("folder", "sequential, direct", "guest"),
    ("folder", "sequential, page cache", "guest"),
    ("file", "sequential", "host"),
    ("folder", "sequential write, synced", "host"),
    ("file", "sequential write, synced", "host"),
];
const FOLDER_LATENCIES: [(&str, &str, &str); 4] = [
    ("folder", "random 4 KiB, direct", "guest"),
    ("file", "random 4 KiB", "host"),
    ("folder", "find", "host"),
    ("file", "find", "host"),
];

pub(super) fn figures(report: &Value) -> Result<Vec<Figure>, Missing> {
    let mut figures = Vec::new();
    for (path, what, limit) in RATES {
        let value = of(&report["rates"], (path, what, "guest"), "mib_per_s")?;
        figures.push(Figure::new(format!("{path}, {what}"), value, "MiB/s", limit));
    }
    for (path, what, limit) in LATENCIES {
        let value = of(&report["latencies"], (path, what, "guest"), "median_ns")? / 1e6;
        figures.push(Figure::new(format!("{path}, {what}"), value, "ms", limit));
    }
    for which in FOLDER_RATES {
        let value = of(&report["rates"], which, "mib_per_s")?;
        let name = format!("{}, {}", which.0, which.1);
        figures.push(Figure { kind: Kind::Shown, ..Figure::new(name, value, "MiB/s", Limit::More) });
    }
    for which in FOLDER_LATENCIES {
        let value = of(&report["latencies"], which, "median_ns")? / 1e6;
        let name = format!("{}, {}", which.0, which.1);
        figures.push(Figure { kind: Kind::Shown, ..Figure::new(name, value, "ms", Limit::Less) });
    }
    Ok(figures)
}

/// What one side's clock says.
fn of(entries: &Value, (path, what, side): (&str, &str, &str), key: &str) -> Result<f64, Missing> {
    let name = format!("{path}, {what}");
    let is_it = |entry: &&Value| entry["path"] == path && entry["what"] == what && entry["side"] == side;
    let entry = list(entries, &name)?.iter().find(is_it);
    entry.and_then(|entry| entry[key].as_f64()).ok_or(Missing(name))
}
