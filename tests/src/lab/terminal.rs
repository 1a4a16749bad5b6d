//! The terminal of an interactive lab: raw while the lab runs, as it was before afterwards.

use std::io::{self, IsTerminal, Stdin};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::termios::{self, SetArg, Termios};

use super::error::{Error, Result};

/// What L1 is told if the terminal does not say its size: rows and columns.
const USUAL_SIZE: (u16, u16) = (24, 80);

nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

/// Standard input, a terminal in raw mode. Dropping it restores the terminal.
pub(crate) struct Terminal {
    stdin: Stdin,
    before: Termios,
}

impl Terminal {
    /// Makes the terminal on standard input raw.
    pub(crate) fn raw() -> Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(Error::NoTerminal);
        }
        let failed = |errno| Error::io("make raw", "the terminal")(io::Error::from(errno));
        let before = termios::tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(Self { stdin, before })
    }

    /// Its rows and columns.
    pub(crate) fn size(&self) -> (u16, u16) {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and `size` is what TIOCGWINSZ fills.
        let result = unsafe { window_size(self.stdin.as_raw_fd(), &raw mut size) };
        if result.is_ok() && size.ws_row > 0 && size.ws_col > 0 {
            (size.ws_row, size.ws_col)
        } else {
            USUAL_SIZE
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing is left to do about a terminal that went away.
        let _ = termios::tcsetattr(&self.stdin, SetArg::TCSADRAIN, &self.before);
    }
}
