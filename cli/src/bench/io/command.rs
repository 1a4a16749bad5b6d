//! The meter as the command of `mote run`: everything that stands between two pipes of a user's.

use std::{
    io::Write,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, bail};

use crate::bench::{args::IoOptions, children::Measured};

/// `mote run` with the meter in it.
pub(super) struct Run {
    pub(super) process: Measured,
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
}

/// Starts it, and brings the meter in as the first bytes of its standard input: the default root file system has what it takes
/// to receive a program, and no other way in is needed.
///
/// The guest's shell does `before` what it has to before the meter takes over; further options are for `mote run`.
pub(super) fn start(options: &IoOptions, further: &[&str], before: &str) -> anyhow::Result<Run> {
    let meter = mote_runtime::meter();
    let receive = format!(
        "dd bs={} count=1 iflag=fullblock of=/tmp/meter 2>/dev/null && chmod 755 /tmp/meter && {{ {before}; }} && exec /tmp/meter -",
        meter.len()
    );
    let mut command = Command::new("/proc/self/exe");
    command.arg("run").arg("--hypervisor").arg(options.hypervisor.name());
    command.arg("--cpus").arg(options.cpus.to_string()).arg("--memory").arg(options.memory.to_string());
    if let Some(kernel) = &options.kernel {
        command.arg("--kernel").arg(kernel);
    }
    command.args(further);
    command.args(["--", "sh", "-c", &receive]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Measured::spawn(&mut command).context("cannot start mote run")?;
    let child = process.child();
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("mote run has no pipes");
    };
    stdin.write_all(meter).context("cannot bring the meter into the guest")?;
    Ok(Run { process, stdin, stdout })
}
