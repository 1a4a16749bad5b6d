//! A shared folder: what `mote run --volume` gives, with a large file and many small ones in it.
//!
//! The guest's shell writes and walks; the meter reads the large file, which stands where it looks for a disk.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout},
    time::Instant,
};

use anyhow::{Context, ensure};

use super::{
    command,
    driver::Driver,
    report::{IoReport, Latency, Rate},
};
use crate::bench::{
    args::IoOptions,
    scratch::Scratch,
    stats::{Distribution, nanoseconds},
};

/// How many files there are in each folder.
const FILES: u32 = 100;
const FIND: &str = "find";
const WRITE: &str = "sequential write, synced";
/// Follows orders until one of them starts the meter.
const FOLLOW: &str = "rm -f /dev/vda; ln -s /share/big /dev/vda; \
    while read -r order; do [ \"$order\" = meter ] && break; eval \"$order\" >/dev/null 2>&1; echo $?; done";

pub(super) fn measure(options: &IoOptions, report: &mut IoReport) -> anyhow::Result<()> {
    let folder = Scratch::new()?;
    fill(folder.path(), options).context("cannot fill a folder to measure")?;
    let volume = format!("{}:/share", folder.path().display());
    let mut run = command::start(options, &["--volume", &volume], FOLLOW)?;
    let deadline = run.process.kill_after(std::time::Duration::from_secs(options.limit.into()))?;
    let result = in_guest(run.stdin, run.stdout, options, report);
    result.map_err(|error| super::explain(error, &deadline, options, &[]))?;
    run.process.wait().context("cannot wait for mote run")?;
    on_host(folder.path(), options, report)
}

fn fill(folder: &Path, options: &IoOptions) -> std::io::Result<()> {
    write(&folder.join("big"), options)?;
    for number in 0..options.folders {
        let below = folder.join(format!("tree/{number}"));
        fs::create_dir_all(&below)?;
        (0..FILES).try_for_each(|number| fs::write(below.join(number.to_string()), ""))?;
    }
    Ok(())
}

fn write(path: &Path, options: &IoOptions) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![0x6d; 1 << 20];
    (0..options.size >> 20).try_for_each(|_| file.write_all(&piece))?;
    file.sync_all()
}

fn in_guest(
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    options: &IoOptions,
    report: &mut IoReport,
) -> anyhow::Result<()> {
    let mut stdout = BufReader::new(stdout);
    let mut timed = |order: &str| -> anyhow::Result<u64> {
        let start = Instant::now();
        writeln!(stdin, "{order}")?;
        let mut status = String::new();
        stdout.read_line(&mut status)?;
        ensure!(status.trim() == "0", "{order:?} failed in the guest: {:?}", status.trim());
        Ok(nanoseconds(start))
    };
    timed("true")?;
    let order = format!("dd if=/dev/zero of=/share/new bs=1M count={} conv=fsync", options.size >> 20);
    let writes = (0..options.runs).map(|_| timed(&order)).collect::<anyhow::Result<Vec<_>>>()?;
    report.rates.push(Rate::new("folder", WRITE, "host", options.size, 1 << 20, writes)?);
    let finds = (0..options.runs).map(|_| timed("find /share/tree")).collect::<anyhow::Result<Vec<_>>>()?;
    let summary = Distribution::of(finds)?.summary();
    report.latencies.push(Latency { path: "folder", what: FIND, side: "host", summary });
    writeln!(stdin, "meter")?;
    let mut driver = Driver::new(stdout, stdin, options.call)?;
    super::disks(&mut driver, "folder", options, report)
}

/// The same without a guest.
fn on_host(folder: &Path, options: &IoOptions, report: &mut IoReport) -> anyhow::Result<()> {
    let (mut writes, mut finds) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let start = Instant::now();
        write(&folder.join("new"), options)?;
        writes.push(nanoseconds(start));
        let start = Instant::now();
        let found = walk(&folder.join("tree"))?;
        finds.push(nanoseconds(start));
        ensure!(found == options.folders * (FILES + 1), "{found} files and folders were found");
    }
    report.rates.push(Rate::new("file", WRITE, "host", options.size, 1 << 20, writes)?);
    let summary = Distribution::of(finds)?.summary();
    report.latencies.push(Latency { path: "file", what: FIND, side: "host", summary });
    Ok(())
}

/// Counts what lies below a folder, and looks at each, as `find` does.
fn walk(folder: &Path) -> std::io::Result<u32> {
    let mut found = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found += 1;
        if entry.metadata()?.is_dir() {
            found += walk(&entry.path())?;
        }
    }
    Ok(found)
}
