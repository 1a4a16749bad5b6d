//! Measures what the project watches, in the lab: times are virtual, the same on every machine.
//!
//! The program copies itself into the lab and runs there with `--inside`. Each figure stands beside its limit.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use mote_tests::{harness::children, lab::Lab};

/// Runs before the ones that count: the probe of KVM is cached, files are in memory.
const WARM_UP: usize = 2;
const RUNS: usize = 5;
/// What `mote run` gives a guest if nobody says otherwise, in KiB.
const GUEST_RAM_KIB: u64 = 128 << 10;

/// Measures boot times, sizes and memory in the lab.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure here, with the `mote` in PATH.
    #[arg(long, hide = true)]
    inside: bool,
    /// The program to measure.
    #[arg(required_unless_present = "inside")]
    mote: Option<PathBuf>,
    /// The guest kernel.
    #[arg(required_unless_present = "inside")]
    vmlinux: Option<PathBuf>,
    /// The default root file system.
    #[arg(required_unless_present = "inside")]
    rootfs: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let (Some(mote), Some(vmlinux), Some(rootfs)) = (arguments.mote, arguments.vmlinux, arguments.rootfs)
    else {
        measure()?;
        return Ok(ExitCode::SUCCESS);
    };
    let real = |path: &PathBuf| std::fs::canonicalize(path).with_context(|| format!("{}", path.display()));
    let lab = Lab::new()?
        .file(real(&mote)?, "/usr/bin/mote")
        .file(real(&vmlinux)?, "/usr/lib/mote/vmlinux")
        .file(real(&rootfs)?, "/usr/lib/mote/rootfs.erofs")
        .file(std::env::current_exe()?, "/usr/bin/bench");
    let status = lab.run_to(&["/usr/bin/bench", "--inside"], &mut std::io::stdout())?;
    Ok(ExitCode::from(status))
}

/// One line of the result.
fn print(what: &str, value: f64, limit: f64, unit: &str) {
    let verdict = if value <= limit { "" } else { "  OVER" };
    println!("{what:<56} {value:>9.2} {unit:<3}  limit {limit:>7.1}{verdict}");
}

#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure() -> anyhow::Result<()> {
    println!("1 vCPU, 128 MiB, KVM in the lab, virtual time, median of {RUNS}:");
    let (mut hello, mut whole) = (Vec::new(), Vec::new());
    for run in 0..WARM_UP + RUNS {
        let (to_hello, to_exit) = boot()?;
        if run >= WARM_UP {
            hello.push(to_hello);
            whole.push(to_exit);
        }
    }
    print("exec of `mote run` to hello", median(hello), 60.0, "ms");
    print("exec of `mote run -- /bin/true` to its exit", median(whole), 95.0, "ms");

    let inside = guest("wc -c < /proc/1/exe; grep VmRSS /proc/1/status")?;
    let mut lines = inside.lines();
    let agent: u64 = lines.next().unwrap_or_default().trim().parse().context("the agent's size")?;
    let rss: u64 =
        lines.next().and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().parse()?;
    print("agent, size of the program", float(agent) / 1024.0, 128.0, "KiB");
    print("initial ramdisk", float(initrd()?) / 1024.0, 160.0, "KiB");
    print("agent, resident memory in the guest", float(rss), 512.0, "KiB");
    print("sandbox process without guest RAM, PSS", float(sandbox_pss_kib()?) / 1024.0, 4.0, "MiB");
    Ok(())
}

/// Boots once; milliseconds from just before the start of `mote` to hello and to its exit.
fn boot() -> anyhow::Result<(f64, f64)> {
    let before = Instant::now();
    let start = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let output = Command::new("mote")
        .args(["run", "--hypervisor", "kvm", "--timeline=json", "--", "/bin/true"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start mote")?;
    let whole = before.elapsed().as_secs_f64() * 1e3;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mote failed: {text}");
    let number = |key: &str, from: &str| -> anyhow::Result<f64> {
        let rest = from.split_once(key).with_context(|| format!("no {key} in {text}"))?.1;
        let digits: String =
            rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        Ok(digits.parse()?)
    };
    let exec = number("\"start_monotonic_ns\"", &text)?;
    let at_hello = text.split('{').find(|phase| phase.contains("hello-received")).context("no hello")?;
    #[allow(clippy::cast_precision_loss)]
    let started = start.tv_sec() as f64 * 1e9 + start.tv_nsec() as f64;
    let hello = exec + number("\"since_exec_ns\"", at_hello)? - started;
    Ok((hello / 1e6, whole))
}

fn guest(script: &str) -> anyhow::Result<String> {
    let output =
        Command::new("mote").args(["run", "--hypervisor", "kvm", "--", "sh", "-c", script]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn initrd() -> anyhow::Result<u64> {
    let output = Command::new("mote").arg("check").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains("initial ramdisk"))
        .context("mote check says nothing of it")?;
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

/// The proportional set size of an idle sandbox process, less the mapping that is guest RAM, in KiB.
fn sandbox_pss_kib() -> anyhow::Result<u64> {
    let mut child = Command::new("mote")
        .args(["run", "--hypervisor", "kvm", "--", "sh", "-c", "echo ready; exec sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let sandboxes = children(child.id());
    let [sandbox] = sandboxes[..] else { bail!("{} sandbox processes", sandboxes.len()) };
    let smaps = std::fs::read_to_string(format!("/proc/{sandbox}/smaps"))?;
    child.kill()?;
    child.wait()?;
    let (mut total, mut in_guest_ram) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, value) =
            (words.next().unwrap_or_default(), words.next().and_then(|v| v.parse::<u64>().ok()));
        match (key, value) {
            ("Size:", Some(size)) => in_guest_ram = size >= GUEST_RAM_KIB,
            ("Pss:", Some(pss)) if !in_guest_ram => total += pss,
            _ => {}
        }
    }
    Ok(total)
}
