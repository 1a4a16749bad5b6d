//! Version, completions and manual, all from the one definition of the command line.

use std::{io::Write, path::Path, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;

use crate::args::Arguments;

pub(crate) fn version() -> ExitCode {
    println!("mote version {}", env!("CARGO_PKG_VERSION"));
    println!("spec: {}", mote_runtime::oci::OCI_VERSION);
    println!("protocol: {}", mote_protocol::VERSION);
    ExitCode::SUCCESS
}

pub(crate) fn completions(shell: clap_complete::Shell) -> ExitCode {
    clap_complete::generate(shell, &mut Arguments::command(), "mote", &mut std::io::stdout());
    ExitCode::SUCCESS
}

pub(crate) fn man(directory: Option<&Path>) -> anyhow::Result<()> {
    match directory {
        Some(directory) => clap_mangen::generate_to(Arguments::command(), directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display())),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
            std::io::stdout().write_all(&page).context("cannot print the manual page")
        }
    }
}
