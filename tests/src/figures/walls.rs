//! What the walls around a sandbox cost: the difference between figures with all of them, and without any.

use super::{Figure, Limit, Missing};

/// What of a figure is looked at, how the difference is called, in which unit, of which one of the figure's has so many, and how much it
/// may be.
const COSTS: [(&str, &str, &str, f64, f64); 3] = [
    ("start with 1 vCPU, 128 MiB: to hello", "all walls: longer to hello", "ms", 1.0, 3.0),
    ("start with 1 vCPU, 128 MiB: to exit", "all walls: longer to exit", "ms", 1.0, 3.0),
    ("each further idle machine", "all walls: more of the host's memory", "KiB", 1024.0, 256.0),
];

/// What figures of a `mote` have more than those of one without walls.
///
/// # Errors
/// One of them is missing.
pub fn costs(with: &[Figure], without: &[Figure]) -> Result<Vec<Figure>, Missing> {
    let find = |figures: &[Figure], name: &str| {
        let figure = figures.iter().find(|figure| figure.name.starts_with(name));
        figure.map(|figure| figure.value).ok_or_else(|| Missing(name.to_owned()))
    };
    let cost = |(of, name, unit, many, most): (&str, &str, _, f64, f64)| {
        let more = (find(with, of)? - find(without, of)?) * many;
        Ok(Figure::new(name, more, unit, Limit::Most(most)))
    };
    COSTS.into_iter().map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_differences_with_limits() {
        let figures = |hello, exit, memory| {
            [
                ("start with 1 vCPU, 128 MiB: to hello", hello, "ms"),
                ("start with 1 vCPU, 128 MiB: to exit", exit, "ms"),
                ("each further idle machine, up to 45: host memory", memory, "MiB"),
            ]
            .map(|(name, value, unit)| Figure::new(name, value, unit, Limit::Less))
        };
        let costs = costs(&figures(30.0, 45.0, 12.5), &figures(29.5, 41.0, 12.375)).unwrap();
        assert_eq!(costs.iter().map(|cost| cost.value).collect::<Vec<_>>(), [0.5, 4.0, 128.0]);
        let over: Vec<_> = costs.iter().map(|cost| cost.line().contains("OVER")).collect();
        assert_eq!(over, [false, true, false]);
        let missing = super::costs(&figures(1.0, 1.0, 1.0), &[]).unwrap_err();
        assert!(missing.to_string().contains("to hello"), "{missing}");
    }
}
