//! Command lines that make no sense, and what becomes of them: container verbs fail as runc does, ours as podman's.

use std::process::ExitCode;

use clap::{CommandFactory, error::ErrorKind};

use crate::args::Arguments;

/// Verbs that engines know from runc.
const CONTAINER_VERBS: [&str; 16] = [
    "create",
    "start",
    "state",
    "kill",
    "delete",
    "exec",
    "list",
    "ps",
    "pause",
    "resume",
    "events",
    "update",
    "spec",
    "features",
    "checkpoint",
    "restore",
];

/// Says what is wrong, or what was asked for: help is no failure.
pub(crate) fn wrong(error: &clap::Error) -> ExitCode {
    if let (ErrorKind::InvalidSubcommand, Some(verb)) = (error.kind(), verb()) {
        eprintln!("No help topic for '{verb}'");
        return ExitCode::from(3);
    }
    let _ = error.print();
    let for_engines = verb().is_some_and(|verb| CONTAINER_VERBS.contains(&verb.as_str()));
    match (error.use_stderr(), for_engines) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(1),
        // 125 is Mote's own failure in every other verb.
        (true, false) => ExitCode::from(125),
    }
}

/// The first word that is neither an option nor the value of one.
fn verb() -> Option<String> {
    let takes_value = |option: &str| {
        let command = Arguments::command();
        let name = option.trim_start_matches('-');
        command
            .get_arguments()
            .any(|argument| argument.get_long() == Some(name) && argument.get_action().takes_values())
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            return Some(word);
        }
        if !word.contains('=') && takes_value(&word) {
            words.next();
        }
    }
    None
}
