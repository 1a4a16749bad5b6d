//! How far something is: bars on a terminal, a line for each step elsewhere, or nothing.

use std::io::{IsTerminal, stderr};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mote_rootfs_builder::{Progress, Silent, Step};

/// Shows steps on standard error.
#[derive(Debug)]
pub(crate) enum Shown {
    Bars(MultiProgress),
    Lines,
    Nothing,
}

impl Shown {
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet {
            Self::Nothing
        } else if stderr().is_terminal() {
            Self::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Self::Lines
        }
    }
}

impl Progress for Shown {
    fn step(&self, what: &str, bytes: u64) -> Box<dyn Step> {
        match self {
            Self::Nothing => Box::new(Silent),
            Self::Lines => {
                eprintln!("{what}");
                Box::new(Silent)
            }
            Self::Bars(all) => {
                let (bar, template) = if bytes > 0 {
                    (ProgressBar::new(bytes), "{msg:32!} [{bar:30}] {bytes} / {total_bytes}")
                } else {
                    (ProgressBar::no_length(), "{msg:32!} {bytes}")
                };
                let bar = all.add(bar.with_message(what.to_owned()));
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                Box::new(Bar(bar))
            }
        }
    }
}

/// A bar that stays when its step is over.
struct Bar(ProgressBar);

impl Step for Bar {
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // One that stopped on its way stays where it was.
        self.0.abandon();
    }
}
