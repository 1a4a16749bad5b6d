//! An idle container, as an engine would have it: its root is a folder that the sandbox process serves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use serde_json::json;

use super::{check, processes, report::MachineReport, weigh_family};
use crate::bench::{args::MemoryOptions, children::Measured, io::Driver, scratch::Scratch};

/// The limit of the container's memory, in bytes.
const LIMIT: u64 = 64 << 20;
/// With that, what its machine has.
const MACHINE: u64 = 128 << 20;

/// What a container's sandbox weighs that waits for input. Its program is the meter.
pub(super) fn weigh(options: &MemoryOptions) -> anyhow::Result<MachineReport> {
    let bundle = Scratch::new()?;
    let root = bundle.path().join("rootfs");
    let program = root.join("meter");
    let config = json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": { "args": ["/meter", "-"], "cwd": "/" },
        "linux": { "namespaces": [], "resources": { "memory": { "limit": LIMIT } } },
    });
    fs::create_dir(&root)
        .and_then(|()| fs::write(&program, mote_runtime::meter()))
        .and_then(|()| fs::set_permissions(&program, PermissionsExt::from_mode(0o755)))
        .and_then(|()| fs::write(bundle.path().join("config.json"), config.to_string()))
        .context("cannot make a bundle")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("--container-hypervisor").arg(options.hypervisor.name());
    command.arg("--root").arg(bundle.path().join("state"));
    command.arg("run").arg("--bundle").arg(bundle.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut process = Measured::spawn(&mut command).context("cannot start mote run --bundle")?;
    let deadline = process.kill_after(Duration::from_secs(options.limit.into()))?;
    let child = process.child();
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (stdin, stdout) = stdin.zip(stdout).context("mote run --bundle has no pipes")?;
    let mut driver = Driver::new(stdout, stdin, 1)?;
    let ready = driver.round_trips_of_host(1);
    check(&deadline, options)?;
    ready.context("the container ended before it was ready")?;
    let report = weigh_family(&processes::family(process.child().id())?, MACHINE)?;
    // The end of its input is the container's, and that of its state.
    drop(driver);
    process.wait().context("cannot wait for mote run --bundle")?;
    Ok(report)
}
