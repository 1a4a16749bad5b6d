//! The results of `mote bench memory`. Their JSON is described in docs/bench.md.

use serde::Serialize;

use super::smaps::Amounts;
use crate::bench::{host::Host, table::Table};

#[derive(Debug, Serialize)]
pub(super) struct MemoryReport {
    pub(super) kind: &'static str,
    pub(super) host: Host,
    pub(super) hypervisor: &'static str,
    pub(super) vcpus: u8,
    pub(super) memory_mib: u64,
    pub(super) agent: AgentReport,
    /// The first machine, while it was the only one.
    pub(super) machine: MachineReport,
    /// A container, by itself.
    pub(super) container: MachineReport,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
pub(super) struct AgentReport {
    pub(super) program_bytes: u64,
    pub(super) initrd_bytes: u64,
    /// None if the guest does not show it to the command.
    pub(super) rss_bytes: Option<u64>,
}

/// One machine.
#[derive(Debug, Serialize)]
pub(super) struct MachineReport {
    /// `mote run`.
    pub(super) caller: Amounts,
    /// The sandbox process, without guest RAM.
    pub(super) sandbox: Amounts,
    /// QEMU, without guest RAM.
    pub(super) helpers: Amounts,
    /// What of the guest's RAM was ever touched.
    pub(super) guest_ram: Amounts,
}

/// A number of machines at the same time.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) vms: u32,
    /// All their processes together, without guest RAM.
    pub(super) processes: Amounts,
    /// All their RAM together.
    pub(super) guest_ram: Amounts,
    /// What each of those since the step before took from the host, on average.
    pub(super) host_per_vm_bytes: u64,
    /// What the last of them took: alone it says little, as a host takes huge pages in pairs, so it is not shown to people.
    pub(super) host_last_vm_bytes: u64,
}

#[allow(clippy::cast_precision_loss)]
fn mib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
}

impl MemoryReport {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut one = Table::new(&["one machine, MiB", "PSS", "RSS", "shared", "private"]);
        let MachineReport { caller, sandbox, helpers, guest_ram } = &self.machine;
        let mut lines = vec![("mote run", caller), ("sandbox process, without guest RAM", sandbox)];
        if helpers.rss > 0 {
            lines.push(("QEMU, without guest RAM", helpers));
        }
        lines.push(("guest RAM that was touched", guest_ram));
        lines.push(("a container's sandbox process", &self.container.sandbox));
        for (what, amounts) in lines {
            let Amounts { rss, pss, shared, private } = *amounts;
            one.line([what.to_owned()].into_iter().chain([pss, rss, shared, private].map(mib)));
        }
        let mut many =
            Table::new(&["machines", "processes PSS", "guest RAM PSS", "shared", "private", "host, each"]);
        for step in &self.steps {
            let sizes = [
                step.processes.pss,
                step.guest_ram.pss,
                step.processes.shared + step.guest_ram.shared,
                step.processes.private + step.guest_ram.private,
                step.host_per_vm_bytes,
            ];
            many.line([step.vms.to_string()].into_iter().chain(sizes.map(mib)));
        }
        let rss = match self.agent.rss_bytes {
            Some(bytes) => format!("{} KiB resident in the guest", bytes >> 10),
            None => "the guest does not tell what is resident".into(),
        };
        format!(
            "{}\n{} vCPU, {} MiB, {}\nagent: {} bytes, initial ramdisk: {} bytes, {rss}\n\n{}\n{}",
            self.host.describe(),
            self.vcpus,
            self.memory_mib,
            self.hypervisor,
            self.agent.program_bytes,
            self.agent.initrd_bytes,
            one.render(),
            many.render()
        )
    }
}
