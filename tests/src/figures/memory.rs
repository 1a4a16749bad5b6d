//! Figures of `mote bench memory`.

use serde_json::Value;

use super::{Figure, Limit, Missing, list, number};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn figures(report: &Value) -> Result<Vec<Figure>, Missing> {
    let (agent, machine) = (&report["agent"], &report["machine"]);
    let mut figures = Vec::new();
    let mut push = |name: &str, value: &Value, unit: (&'static str, f64), limit: Limit| {
        let value = number(value, name)? / unit.1;
        figures.push(Figure::new(name, value, unit.0, limit));
        Ok(())
    };
    let (kib, mib) = (("KiB", KIB), ("MiB", MIB));
    push("agent: program", &agent["program_bytes"], kib, Limit::Most(128.0))?;
    push("agent: initial ramdisk", &agent["initrd_bytes"], kib, Limit::Most(160.0))?;
    push("agent: resident in the guest", &agent["rss_bytes"], kib, Limit::Most(512.0))?;
    push("sandbox process without guest RAM: PSS", &machine["sandbox"]["pss"], mib, Limit::Most(3.0))?;
    let container = &report["container"]["sandbox"]["pss"];
    push("a container's sandbox process without guest RAM: PSS", container, mib, Limit::Most(5.0))?;
    push("mote run beside it: PSS", &machine["caller"]["pss"], mib, Limit::Less)?;
    push("idle machine: guest RAM touched", &machine["guest_ram"]["rss"], mib, Limit::Most(16.0))?;
    let steps = list(&report["steps"], "numbers of machines")?;
    let most = steps.last().ok_or_else(|| Missing("numbers of machines".into()))?;
    let vms = number(&most["vms"], "the most machines")?;
    let name = format!("each further idle machine, up to {vms}: host memory");
    push(&name, &most["host_per_vm_bytes"], mib, Limit::Most(14.0))?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_agent_that_the_guest_hides_is_a_missing_figure() {
        let amounts = json!({ "rss": 2048, "pss": 1048576, "shared": 0, "private": 0 });
        let mut report = json!({
            "kind": "memory",
            "agent": { "program_bytes": 2048, "initrd_bytes": 4096, "rss_bytes": 1024 },
            "machine": { "caller": amounts, "sandbox": amounts, "helpers": amounts, "guest_ram": amounts },
            "container": { "sandbox": amounts },
            "steps": [{ "vms": 1, "host_per_vm_bytes": 1 }, { "vms": 10, "host_per_vm_bytes": 3145728 }],
        });
        let good = figures(&report).unwrap();
        let last = good.last().unwrap();
        assert_eq!(
            (last.name.as_str(), last.value),
            ("each further idle machine, up to 10: host memory", 3.0)
        );
        report["agent"]["rss_bytes"] = Value::Null;
        assert_eq!(figures(&report), Err(Missing("agent: resident in the guest".into())));
    }
}
