//! Runs `mote bench` in the lab, where times are virtual and the same on every machine, and shows its figures beside their limits; or
//! holds them against a baseline.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, ensure};
use clap::Parser;
use mote_tests::{
    figures::{Figure, baseline::Baseline, figures, walls},
    lab::Lab,
};
use serde_json::Value;

/// The lab's memory in MiB: room for a guest with 4 GiB, and for 50 guests at once.
const LAB_MEMORY: u32 = 5120;

/// What is measured for the gate: little enough for every run of all tests.
const GATE: [&str; 5] = [
    "boot --runs 5 --warm-up 1 --cpus 1,2,8",
    "boot --runs 3 --warm-up 1 --memory 4g",
    "memory --vms 5,25",
    "io --runs 3 --samples 500 --folders 10",
    "container --runs 5",
];

/// What is measured for people.
const ALL: [&str; 5] = [
    "boot --runs 9 --cpus 1,2,8",
    "boot --runs 5 --memory 128m,4g",
    "memory --vms 1,10,50",
    "io --runs 3 --samples 2000",
    "container",
];

/// What is measured of a `mote`, and of one without walls.
const WALLS: [&str; 2] = ["boot --runs 25 --warm-up 1", "memory --memory 64m --vms 1,5,45"];

/// What is measured on this machine, through QEMU, for people without KVM.
const HERE: [&str; 4] =
    ["boot --runs 5", "memory --vms 1,4", "io --runs 1 --folders 10", "container --runs 3"];

/// Measures boot times, sizes, memory and throughput in the lab.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure little, and fail if a figure is more than 3 % worse than in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "update")]
    gate: Option<PathBuf>,
    /// Measure what the gate measures, and make it the new baseline.
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
    /// Measure also this program, which has no walls, and show what they cost only.
    #[arg(long, value_name = "MOTE", conflicts_with_all = ["gate", "update"])]
    without: Option<PathBuf>,
    /// The program to measure.
    mote: PathBuf,
    /// The guest kernel.
    vmlinux: PathBuf,
    /// The default root file system.
    rootfs: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.update {
        let figures = in_the_lab(&arguments, &GATE)?;
        Baseline::of(&figures).write(path).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{} figures are the new baseline: {}", figures.len(), path.display());
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &arguments.gate {
        // Before minutes are spent on measuring.
        let baseline = Baseline::read(path).with_context(|| format!("no baseline in {}", path.display()))?;
        let mut figures = in_the_lab(&arguments, &GATE)?;
        if !baseline.complaints(&figures).is_empty() {
            println!(
                "something is worse than in the baseline: measured once more, and the better of both counts"
            );
            let again = in_the_lab(&arguments, &GATE)?;
            figures = figures.into_iter().map(|figure| figure.better_of(&again)).collect();
        }
        return Ok(pass(&baseline, &figures));
    }
    if let Some(without) = &arguments.without {
        let [with, without] = [&arguments.mote, without].map(|mote| reports(&arguments, mote, &WALLS));
        let (with, without) = (with?, without?);
        show(&walls::costs(&with, &without)?, true);
        return Ok(ExitCode::SUCCESS);
    }
    println!("In the lab, KVM, virtual time:");
    show(&in_the_lab(&arguments, &ALL)?, true);
    println!("\nOn this machine, QEMU, real time, without limits:");
    show(&on_this_machine(&arguments.mote)?, false);
    Ok(ExitCode::SUCCESS)
}

fn show(figures: &[Figure], with_limits: bool) {
    for figure in figures {
        let line = figure.line();
        println!("{}", if with_limits { &line } else { line.split("  at ").next().unwrap_or(&line) });
    }
}

/// Says what is worse than in the baseline.
fn pass(baseline: &Baseline, figures: &[Figure]) -> ExitCode {
    let complaints = baseline.complaints(figures);
    if complaints.is_empty() {
        println!("{} figures are within 3 % of the baseline, or better", figures.len());
        let improvements = baseline.improvements(figures);
        if improvements > 0 {
            println!("{improvements} of them are more than 3 % better: `make bench-baseline` keeps it so");
        }
        return ExitCode::SUCCESS;
    }
    println!("figures are worse than the baseline, or are not the same ones:");
    for complaint in &complaints {
        println!("  {complaint}");
    }
    println!(
        "if that is meant to be, `make bench-baseline` makes them the new baseline; commit it with the reason"
    );
    ExitCode::FAILURE
}

/// The figures of `mote bench` with each of `calls` in one lab.
fn in_the_lab(arguments: &Arguments, calls: &[&str]) -> anyhow::Result<Vec<Figure>> {
    parse(&reports(arguments, &arguments.mote, calls)?)
}

/// What `mote bench` reports in one lab with each of `calls`.
fn reports(arguments: &Arguments, mote: &Path, calls: &[&str]) -> anyhow::Result<Vec<Value>> {
    let real = |path: &Path| std::fs::canonicalize(path).with_context(|| format!("{}", path.display()));
    let folder = tempfile::tempdir().context("cannot make a folder for the results")?;
    let mut lab = Lab::new()?
        .memory(LAB_MEMORY)
        .timeout(std::time::Duration::from_secs(40 * 60))
        .file(real(mote)?, "/usr/bin/mote")
        .file(real(&arguments.vmlinux)?, "/usr/lib/mote/vmlinux")
        .file(real(&arguments.rootfs)?, "/usr/lib/mote/rootfs.erofs");
    let mut script = String::from("set -e\n");
    let mut results = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let (inside, outside) = (format!("/tmp/result{index}"), folder.path().join(format!("{index}")));
        script += &format!(
            "mote bench {call} --hypervisor kvm --json > {inside} 2>/tmp/words || {{ cat /tmp/words; exit 1; }}\n"
        );
        lab = lab.output(inside, &outside);
        results.push(outside);
    }
    let mut said = Vec::new();
    let status = lab.run_to(&["sh", "-c", &script], &mut said);
    let said = String::from_utf8_lossy(&said);
    let status = status.with_context(|| format!("mote bench said: {said}"))?;
    ensure!(status == 0, "mote bench failed in the lab: {said}");
    results
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).context("cannot read the results")?;
            report(&text)
        })
        .collect()
}

fn on_this_machine(mote: &Path) -> anyhow::Result<Vec<Figure>> {
    let mut reports = Vec::new();
    for call in HERE {
        let output = Command::new(mote)
            .arg("bench")
            .args(call.split(' '))
            .args(["--hypervisor", "qemu", "--json"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", mote.display()))?;
        ensure!(output.status.success(), "mote bench {call} failed ({})", output.status);
        reports.push(report(&String::from_utf8(output.stdout)?)?);
    }
    parse(&reports)
}

fn report(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).context("mote bench did not print JSON")
}

fn parse(reports: &[Value]) -> anyhow::Result<Vec<Figure>> {
    let mut all: Vec<Figure> = Vec::new();
    for report in reports {
        for figure in figures(report)? {
            // The plain machine is measured again beside others.
            if !all.iter().any(|other| other.name == figure.name) {
                all.push(figure);
            }
        }
    }
    Ok(all)
}
