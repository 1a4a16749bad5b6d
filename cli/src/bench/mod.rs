//! `mote bench`: measures Mote, and whatever else is to be compared with it, as its users see it.
//!
//! **Owns** what is measured, how often, in which order, and how results are shown. **Must not know** how a machine boots: it
//! starts `mote run` like any other program and reads its timeline. Only [`io`] makes a machine itself, to measure the devices
//! without anything above them.
//!
//! A measurement is complete or there is no result: the first failure, a time limit and an interrupt end it, and nothing that it
//! started is left.

pub(crate) mod args;
mod boot;
mod children;
mod container;
mod host;
mod html;
mod io;
mod memory;
mod orphans;
mod progress;
mod scratch;
mod stats;
mod table;

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use self::args::BenchVerb;
use crate::report;

pub(crate) fn bench(verb: &BenchVerb, debug: bool) -> ExitCode {
    let result = children::end_on_interrupt().and_then(|()| match verb {
        BenchVerb::Boot(options) => boot::bench(options),
        BenchVerb::Memory(options) => memory::bench(options),
        BenchVerb::Io(options) => io::bench(options),
        BenchVerb::Container(options) => container::bench(options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(&error, debug),
    }
}

fn print_json(result: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(result).context("cannot write the results as JSON")?;
    println!("{text}");
    Ok(())
}
