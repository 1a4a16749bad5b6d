//! What is started: machines of Mote's, in every combination that was asked for, and its rivals.

use std::{ffi::OsString, path::PathBuf};

use anyhow::ensure;
use serde::Serialize;

use crate::{
    args::HypervisorName,
    bench::args::{BootOptions, Rival},
    memory::MemorySize,
};

/// A machine of Mote's.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) hypervisor: &'static str,
    pub(super) vcpus: u8,
    pub(super) memory_mib: u64,
    /// The default one if none is named.
    pub(super) kernel: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Mote(Machine),
    Rival { command: String },
}

/// Something that is started again and again.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// What its output shows when the start is complete.
    pub(super) marker: Option<String>,
}

/// All that is to be measured, Mote's machines first.
pub(super) fn all(options: &BootOptions) -> anyhow::Result<Vec<Subject>> {
    let kernels: Vec<_> = match &options.kernel[..] {
        [] => vec![None],
        kernels => kernels.iter().cloned().map(Some).collect(),
    };
    let mut subjects = Vec::new();
    for hypervisor in &options.hypervisor {
        for kernel in &kernels {
            for memory in &options.memory {
                for vcpus in &options.cpus {
                    let machine = machine(*hypervisor, kernel.clone(), *memory, *vcpus);
                    subjects.push(Subject {
                        name: name(&machine),
                        kind: Kind::Mote(machine),
                        marker: options.marker.clone(),
                    });
                }
            }
        }
    }
    for Rival { name, command } in &options.vs {
        let kind = Kind::Rival { command: command.clone() };
        subjects.push(Subject { name: name.clone(), kind, marker: options.marker.clone() });
    }
    for (index, subject) in subjects.iter().enumerate() {
        let twice = subjects.iter().skip(index + 1).any(|other| other.name == subject.name);
        ensure!(!twice, "'{}' would be measured twice: name each machine and each --vs once", subject.name);
    }
    Ok(subjects)
}

fn machine(hypervisor: HypervisorName, kernel: Option<PathBuf>, memory: MemorySize, vcpus: u8) -> Machine {
    Machine { hypervisor: hypervisor.name(), vcpus, memory_mib: memory.bytes() >> 20, kernel }
}

fn name(machine: &Machine) -> String {
    let Machine { hypervisor, vcpus, memory_mib, kernel } = machine;
    let kernel = kernel.as_ref().map(|kernel| format!(", {}", kernel.display())).unwrap_or_default();
    format!("mote {hypervisor}, {vcpus} vCPU, {memory_mib} MiB{kernel}")
}

impl Subject {
    /// Whether it is a machine of ours.
    pub(super) fn is_mote(&self) -> bool {
        matches!(self.kind, Kind::Mote(_))
    }

    /// The program that starts it, and its arguments.
    pub(super) fn command(&self) -> (OsString, Vec<OsString>) {
        match &self.kind {
            Kind::Rival { command } => ("sh".into(), vec!["-c".into(), command.into()]),
            Kind::Mote(machine) => ("/proc/self/exe".into(), run(machine, self.marker.as_deref())),
        }
    }
}

fn run(machine: &Machine, marker: Option<&str>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["run", "--timeline=json", "--hypervisor", machine.hypervisor].map(OsString::from).into();
    arguments.extend(["--cpus".into(), machine.vcpus.to_string().into()]);
    arguments.extend(["--memory".into(), format!("{}m", machine.memory_mib).into()]);
    if let Some(kernel) = &machine.kernel {
        arguments.extend(["--kernel".into(), kernel.into()]);
    }
    arguments.push("--".into());
    match marker {
        None => arguments.push("/bin/true".into()),
        Some(marker) => arguments.extend(["/bin/echo".into(), marker.into()]),
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        options: BootOptions,
    }

    fn subjects(arguments: &[&str]) -> anyhow::Result<Vec<Subject>> {
        all(&Wrapper::try_parse_from(["x"].iter().chain(arguments)).unwrap().options)
    }

    #[test]
    fn every_combination_is_measured_once() {
        let subjects = subjects(&["--cpus", "1,2", "--memory", "64m,128m", "--hypervisor", "qemu"]).unwrap();
        let names: Vec<_> = subjects.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "mote qemu, 1 vCPU, 64 MiB",
                "mote qemu, 2 vCPU, 64 MiB",
                "mote qemu, 1 vCPU, 128 MiB",
                "mote qemu, 2 vCPU, 128 MiB"
            ]
        );
    }

    #[test]
    fn names_tell_subjects_apart() {
        let error = subjects(&["--cpus", "1,1"]).unwrap_err();
        assert!(error.to_string().contains("measured twice"), "{error}");
        let twice = ["--vs", "a=x", "--vs", "a=y", "--marker", "m"];
        assert!(subjects(&twice).is_err());
    }

    #[test]
    fn with_rivals_mote_prints_the_marker_too() {
        let subjects = subjects(&["--vs", "a=exec x", "--marker", "READY now"]).unwrap();
        let [mote, rival] = &subjects[..] else { panic!("{subjects:?}") };
        assert!(mote.command().1.ends_with(&["--".into(), "/bin/echo".into(), "READY now".into()]));
        assert_eq!(rival.command(), ("sh".into(), vec!["-c".into(), "exec x".into()]));
    }
}
