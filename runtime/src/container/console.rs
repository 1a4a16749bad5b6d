//! A terminal for a container that its creator does not wait for: somebody else gets its other end, over a socket.

use std::{
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::Path,
};

use mote_protocol::WindowSize;
use nix::{
    pty::{Winsize, openpty},
    sys::{
        socket::{ControlMessage, MsgFlags, sendmsg},
        termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
    },
};

use crate::{
    Error,
    error::{Kind, errno},
};

/// A pseudo-terminal of the host's. The guest has one of its own, which does what terminals do; this one only passes on.
pub(super) struct Console {
    master: OwnedFd,
    pub(super) slave: OwnedFd,
    socket: UnixStream,
}

impl Console {
    /// Makes a terminal whose other end is for whoever listens at `socket`.
    pub(super) fn open(socket: &Path, size: Option<WindowSize>) -> Result<Self, Error> {
        let socket = UnixStream::connect(socket).map_err(|error| {
            Error::because(Kind::Container, format!("console socket {}", socket.display()), &error)
        })?;
        let size =
            size.map(|size| Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 });
        let pty = openpty(size.as_ref(), None).map_err(errno("make a terminal"))?;
        for end in [&pty.master, &pty.slave] {
            nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
                .map_err(errno("keep the terminal"))?;
        }
        let mut settings = tcgetattr(&pty.slave).map_err(errno("read the terminal's settings"))?;
        cfmakeraw(&mut settings);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &settings).map_err(errno("set the terminal to raw mode"))?;
        Ok(Self { master: pty.master, slave: pty.slave, socket })
    }

    /// Sends the other end.
    pub(super) fn hand_over(&self) -> Result<(), Error> {
        let name = nix::unistd::ttyname(self.slave.as_fd()).unwrap_or_else(|_| "/dev/ptmx".into());
        let descriptors = [self.master.as_raw_fd()];
        let sent = sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(name.as_os_str().as_bytes())],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        sent.map(drop).map_err(errno("send the terminal over the console socket"))
    }

    pub(super) fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }
}
