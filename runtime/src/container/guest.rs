//! The guest's files, read and written through the sandbox process: its cgroups, its processes.

use std::collections::BTreeMap;

use super::state::Container;
use crate::{
    Error,
    control::{Answer, Ask, Connection},
    error::Kind,
    oci::GUEST_CGROUP,
};

/// A connection for files. Names without a leading `/` are those of the container's cgroup.
pub(super) struct Files(Connection);

impl Files {
    pub(super) fn open(container: &Container) -> Result<Self, Error> {
        container.connect(GONE).map(Self)
    }

    /// Reads a whole file.
    pub(super) fn read(&mut self, name: &str) -> Result<String, Error> {
        let (path, mut text) = (path(name), String::new());
        loop {
            let offset = u64::try_from(text.len()).unwrap_or(u64::MAX);
            let (content, more) = self.file(&Ask::ReadFile { path: path.clone(), offset })?;
            text.push_str(&content);
            if !more || content.is_empty() {
                return Ok(text);
            }
        }
    }

    pub(super) fn write(&mut self, name: &str, content: &str) -> Result<(), Error> {
        match self.0.ask(&Ask::WriteFile { path: path(name), content: content.into() }).map_err(|_| gone())? {
            Answer::Failed(failure) => {
                Err(Error::new(Kind::Container, format!("{name}: {}", failure.message)))
            }
            _ => Ok(()),
        }
    }

    /// Waits until a file says something else than what is known, and reads it.
    pub(super) fn wait(&mut self, name: &str, known: &str) -> Result<String, Error> {
        self.file(&Ask::WaitFile { path: path(name), known: known.into() }).map(|(content, _)| content)
    }

    /// Waits until a file has a line that says so.
    pub(super) fn wait_until(&mut self, name: &str, line: &str) -> Result<(), Error> {
        let mut known = self.read(name)?;
        while !known.lines().any(|other| other == line) {
            known = self.wait(name, &known)?;
        }
        Ok(())
    }

    /// A file of `key value` lines.
    pub(super) fn table(&mut self, name: &str) -> BTreeMap<String, u64> {
        let text = self.read(name).unwrap_or_default();
        let entry = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        };
        text.lines().filter_map(entry).collect()
    }

    /// A file with one number; `max` is none.
    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        self.read(name).ok()?.trim().parse().ok()
    }

    fn file(&mut self, ask: &Ask) -> Result<(String, bool), Error> {
        match self.0.ask(ask).map_err(|_| gone())? {
            Answer::File { content, more } => Ok((content, more)),
            Answer::Failed(failure) => Err(Error(Box::new(failure))),
            _ => Err(Error::new(Kind::Host, "the sandbox process spoke out of turn")),
        }
    }
}

fn path(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("{GUEST_CGROUP}/{name}") }
}

const GONE: &str = "container not running";

fn gone() -> Error {
    Error::new(Kind::Container, GONE)
}
