//! What a start leaves when it is over for its caller: a sandbox process that the host's kernel still takes apart.
//!
//! It would take its time from the start that comes next. So whoever measures adopts what is left, and waits until it is gone.

use anyhow::Context;
use nix::{
    errno::Errno,
    sys::{prctl, wait::waitpid},
    unistd::{Pid, getpid},
};

/// The processes that were left. There is one of these at a time.
pub(super) struct Orphans {
    /// Children that are not to be waited for.
    others: Vec<i32>,
}

impl Orphans {
    /// From here on, descendants whose parents have ended become children of this process.
    pub(super) fn adopt() -> anyhow::Result<Self> {
        prctl::set_child_subreaper(true).context("cannot adopt what machines leave")?;
        Ok(Self { others: children()? })
    }

    /// What has been left until now may live on.
    pub(super) fn disregard(&mut self) -> anyhow::Result<()> {
        self.others = children()?;
        Ok(())
    }

    /// Waits until everything else that was left has ended. There must be no children that are waited for elsewhere.
    pub(super) fn wait(&self) -> anyhow::Result<()> {
        for child in children()? {
            if self.others.contains(&child) {
                continue;
            }
            while waitpid(Pid::from_raw(child), None) == Err(Errno::EINTR) {}
        }
        Ok(())
    }
}

/// The children of the main thread, which orphans become.
fn children() -> anyhow::Result<Vec<i32>> {
    let path = format!("/proc/self/task/{}/children", getpid());
    // Without CONFIG_PROC_CHILDREN nobody can be waited for, and starts disturb each other a little.
    let list = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.with_context(|| format!("cannot read {path}"))?,
    };
    Ok(list.split_whitespace().filter_map(|child| child.parse().ok()).collect())
}
