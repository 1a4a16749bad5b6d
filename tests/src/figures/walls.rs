//! What the walls around a sandbox cost: how much more `mote bench` measures with all of them than without any.
//!
//! Of starts, medians are compared. What takes longest of the walls is a wait for the host's kernel, which KVM has to wait for as well, and
//! which ends with a tick of the clock: the fastest start is the one that a tick came right for.

use serde_json::Value;

use super::{Figure, Limit, Missing, list, number};

/// What `mote` takes more than one without walls, from the reports of both: of `boot` and of `memory`.
///
/// # Errors
/// One of them lacks a figure.
pub fn costs(with: &[Value], without: &[Value]) -> Result<Vec<Figure>, Missing> {
    let more = |of: fn(&[Value]) -> Result<f64, Missing>| Ok(of(with)? - of(without)?);
    let figure = |name: &str, value, unit, most| Figure::new(name, value, unit, Limit::Most(most));
    Ok(vec![
        figure("all walls: longer to hello", more(to_hello)? / 1e6, "ms", 3.0),
        figure("all walls: longer to exit", more(to_exit)? / 1e6, "ms", 3.0),
        figure("all walls: more of the host's memory", more(memory)? / 1024.0, "KiB", 256.0),
    ])
}

fn report<'a>(reports: &'a [Value], kind: &str) -> Result<&'a Value, Missing> {
    reports.iter().find(|report| report["kind"] == kind).ok_or_else(|| Missing(kind.to_owned()))
}

fn to_hello(reports: &[Value]) -> Result<f64, Missing> {
    let phases = list(&report(reports, "boot")?["subjects"][0]["phases"], "phases")?;
    let hello = phases.iter().find(|phase| phase["phase"] == "hello-received");
    hello.map_or_else(
        || Err(Missing("hello".to_owned())),
        |hello| number(&hello["since"]["median_ns"], "hello"),
    )
}

fn to_exit(reports: &[Value]) -> Result<f64, Missing> {
    number(&report(reports, "boot")?["subjects"][0]["exit"]["median_ns"], "exit")
}

fn memory(reports: &[Value]) -> Result<f64, Missing> {
    let steps = list(&report(reports, "memory")?["steps"], "numbers of machines")?;
    number(&steps.last().unwrap_or(&Value::Null)["host_per_vm_bytes"], "memory of a machine")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_build_without_walls_can_be_made() {
        let git = std::process::Command::new("git")
            .args(["apply", "--check", "tests/without-walls.patch"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .unwrap();
        assert!(git.success(), "tests/without-walls.patch is of other sources");
    }

    #[test]
    fn are_differences_with_limits() {
        let reports = |hello, exit, memory| {
            let hello = json!({ "phase": "hello-received", "since": { "median_ns": hello } });
            let boot = json!({ "phases": [hello], "exit": { "median_ns": exit } });
            [
                json!({ "kind": "boot", "subjects": [boot] }),
                json!({ "kind": "memory", "steps": [{}, { "host_per_vm_bytes": memory }] }),
            ]
        };
        let with = reports(30_000_000, 45_000_000, 12 << 20);
        let costs = costs(&with, &reports(29_500_000, 41_000_000, (12 << 20) - (128 << 10))).unwrap();
        assert_eq!(costs.iter().map(|cost| cost.value).collect::<Vec<_>>(), [0.5, 4.0, 128.0]);
        let over: Vec<_> = costs.iter().map(|cost| cost.line().contains("OVER")).collect();
        assert_eq!(over, [false, true, false]);
        assert!(super::costs(&with, &[]).unwrap_err().to_string().contains("boot"));
    }
}
