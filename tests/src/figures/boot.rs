//! Figures of `mote bench boot`: of the fastest of several runs. In the lab nothing makes a run faster, and chance makes it slower: where
//! a tick of the clock falls, and who is woken first.

use serde_json::Value;

use super::{Figure, Kind, Limit, Missing, list, number};

/// The moments between which phases lie, each with the name of the phase that ends there. Between the process's start and the first
/// entry the VMM does several things at once, in an order that differs from run to run: they are one phase here.
const MOMENTS: [(&str, &str); 7] = [
    ("process-started", "process start"),
    ("sandbox-started", "sandbox process start"),
    ("first-entry", "VM set-up"),
    ("init-started", "guest kernel"),
    ("hello-received", "agent's hello"),
    ("command-started", "command's start"),
    ("finished", "command"),
];

/// Machines that have a limit of their own: vCPUs, MiB, milliseconds that they may take longer to hello than the plain one.
const EXTRAS: [(u64, u64, f64); 3] = [(2, 128, 4.0), (8, 128, 20.0), (1, 4096, 3.0)];

pub(super) fn figures(report: &Value) -> Result<Vec<Figure>, Missing> {
    let mut figures = Vec::new();
    let mut plain = None;
    for subject in list(&report["subjects"], "machines")? {
        let machine = &subject["machine"];
        let (vcpus, memory) = (machine["vcpus"].as_u64(), machine["memory_mib"].as_u64());
        let (Some(vcpus), Some(memory)) = (vcpus, memory) else { continue };
        let name = format!("start with {vcpus} vCPU, {memory} MiB");
        let hello = moment(subject, "hello-received", &name)?;
        let is_plain = (vcpus, memory) == (1, 128);
        let limit = |most: f64| if is_plain { Limit::Most(most) } else { Limit::Less };
        figures.push(Figure::new(format!("{name}: to hello"), hello, "ms", limit(30.0)));
        let exit = number(&subject["exit"]["min_ns"], &name)? / 1e6;
        let whole = Figure::new(format!("{name}: to exit"), exit, "ms", limit(45.0));
        // Where vCPUs share a processor, who waits for whom is decided anew in every run.
        figures.push(Figure { kind: if vcpus > 1 { Kind::Shown } else { Kind::Whole }, ..whole });
        let extra = EXTRAS.iter().find(|(cpus, mib, _)| (*cpus, *mib) == (vcpus, memory));
        if is_plain {
            plain = Some(hello);
            figures.extend(phases(subject, &name, exit)?);
        } else if let (Some(plain), Some((.., most))) = (plain, extra) {
            let name = format!("{name}: more to hello than 1 vCPU, 128 MiB");
            let figure = Figure::new(name, hello - plain, "ms", Limit::Most(*most));
            figures.push(Figure { kind: Kind::Shown, ..figure });
        }
    }
    Ok(figures)
}

/// When a machine reached a moment, in milliseconds.
fn moment(subject: &Value, moment: &str, name: &str) -> Result<f64, Missing> {
    let phases = list(&subject["phases"], name)?;
    let phase = phases.iter().find(|phase| phase["phase"] == moment);
    let since = phase.map(|phase| &phase["since"]["min_ns"]);
    since.and_then(Value::as_f64).map(|ns| ns / 1e6).ok_or_else(|| Missing(format!("{name}: {moment}")))
}

fn phases(subject: &Value, name: &str, exit: f64) -> Result<Vec<Figure>, Missing> {
    let mut before = 0.0;
    let mut figures = Vec::new();
    let mut push = |phase: &str, at: f64| {
        let figure = Figure::new(format!("{name}: phase {phase}"), at - before, "ms", Limit::Less);
        figures.push(Figure { kind: Kind::Phase, ..figure });
        before = at;
    };
    for (at, phase) in MOMENTS {
        push(phase, moment(subject, at, name)?);
    }
    push("end of the machine", exit);
    Ok(figures)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::figures) fn sample() -> Value {
        let subject = |vcpus: u64, memory: u64, factor: u64| {
            let phases: Vec<_> = (1_u64..)
                .zip(MOMENTS)
                .map(|(at, (phase, _))| {
                    json!({ "phase": phase, "since": { "min_ns": at * factor }, "own": { "min_ns": factor } })
                })
                .collect();
            json!({
                "name": "x", "machine": { "vcpus": vcpus, "memory_mib": memory }, "phases": phases,
                "exit": { "min_ns": 10 * factor }, "marker": null
            })
        };
        json!({ "kind": "boot", "subjects": [subject(1, 128, 1_000_000), subject(2, 128, 2_000_000)] })
    }

    #[test]
    fn phases_add_up_to_the_whole() {
        let figures = figures(&sample()).unwrap();
        let value = |name: &str| figures.iter().find(|figure| figure.name.contains(name)).unwrap().value;
        let phases: f64 =
            figures.iter().filter(|figure| figure.kind == Kind::Phase).map(|figure| figure.value).sum();
        assert!((phases - value("1 vCPU, 128 MiB: to exit")).abs() < 1e-9);
        assert!((value("2 vCPU, 128 MiB: more to hello") - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_phase_that_is_missing_is_named() {
        let mut report = sample();
        report["subjects"][0]["phases"][3]["phase"] = "another".into();
        let error = figures(&report).unwrap_err().to_string();
        assert!(error.contains("init-started"), "{error}");
    }
}
