//! `lab`: runs one command in the lab and exits with its status.
//!
//! Status 125 is the lab's own: it could not be set up, or it died without a status of the command.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use mote_tests::lab::{Error, Lab};

/// The status for everything that is not the command's own.
const LAB_FAILED: u8 = 125;

/// Runs a command on a Linux machine with KVM, emulated by QEMU, whose clock counts instructions: 1 ns each.
///
/// Exits with the command's status, or with 125 if the lab itself failed. Without a command: a shell, if standard input
/// is a terminal; Ctrl-] ends the lab.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Arguments {
    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1600, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Stop the lab after so many seconds of wall time; 0 for never [default: 600 with a command, else 0]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Copy a file or a folder into the lab
    #[arg(long, value_name = "HOST_PATH:GUEST_PATH", value_parser = pair)]
    file: Vec<(PathBuf, PathBuf)>,
    /// Copy an installed program, with its libraries, to the lab's /usr/bin
    #[arg(long, value_name = "NAME")]
    program: Vec<String>,
    /// Load a further kernel module
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Set an environment variable of the command
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Bring a file out of the lab when the command has ended
    #[arg(long, value_name = "GUEST_PATH:HOST_PATH", value_parser = pair)]
    output: Vec<(PathBuf, PathBuf)>,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to tell if even this cannot be written.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(LAB_FAILED) } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("lab: {error:#}");
            // A command that failed, and therefore left no results, is better known by its own status.
            match error.downcast_ref() {
                Some(&Error::NoResult { status, .. }) if status != 0 => ExitCode::from(status),
                _ => ExitCode::from(LAB_FAILED),
            }
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let interactive = arguments.command.is_empty();
    if interactive && !io::stdin().is_terminal() {
        return Err(Error::NoTerminal.into());
    }
    let mut lab = Lab::new()?.memory(arguments.memory);
    lab = match arguments.timeout {
        Some(0) => lab.timeout(None),
        Some(seconds) => lab.timeout(Duration::from_secs(seconds)),
        None if interactive => lab.timeout(None),
        None => lab,
    };
    for (host, guest) in arguments.file {
        lab = lab.file(host, guest);
    }
    for name in arguments.program {
        lab = lab.program(name);
    }
    for name in arguments.module {
        lab = lab.module(name);
    }
    for (name, value) in arguments.env {
        lab = lab.env(name, value);
    }
    for (guest, host) in arguments.output {
        lab = lab.output(guest, host);
    }
    if interactive { Ok(lab.interact()?) } else { Ok(lab.run_to(&arguments.command, &mut io::stdout())?) }
}

/// Splits at the last colon of HOST:GUEST and GUEST:HOST alike.
fn pair(text: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (one, other) = text.rsplit_once(':').context("two paths with a colon between them are needed")?;
    anyhow::ensure!(!one.is_empty() && !other.is_empty(), "one of the two paths is empty");
    Ok((one.into(), other.into()))
}

fn variable(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once('=').context("give NAME=VALUE")?;
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    anyhow::ensure!(
        plain && name.starts_with(|first: char| !first.is_ascii_digit()),
        "{name:?} is no variable name"
    );
    Ok((name.to_owned(), value.to_owned()))
}
