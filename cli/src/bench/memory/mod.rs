//! `mote bench memory`: what a machine weighs, and what each further one adds.
//!
//! Machines are started one after the other and then do nothing: their command waits for input that never comes. Their memory is read
//! from outside, from `/proc`, when there are as many as asked for; what they add to the host as a whole, page tables and
//! everything else of the kernel's included, is what the host has less afterwards. On a busy host that says little; the other figures
//! do not depend on it.
//!
//! One container is weighed, too: its sandbox process serves a folder besides, and a control socket.
//!
//! If this process dies, however it does, the input of the machines ends, and they with it.

mod container;
mod processes;
mod report;
mod smaps;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use self::{
    processes::Family,
    report::{AgentReport, MachineReport, MemoryReport, Step},
    smaps::{Amounts, Split},
};
use super::{
    args::MemoryOptions,
    children::{Deadline, Measured},
    host::Host,
    print_json, progress,
};

/// What the command of an idle machine says when it runs.
const READY: &str = "ready";

pub(super) fn bench(options: &MemoryOptions) -> anyhow::Result<()> {
    let mut counts = options.vms.clone();
    counts.sort_unstable();
    counts.dedup();
    let most = counts.last().copied().context("--vms names no number")?;
    let bar = progress::bar(usize::try_from(most)? + 1, "starting machines");
    // The first one is not counted: it finds caches cold.
    let agent = agent(options)?;
    bar.inc(1);

    let container = container::weigh(options).context("a container")?;
    let mut machines: Vec<Idle> = Vec::new();
    let mut available = vec![available_bytes()?];
    let mut steps: Vec<Step> = Vec::new();
    let mut first = None;
    for number in 1..=most {
        machines.push(Idle::start(options).with_context(|| format!("machine {number} of {most}"))?);
        available.push(available_bytes()?);
        bar.inc(1);
        if number == 1 {
            first = Some(weigh_family(&machines[0].family, options.memory.bytes())?);
        }
        if counts.contains(&number) {
            let before = steps.last().map_or(0, |step| step.vms);
            steps.push(step(&machines, before, number, &available, options)?);
        }
    }
    bar.finish_and_clear();
    drop(machines);
    let report = MemoryReport {
        kind: "memory",
        host: Host::here(),
        hypervisor: options.hypervisor.name(),
        vcpus: options.cpus,
        memory_mib: options.memory.bytes() >> 20,
        agent,
        machine: first.context("no machine was started")?,
        container,
        steps,
    };
    if options.output.json {
        print_json(&report)
    } else {
        print!("{}", report.text());
        Ok(())
    }
}

/// `mote run` with the machine that was asked for, up to the command.
fn run(options: &MemoryOptions) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("run").arg("--hypervisor").arg(options.hypervisor.name());
    command.arg("--cpus").arg(options.cpus.to_string()).arg("--memory").arg(options.memory.to_string());
    if let Some(kernel) = &options.kernel {
        command.arg("--kernel").arg(kernel);
    }
    command.arg("--");
    command
}

/// A machine that does nothing.
struct Idle {
    family: Family,
    /// Its end lets the command end. First of the fields to go.
    stdin: Option<ChildStdin>,
    process: Measured,
}

impl Idle {
    fn start(options: &MemoryOptions) -> anyhow::Result<Self> {
        let mut command = run(options);
        command.args(["sh", "-c", &format!("echo {READY}; exec cat")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = Measured::spawn(&mut command).context("cannot start mote run")?;
        let deadline = process.kill_after(Duration::from_secs(options.limit.into()))?;
        let stdout = process.child().stdout.take().context("mote run has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot hear the machine")?;
        check(&deadline, options)?;
        ensure!(line.trim() == READY, "the machine ended before it was ready");
        let family = processes::family(process.child().id())?;
        Ok(Self { family, stdin: process.child().stdin.take(), process })
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.stdin = None;
        // If it does not end by itself, dropping it kills it.
        let limit = self.process.kill_after(Duration::from_secs(10));
        let _ = self.process.wait();
        drop(limit);
    }
}

fn check(deadline: &Deadline, options: &MemoryOptions) -> anyhow::Result<()> {
    ensure!(!deadline.is_over(), "it was not ready within {} s (--limit)", options.limit);
    Ok(())
}

/// What the agent weighs: its program, and its memory as the guest tells it.
fn agent(options: &MemoryOptions) -> anyhow::Result<AgentReport> {
    let mut command = run(options);
    command.args(["sh", "-c", "cat /proc/1/comm; grep VmRSS: /proc/1/status"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut process = Measured::spawn(&mut command).context("cannot start mote run")?;
    let deadline = process.kill_after(Duration::from_secs(options.limit.into()))?;
    let stdout = process.child().stdout.take().context("mote run has no output")?;
    let text = std::io::read_to_string(stdout).context("cannot hear the machine")?;
    let status = process.wait().context("cannot wait for mote run")?;
    check(&deadline, options)?;
    ensure!(status.success(), "mote run failed ({status})");
    Ok(AgentReport {
        program_bytes: mote_runtime::agent_size(),
        initrd_bytes: u64::try_from(mote_runtime::initrd().len())?,
        rss_bytes: agent_rss(&text),
    })
}

/// The agent's resident memory, if the process that the command saw as PID 1 was the agent.
fn agent_rss(text: &str) -> Option<u64> {
    let (name, rss) = text.split_once('\n')?;
    if name != "init" {
        return None;
    }
    Some(rss.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What one machine with `ram` bytes weighs, process by process.
fn weigh_family(family: &Family, ram: u64) -> anyhow::Result<MachineReport> {
    let sandbox = read(family.sandbox, if family.helpers.is_empty() { Some(ram) } else { None })?;
    let mut guest = sandbox.guest;
    let mut helpers = Amounts::default();
    for helper in &family.helpers {
        let helper = read(*helper, Some(ram))?;
        helpers.add(&helper.own);
        // The same memory, seen by two processes: what QEMU has mapped is all that the guest has touched.
        guest.rss = guest.rss.max(helper.guest.rss);
        guest.pss += helper.guest.pss;
        guest.shared = guest.shared.max(helper.guest.shared);
        guest.private += helper.guest.private;
    }
    Ok(MachineReport {
        caller: read(family.caller, None)?.own,
        sandbox: sandbox.own,
        helpers,
        guest_ram: guest,
    })
}

fn read(pid: u32, ram: Option<u64>) -> anyhow::Result<Split> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("this host does not show the memory of process {pid} ({path})"))?;
    if text.is_empty() {
        bail!("process {pid} has ended");
    }
    smaps::split(&text, ram).with_context(|| path)
}

fn step(
    machines: &[Idle],
    before: u32,
    vms: u32,
    available: &[u64],
    options: &MemoryOptions,
) -> anyhow::Result<Step> {
    let mut processes = Amounts::default();
    let mut guest_ram = Amounts::default();
    for machine in machines {
        let machine = weigh_family(&machine.family, options.memory.bytes())?;
        for amounts in [machine.caller, machine.sandbox, machine.helpers] {
            processes.add(&amounts);
        }
        guest_ram.add(&machine.guest_ram);
    }
    let at = |count: u32| available.get(usize::try_from(count).ok()?).copied();
    let (Some(then), Some(last), Some(now)) = (at(before), at(vms - 1), at(vms)) else {
        bail!("the host's memory was not read {vms} times");
    };
    Ok(Step {
        vms,
        processes,
        guest_ram,
        host_per_vm_bytes: then.saturating_sub(now) / u64::from(vms - before),
        host_last_vm_bytes: last.saturating_sub(now),
    })
}

/// What the host could still give to processes, in bytes.
fn available_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("the host does not tell how much memory is available")? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agent_counts_as_the_agent() {
        assert_eq!(agent_rss("init\nVmRSS:\t     224 kB\n"), Some(224 << 10));
        assert_eq!(agent_rss("sh\nVmRSS:\t     900 kB\n"), None);
        assert_eq!(agent_rss("init\n"), None);
    }

    #[test]
    fn this_host_tells_what_is_available() {
        assert!(available_bytes().unwrap() > 0);
    }
}
