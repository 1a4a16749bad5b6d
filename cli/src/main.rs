//! `mote`: runs commands, each in a virtual machine of its own.
//!
//! **Owns** the command line and everything that is printed. **Must not know** how a sandbox works: that is `runtime`'s.
//!
//! A failure is one line on standard error, `mote: WHAT: WHY`, and one of the statuses that `mote run --help` lists.

mod args;
mod bench;
mod check;
mod documents;
mod image;
mod logging;
mod memory;
mod report;
mod run;
mod volume;

use std::process::ExitCode;

use clap::Parser;
use mote_runtime::Timeline;

use crate::args::{Arguments, Verb};

fn main() -> ExitCode {
    // Before anything else: the timeline counts from here.
    let timeline = Timeline::begin();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are asked for, and no failure. 125 is Mote's own failure in every verb.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(125) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = logging::start(&arguments.log) {
        return report::failed(&error, arguments.log.debug);
    }
    match arguments.verb {
        Verb::Run(options) => run::run(*options, &arguments.log, timeline),
        Verb::Image(options) => image::image(*options, &arguments.log),
        Verb::Check => check::check(),
        Verb::Bench { what } => bench::bench(&what, arguments.log.debug),
        Verb::Version => documents::version(),
        Verb::Completions { shell } => documents::completions(shell),
        Verb::Man { directory } => match documents::man(directory.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report::failed(&error, arguments.log.debug),
        },
        Verb::Sandbox => mote_runtime::sandbox_main(),
    }
}
