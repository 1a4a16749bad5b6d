//! Runs the end-to-end tests in both lanes: with QEMU on this machine, and with KVM in the lab.
//!
//! The tests are one program that is told by its environment what to test (see [`mote_tests::harness`]). A test's result must not
//! depend on the lane, so both lanes run the same tests with the same arguments, but for what the lab does not have.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use mote_tests::lab::Lab;

/// How long the lab may take for all tests, in wall time: far beyond what a busy machine needs.
const LAB_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Tests that a lane cannot be asked for: a part of their names, and why. They run in the other one, and count as skipped in this one.
const LEFT_OUT: &[(Lane, &str, &str)] = &[
    (Lane::Kvm, "engines::", "the lab is a ramdisk without podman, conmon, Docker and containerd"),
    (Lane::Qemu, "the_hosts_clock_jumps", "the clock of this machine is not a test's to set"),
];

/// Runs the end-to-end tests in both lanes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this lane.
    #[arg(long)]
    lane: Option<Lane>,
    /// The program under test.
    mote: PathBuf,
    /// The guest kernel.
    vmlinux: PathBuf,
    /// The default root file system.
    rootfs: PathBuf,
    /// The test program.
    tests: PathBuf,
    /// The program that tests put into guests.
    in_guest: PathBuf,
    /// Arguments for the test program, such as a part of a test's name.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lane {
    /// On this machine.
    Qemu,
    /// In the lab.
    Kvm,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut good = true;
    for lane in [Lane::Qemu, Lane::Kvm] {
        if arguments.lane.is_some_and(|only| only != lane) {
            continue;
        }
        println!("--- lane {}", if lane == Lane::Qemu { "qemu, on this machine" } else { "kvm, in the lab" });
        good &= match lane {
            Lane::Qemu => on_this_machine(&arguments)?,
            Lane::Kvm => in_the_lab(&arguments)?,
        };
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| format!("{}: run `make build` first", path.display()))
}

fn on_this_machine(arguments: &Arguments) -> anyhow::Result<bool> {
    // One at a time: each test looks for what it left on the machine.
    let status = Command::new(absolute(&arguments.tests)?)
        .args(["--test-threads=1"])
        .args(&arguments.arguments)
        .args(skip(Lane::Qemu, arguments)?)
        .env("MOTE", absolute(&arguments.mote)?)
        .env("MOTE_IN_GUEST", absolute(&arguments.in_guest)?)
        .env("MOTE_HYPERVISOR", "qemu")
        .status()
        .with_context(|| format!("cannot start {}", arguments.tests.display()))?;
    Ok(status.success())
}

/// Arguments that leave out what this lane cannot be asked for. Says so for each test that would run otherwise.
fn skip(lane: Lane, arguments: &Arguments) -> anyhow::Result<Vec<OsString>> {
    let mut list = Command::new(absolute(&arguments.tests)?);
    let output = list.arg("--list").args(&arguments.arguments).output().context("cannot list the tests")?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let mut skip = Vec::new();
    for (_, part, why) in LEFT_OUT.iter().filter(|(of, ..)| *of == lane) {
        for test in names.iter().filter(|name| name.contains(part)) {
            println!("skipped in this lane: {test}: {why}");
        }
        skip.extend(["--skip".into(), (*part).into()]);
    }
    Ok(skip)
}

fn in_the_lab(arguments: &Arguments) -> anyhow::Result<bool> {
    let lab = Lab::new()?
        .timeout(LAB_LIMIT)
        .file(absolute(&arguments.mote)?, "/usr/bin/mote")
        .file(absolute(&arguments.vmlinux)?, "/usr/lib/mote/vmlinux")
        .file(absolute(&arguments.rootfs)?, "/usr/lib/mote/rootfs.erofs")
        .file(absolute(&arguments.tests)?, "/usr/bin/e2e")
        .file(absolute(&arguments.in_guest)?, "/usr/bin/in-guest")
        .env("MOTE_IN_GUEST", "/usr/bin/in-guest")
        .env("MOTE", "/usr/bin/mote")
        .env("MOTE_HYPERVISOR", "kvm")
        .env("MOTE_LAB", "1");
    let mut command: Vec<OsString> = vec!["/usr/bin/e2e".into(), "--test-threads=1".into()];
    command.extend(arguments.arguments.iter().cloned());
    command.extend(skip(Lane::Kvm, arguments)?);
    let status = lab.run_to(&command, &mut std::io::stdout())?;
    Ok(status == 0)
}
