//! What the guest says, without what it borrowed, and its refusals in words.

use mote_protocol::{ErrorCode, Event, ExitStatus, Hello, Operation, ProcessId};
use nix::errno::Errno;

use crate::{Error, error::Kind, program::Program};

/// An event.
#[derive(Debug)]
pub(super) enum Heard {
    Hello(Hello),
    Done,
    Failed(Refusal),
    Created,
    /// Its pid, and when.
    Started(u32, u64),
    /// How, and when.
    Exited(ProcessId, ExitStatus, u64),
    File {
        content: String,
        more: bool,
    },
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Hello(hello) => Self::Hello(hello),
            Event::Done(()) => Self::Done,
            Event::Failed(failed) => Self::Failed(Refusal {
                code: failed.code,
                errno: failed.errno,
                operation: failed.operation,
                text: failed.text.to_owned(),
            }),
            Event::Created(_) => Self::Created,
            Event::Started(started) => Self::Started(started.pid, started.at_ns),
            Event::Exited(exited) => Self::Exited(exited.process, exited.status, exited.at_ns),
            Event::Contents(contents) => Self::File {
                content: String::from_utf8_lossy(contents.content).into_owned(),
                more: contents.more,
            },
        }
    }
}

/// Why the guest did not do something: it knows the numbers, the host knows what was asked.
#[derive(Debug)]
pub(super) struct Refusal {
    code: ErrorCode,
    errno: u16,
    operation: Option<u16>,
    text: String,
}

impl Refusal {
    pub(super) fn kind(&self) -> Kind {
        match self.code {
            ErrorCode::CommandNotFound => Kind::CommandNotFound,
            ErrorCode::CommandNotExecutable => Kind::CommandNotExecutable,
            ErrorCode::OperationFailed | ErrorCode::InvalidArgument => Kind::Process,
            ErrorCode::NoSuchProcess => Kind::Container,
            _ => Kind::Guest,
        }
    }

    fn reason(&self) -> String {
        match self.errno {
            0 => self.text.clone(),
            number => Errno::from_raw(number.into()).desc().to_owned(),
        }
    }

    /// A refusal that has nothing to do with a program.
    pub(super) fn error(&self) -> Error {
        if self.code == ErrorCode::NoSuchProcess {
            return Error::new(Kind::Container, "container not running");
        }
        Error::new(self.kind(), format!("the guest's agent failed: {} ({})", self.text, self.reason()))
    }

    /// Which operation of `program` failed, and why.
    pub(super) fn explain(&self, program: &Program) -> Error {
        let Some(index) = self.operation else { return self.error() };
        let what = program.describe(index.into());
        let reason = match self.code {
            ErrorCode::CommandNotFound => "command not found".to_owned(),
            _ => self.reason(),
        };
        Error::new(self.kind(), format!("cannot {what} in the guest: {reason}"))
    }

    /// The same, with the words by which container engines tell a missing program from one that cannot be executed.
    pub(super) fn as_engines_know_it(&self, program: &Program) -> Error {
        let name = || {
            let Some(Ok(Operation::Exec { arguments, .. })) = program.operations().last() else {
                return String::new();
            };
            arguments.iter().next().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let text = match self.code {
            ErrorCode::CommandNotFound => {
                let name = name();
                if name.contains('/') {
                    format!("exec: {name:?}: stat {name}: no such file or directory")
                } else {
                    format!("exec: {name:?}: executable file not found in $PATH")
                }
            }
            ErrorCode::CommandNotExecutable => {
                format!("exec: {:?}: {}", name(), in_lower_case(&self.reason()))
            }
            _ => match self.operation {
                Some(index) => {
                    format!("{}: {}", program.describe(index.into()), in_lower_case(&self.reason()))
                }
                None => return self.error(),
            },
        };
        Error::new(self.kind(), format!("unable to start container process: {text}"))
    }
}

fn in_lower_case(reason: &str) -> String {
    let mut characters = reason.chars();
    characters
        .next()
        .map(|first| first.to_ascii_lowercase().to_string() + characters.as_str())
        .unwrap_or_default()
}
