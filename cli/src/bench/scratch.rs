//! A folder for the time of a measurement.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::children::Undo;

/// A temporary folder. It goes when this is dropped, or when the measurement is interrupted.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    _undo: Undo,
}

impl Scratch {
    pub(super) fn new() -> anyhow::Result<Self> {
        let path = tempfile::tempdir().context("cannot make a folder for the measurement")?.keep();
        let folder = path.clone();
        let undo = Undo::new(move || {
            // What cannot be removed is in a folder for what may be removed.
            let _ = std::fs::remove_dir_all(&folder);
        });
        Ok(Self { path, _undo: undo })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
