//! `mote bench io`: how fast bytes get into a guest and out of it.
//!
//! Four paths, and for each exactly what is measured:
//!
//! - **vsock**: the device alone. The meter is the only process of a machine of its own; one stream leads to a Unix socket that this
//!   process reads and writes. What VMMs are compared by.
//! - **stdio**: what users of `mote run` get. The meter is the command; its bytes go through a pipe, the agent's splice, the vsock,
//!   the sandbox process, and a pipe to this process.
//! - **block**: the disk of the first machine, a file in the host's page cache. In order and at random, with and without
//!   the guest's page cache; beside it the same reads of the same file on the host.
//! - **folder**: a folder of the host's that the guest shares: reads as of the disk, writes, and a walk; the same on the host.

mod command;
mod driver;
mod folder;
mod machine;
mod report;

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use mote_protocol::meter::{MAX_SAMPLES, Order};

pub(super) use self::driver::Driver;
use self::{
    driver::Transfer,
    machine::Machine,
    report::{IoReport, Latency, Rate},
};
use super::{
    args::IoOptions,
    children::Deadline,
    host::Host,
    print_json, progress,
    stats::{Distribution, nanoseconds},
};

/// The length of a read at random.
const RANDOM_CALL: u32 = 4096;

pub(super) fn bench(options: &IoOptions) -> anyhow::Result<()> {
    let bar = progress::bar(9, "measuring");
    let mut report = IoReport {
        kind: "io",
        host: Host::here(),
        hypervisor: options.hypervisor.name(),
        vcpus: options.cpus,
        memory_mib: options.memory.bytes() >> 20,
        runs: options.runs,
        files: options.folders * 100,
        rates: Vec::new(),
        latencies: Vec::new(),
    };
    let limit = Duration::from_secs(options.limit.into());
    let (disk, path) = disk(options.size).context("cannot make a disk to measure")?;
    {
        bar.set_message("starting a machine");
        let machine = Machine::start(options, disk.try_clone()?, &path)?;
        let stream = machine.stream.try_clone()?;
        let give_up = move || {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        };
        let deadline = Deadline::new(limit, give_up)?;
        let mut driver = Driver::new(&machine.stream, &machine.stream, options.call)?;
        bar.inc(1);
        let mut measure = || -> anyhow::Result<()> {
            bar.set_message("vsock");
            streams(&mut driver, "vsock", options, &mut report, &bar)?;
            bar.set_message("block");
            disks(&mut driver, "block", options, &mut report)
        };
        measure().map_err(|error| explain(error, &deadline, options, &machine.last_words()))?;
        bar.inc(1);
    }
    host_reads(&disk, options, &mut report)?;
    bar.inc(1);
    {
        bar.set_message("standard streams");
        let mut run = command::start(options, &[], "true")?;
        let deadline = run.process.kill_after(limit)?;
        let mut driver = Driver::new(run.stdout, run.stdin, options.call)?;
        let result = streams(&mut driver, "stdio", options, &mut report, &bar);
        result.map_err(|error| explain(error, &deadline, options, &[]))?;
        // The end of its input ends the meter.
        drop(driver);
        run.process.wait().context("cannot wait for mote run")?;
    }
    bar.set_message("a shared folder");
    folder::measure(options, &mut report)?;
    bar.inc(1);
    bar.finish_and_clear();
    if options.output.json {
        print_json(&report)
    } else {
        print!("{}", report.text());
        Ok(())
    }
}

/// Why a stream ended, as far as it is known.
fn explain(
    error: anyhow::Error,
    deadline: &Deadline,
    options: &IoOptions,
    last_words: &[String],
) -> anyhow::Error {
    if deadline.is_over() {
        return error.context(format!("not done within {} s (--limit)", options.limit));
    }
    let words = if last_words.is_empty() { String::new() } else { format!(": {}", last_words.join("; ")) };
    error.context(format!("the guest stopped answering{words}"))
}

/// A file of `size` bytes without a name, in the host's page cache. The path is only for messages.
fn disk(size: u64) -> anyhow::Result<(File, PathBuf)> {
    let path = std::env::temp_dir();
    let mut file = tempfile::tempfile().with_context(|| path.display().to_string())?;
    let piece = vec![0x6d; 1 << 20];
    for _ in 0..size >> 20 {
        file.write_all(&piece).with_context(|| path.display().to_string())?;
    }
    Ok((file, path))
}

/// Transfers and round trips, over whatever `driver` leads to.
fn streams<R: Read, W: Write>(
    driver: &mut Driver<R, W>,
    path: &'static str,
    options: &IoOptions,
    report: &mut IoReport,
    bar: &indicatif::ProgressBar,
) -> anyhow::Result<()> {
    let samples = u64::from(options.samples);
    // What the first bytes find cold is not what is measured.
    driver.guest_to_host(1 << 20)?;
    driver.host_to_guest(1 << 20)?;
    let mut transfers: [Vec<Transfer>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..options.runs {
        transfers[0].push(driver.guest_to_host(options.size)?);
        transfers[1].push(driver.host_to_guest(options.size)?);
    }
    bar.inc(1);
    for (what, transfers) in ["guest to host", "host to guest"].into_iter().zip(transfers) {
        let (guest, host) = (transfers.iter().map(|t| t.guest_ns), transfers.iter().map(|t| t.host_ns));
        report.rates.push(Rate::new(path, what, "guest", options.size, options.call, guest)?);
        report.rates.push(Rate::new(path, what, "host", options.size, options.call, host)?);
    }
    let what = "round trip of one byte";
    let of_guest = Distribution::of(driver.round_trips_of_guest(samples)?)?;
    report.latencies.push(Latency { path, what, side: "guest", summary: of_guest.summary() });
    let of_host = Distribution::of(driver.round_trips_of_host(samples)?)?;
    report.latencies.push(Latency { path, what, side: "host", summary: of_host.summary() });
    bar.inc(1);
    Ok(())
}

/// How many calls read a disk of `size` bytes once, in pieces that are timed together.
fn pieces(size: u64, call: u32) -> (u64, u64) {
    let calls = size / u64::from(call);
    let most = u64::try_from(MAX_SAMPLES).unwrap_or(u64::MAX);
    (calls.min(most), calls.min(most) * u64::from(call))
}

fn disks<R: Read, W: Write>(
    driver: &mut Driver<R, W>,
    path: &'static str,
    options: &IoOptions,
    report: &mut IoReport,
) -> anyhow::Result<()> {
    let samples = u64::from(options.samples);
    // What the first reads find cold: the disk's driver, the host's side of the file.
    driver.read_disk(RANDOM_CALL, 64, Order::Random, true)?;
    let reads = driver.read_disk(RANDOM_CALL, samples, Order::Random, true)?;
    let summary = Distribution::of(reads.each_ns)?.summary();
    report.latencies.push(Latency { path, what: "random 4 KiB, direct", side: "guest", summary });
    let (calls, bytes) = pieces(options.size, options.call);
    let mut direct = Vec::new();
    for _ in 0..options.runs {
        direct.push(driver.read_disk(options.call, calls, Order::Sequential, true)?.total_ns);
    }
    report.rates.push(Rate::new(path, "sequential, direct", "guest", bytes, options.call, direct)?);
    // Once: what has been read is in the guest's page cache.
    let cached = driver.read_disk(options.call, calls, Order::Sequential, false)?.total_ns;
    report.rates.push(Rate::new(path, "sequential, page cache", "guest", bytes, options.call, [cached])?);
    Ok(())
}

/// The same reads of the same file without a guest, to see what the guest costs.
fn host_reads(disk: &File, options: &IoOptions, report: &mut IoReport) -> anyhow::Result<()> {
    let mut buffer = vec![0; usize::try_from(options.call)?];
    let (calls, bytes) = pieces(options.size, options.call);
    let mut totals = Vec::new();
    for _ in 0..options.runs {
        let start = Instant::now();
        for call in 0..calls {
            disk.read_exact_at(&mut buffer, call * u64::from(options.call))?;
        }
        totals.push(nanoseconds(start));
    }
    report.rates.push(Rate::new("file", "sequential", "host", bytes, options.call, totals)?);
    let mut samples = Vec::new();
    let mut buffer = vec![0; usize::try_from(RANDOM_CALL)?];
    let places = options.size / u64::from(RANDOM_CALL);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..options.samples {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let start = Instant::now();
        disk.read_exact_at(&mut buffer, (random % places) * u64::from(RANDOM_CALL))?;
        samples.push(nanoseconds(start));
    }
    let summary = Distribution::of(samples)?.summary();
    report.latencies.push(Latency { path: "file", what: "random 4 KiB", side: "host", summary });
    Ok(())
}
