//! The caller's terminal: raw while the command has it, as it was afterwards.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mote_protocol::WindowSize;
use nix::sys::termios::{SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::{Error, error::errno};

/// A terminal whose settings are put back when this is dropped.
///
/// The caller and the sandbox process hold one each, made before the terminal is set to raw mode: whichever of them survives
/// the other restores it.
pub(crate) struct Restore {
    fd: OwnedFd,
    saved: Termios,
}

impl Restore {
    /// Remembers the settings of the terminal behind `fd`.
    pub(crate) fn later(fd: BorrowedFd<'_>) -> Result<Self, Error> {
        let fd = fd.try_clone_to_owned().map_err(crate::error::host("keep the terminal"))?;
        let saved = tcgetattr(&fd).map_err(errno("read the terminal's settings"))?;
        Ok(Self { fd, saved })
    }

    /// Sets the terminal to raw mode: every key goes to the command as it is.
    pub(crate) fn set_raw(&self) -> Result<(), Error> {
        let mut raw = self.saved.clone();
        cfmakeraw(&mut raw);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&self.fd, SetArg::TCSADRAIN, &raw).map_err(errno("set the terminal to raw mode"))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.fd, SetArg::TCSADRAIN, &self.saved);
    }
}

nix::ioctl_read_bad!(tiocgwinsz, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// The size of the first of the standard streams that is a terminal.
pub(crate) fn window_size() -> Option<WindowSize> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|fd| {
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and the ioctl writes one `winsize` to the place given.
        unsafe { tiocgwinsz(std::os::fd::AsRawFd::as_raw_fd(&fd), &raw mut size) }.ok()?;
        Some(WindowSize { rows: size.ws_row, columns: size.ws_col })
    })
}

/// The size of a terminal that nobody sees.
pub(crate) const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };
