//! `mote`: runs commands, each in a virtual machine of its own.
//!
//! **Owns** the command line and everything that is printed. **Must not know** how a sandbox works: that is `runtime`'s.
//!
//! A failure is one line on standard error, `mote: WHAT: WHY`, and one of the statuses that `mote run --help` lists; container verbs
//! fail as runc does (`oci.rs`).

mod args;
mod bench;
mod check;
mod documents;
mod image;
mod logging;
mod memory;
mod oci;
mod report;
mod run;
mod usage;
mod volume;

use std::process::ExitCode;

use clap::Parser;
use mote_runtime::Timeline;

use crate::args::{Arguments, Deferred, SandboxArguments, Verb};

fn main() -> ExitCode {
    // Before anything else: the timeline counts from here.
    let timeline = Timeline::begin();
    if std::env::args_os().next().is_some_and(|name| name == mote_runtime::SANDBOX_NAME) {
        return sandbox();
    }
    if asks_for_version() {
        return documents::version();
    }
    let arguments = match Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return usage::wrong(&error),
    };
    if let Err(error) = logging::start(&arguments.log) {
        return report::failed(&error, arguments.log.debug);
    }
    match arguments.verb {
        Verb::Run(Deferred(options)) => match &options.bundle {
            Some(bundle) => oci::run(&options, bundle, &arguments.global, &arguments.log),
            None => run::run(*options, &arguments.log, timeline),
        },
        Verb::Container(verb) => oci::main(verb, &arguments.global, &arguments.log),
        Verb::Image(options) => image::image(*options.0, &arguments.log),
        Verb::Check => check::check(),
        Verb::Bench(options) => bench::bench(&options.what, arguments.log.debug),
        Verb::Version => documents::version(),
        Verb::Completions { shell } => documents::completions(shell),
        Verb::Man { directory } => match documents::man(directory.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report::failed(&error, arguments.log.debug),
        },
    }
}

/// What this program does when a caller starts it as a sandbox process.
fn sandbox() -> ExitCode {
    let arguments = match SandboxArguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage::wrong(&error),
    };
    match logging::start(&arguments.log) {
        Ok(()) => mote_runtime::sandbox_main(),
        Err(error) => report::failed(&error, arguments.log.debug),
    }
}

/// `--version` stands where verbs do, and there alone.
fn asks_for_version() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == "--version" || first == "-v" || first == "-V")
}
