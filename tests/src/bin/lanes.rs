//! Runs the end-to-end tests in both lanes: with QEMU on this machine, and with KVM in the lab.
//!
//! The tests are one program that is told by its environment what to test (see [`mote_tests::harness`]). A test's result must not
//! depend on the lane, so both lanes run the same tests with the same arguments, but for what the lab does not have.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
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
    let good = match arguments.lane {
        Some(Lane::Qemu) => on_this_machine(&arguments)?,
        Some(Lane::Kvm) => in_the_lab(&arguments, &mut io::stdout())?,
        None => both(&arguments)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the lanes at the same time: neither keeps a processor busy. What the lab says is kept until the other lane has ended.
///
/// Tests on this machine look for what they left on it, so nothing else may come meanwhile: the lab is up, with all its files and
/// processes, before the first one looks.
fn both(arguments: &Arguments) -> anyhow::Result<bool> {
    let (up, is_up) = mpsc::channel();
    thread::scope(|scope| {
        let lab = scope.spawn(move || {
            let mut kept = Kept { text: Vec::new(), up: Some(up) };
            let good = in_the_lab(arguments, &mut kept);
            (good, kept.text)
        });
        // An error is the lab's end before it said a word.
        let _ = is_up.recv();
        let here = on_this_machine(arguments)?;
        println!("waiting for the lane in the lab");
        let (there, text) = lab.join().map_err(|_| anyhow!("the lab's thread panicked"))?;
        io::stdout().write_all(&text).context("cannot pass on what the lab said")?;
        Ok(here && there?)
    })
}

/// Passes on what is written, after a heading.
struct After<'a> {
    heading: Vec<u8>,
    output: &'a mut dyn Write,
}

impl Write for After<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write_all(&std::mem::take(&mut self.heading))?;
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Keeps what is written, and tells of the first writing.
struct Kept {
    text: Vec<u8>,
    up: Option<mpsc::Sender<()>>,
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(up) = self.up.take() {
            // Nobody listens only if nobody waits.
            let _ = up.send(());
        }
        self.text.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| format!("{}: run `make build` first", path.display()))
}

fn on_this_machine(arguments: &Arguments) -> anyhow::Result<bool> {
    println!("--- lane qemu, on this machine");
    let skip = skip(Lane::Qemu, arguments, &mut io::stdout())?;
    // One at a time: each test looks for what it left on the machine.
    let status = Command::new(absolute(&arguments.tests)?)
        .args(["--test-threads=1"])
        .args(&arguments.arguments)
        .args(skip)
        .env("MOTE", absolute(&arguments.mote)?)
        .env("MOTE_IN_GUEST", absolute(&arguments.in_guest)?)
        .env("MOTE_HYPERVISOR", "qemu")
        .status()
        .with_context(|| format!("cannot start {}", arguments.tests.display()))?;
    Ok(status.success())
}

/// Arguments that leave out what this lane cannot be asked for. Says so for each test that would run otherwise.
fn skip(lane: Lane, arguments: &Arguments, output: &mut dyn Write) -> anyhow::Result<Vec<OsString>> {
    let mut list = Command::new(absolute(&arguments.tests)?);
    let list = list.arg("--list").args(&arguments.arguments).output().context("cannot list the tests")?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let names: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let mut skip = Vec::new();
    for (_, part, why) in LEFT_OUT.iter().filter(|(of, ..)| *of == lane) {
        for test in names.iter().filter(|name| name.contains(part)) {
            writeln!(output, "skipped in this lane: {test}: {why}")?;
        }
        skip.extend(["--skip".into(), (*part).into()]);
    }
    Ok(skip)
}

fn in_the_lab(arguments: &Arguments, output: &mut dyn Write) -> anyhow::Result<bool> {
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
    // Kept until the lab is up: the first word says that it is.
    let mut heading = b"--- lane kvm, in the lab\n".to_vec();
    command.extend(skip(Lane::Kvm, arguments, &mut heading)?);
    let status = lab.run_to(&command, &mut After { heading, output })?;
    Ok(status == 0)
}
