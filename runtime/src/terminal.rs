//! The caller's terminal: raw while the command has it, as it was afterwards.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

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
nix::ioctl_write_int_bad!(tiocsctty, nix::libc::TIOCSCTTY);

/// The size of the terminal behind `fd`, if it is one.
pub(crate) fn size_of(fd: BorrowedFd<'_>) -> Option<WindowSize> {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the ioctl writes one `winsize` to the place given.
    unsafe { tiocgwinsz(fd.as_raw_fd(), &raw mut size) }.ok()?;
    Some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Makes the terminal behind `fd` that of this session, which has none: changes of its size come as `SIGWINCH`, its end as
/// `SIGHUP`.
pub(crate) fn control(fd: BorrowedFd<'_>) -> Result<(), Error> {
    // SAFETY: the descriptor is open, and the ioctl takes no pointer.
    unsafe { tiocsctty(fd.as_raw_fd(), 0) }.map(drop).map_err(errno("make the terminal the session's"))
}

/// The size of a terminal that nobody sees.
pub(crate) const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };
