//! Figures of `mote bench container`: of the fastest of several, as those of starts.

use serde_json::Value;

use super::{Figure, Kind, Limit, Missing, list, number};

/// The steps, each with its limit in milliseconds.
const STEPS: [(&str, Limit); 6] = [
    ("create", Limit::Less),
    ("start", Limit::Less),
    ("end", Limit::Less),
    ("delete", Limit::Less),
    ("all of it", Limit::Most(130.0)),
    ("exec", Limit::Most(12.0)),
];

pub(super) fn figures(report: &Value) -> Result<Vec<Figure>, Missing> {
    let steps = list(&report["steps"], "a container's steps")?;
    let figure = |(step, limit): (&str, Limit)| {
        let name = format!("container, {step}");
        let time = steps.iter().find(|entry| entry["step"] == step).map(|entry| &entry["time"]["min_ns"]);
        let ms = number(time.unwrap_or(&Value::Null), &name)? / 1e6;
        let kind = if matches!(limit, Limit::Most(_)) { Kind::Whole } else { Kind::Shown };
        Ok(Figure { kind, ..Figure::new(name, ms, "ms", limit) })
    };
    STEPS.into_iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_step_is_a_figure() {
        let step = |(index, (step, _))| json!({ "step": step, "time": { "min_ns": index * 1_000_000 } });
        let steps: Vec<_> = (1_u64..).zip(STEPS).map(step).collect();
        let figures = figures(&json!({ "steps": steps })).unwrap();
        assert_eq!(figures.iter().map(|figure| figure.value).sum::<f64>(), 21.0);
        assert!(figures[5].line().contains("at most       12") && figures[5].kind == Kind::Whole);
        let error = super::figures(&json!({ "steps": steps[..5] })).unwrap_err().to_string();
        assert!(error.contains("exec"), "{error}");
    }
}
