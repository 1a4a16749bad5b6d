//! Starting a sandbox process: this program once more, with what it needs at the places where it looks for it.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::{
    Error,
    error::{errno, host},
    sandbox::{ENDED_FD, LIFELINE_FD},
    spawn::SANDBOX_NAME,
};

/// A sandbox process, and the socket that leads to it.
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) lifeline: UnixStream,
}

/// What a sandbox process gets beside its lifeline.
#[derive(Default)]
pub(crate) struct Inheritance {
    /// All three of its standard streams, if they are not the caller's.
    pub(crate) terminal: Option<OwnedFd>,
    /// For a container: its control socket and the file for its end.
    pub(crate) container: Option<(OwnedFd, OwnedFd)>,
}

/// Starts this program as a sandbox process, with `arguments`.
pub(crate) fn launch(arguments: &[OsString], inheritance: Inheritance) -> Result<Launched, Error> {
    let (lifeline, theirs) = UnixStream::pair().map_err(host("create a socket pair"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(SANDBOX_NAME).args(arguments);
    let mut given = vec![OwnedFd::from(theirs)];
    if let Some(terminal) = inheritance.terminal {
        let stream = || terminal.try_clone().map_err(host("keep the terminal"));
        command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
    }
    if let Some((control, ended)) = inheritance.container {
        command.current_dir("/");
        given.extend([control, ended]);
    }
    // Moved up, out of the way of where they are going; and whatever else is opened comes after the places that they go to.
    let moved: Vec<OwnedFd> = given.into_iter().map(move_up).collect::<Result<_, _>>()?;
    let _reserved = reserve().map_err(host("open /dev/null"))?;
    let places: Vec<(RawFd, RawFd)> =
        (LIFELINE_FD..).zip(&moved).map(|(to, fd)| (fd.as_raw_fd(), to)).collect();
    let first_private = LIFELINE_FD + RawFd::try_from(places.len()).unwrap_or(0);
    // SAFETY: the closure runs between fork and exec in a process with one thread, and calls only `dup2` and `close_range`, which
    // are async-signal-safe. The descriptors are open: the parent keeps `moved` until after the spawn.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in &places {
                if libc::dup2(*from, *to) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // What the caller of `mote` has left open is not for a sandbox process: somebody may wait for its end.
            let first = libc::c_uint::try_from(first_private).unwrap_or(3);
            libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    let child = command.spawn().map_err(host("start the sandbox process"))?;
    Ok(Launched { child, lifeline })
}

fn move_up(fd: OwnedFd) -> Result<OwnedFd, Error> {
    use std::os::fd::FromRawFd;
    let moved =
        fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(ENDED_FD + 1)).map_err(errno("duplicate a descriptor"))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// Occupies the places that a sandbox process finds things at, as far as they are free: else something that is opened on the way
/// to exec could be in one of them, and be overwritten.
fn reserve() -> io::Result<Vec<File>> {
    let mut reserved = Vec::new();
    loop {
        let file = File::open("/dev/null")?;
        if file.as_fd().as_raw_fd() > ENDED_FD {
            return Ok(reserved);
        }
        reserved.push(file);
    }
}
