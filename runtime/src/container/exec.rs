//! `exec`: one more process in a container.
//!
//! The command hands its standard streams over to the sandbox process, which joins them with the guest's; no byte of them passes
//! through here, but for streams that may block (`streams.rs`). What stays is a connection: signals and window sizes go one way,
//! the end comes back. In the foreground that is the command itself, detached it is a *relay*: a fork of it that is to the outside
//! what the process is in the guest, ends with its status after the last byte of output, and takes it along when it is killed.

use std::{
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, stat::Mode},
    unistd::{ForkResult, fork},
};
use oci_spec::runtime::Process;

use super::{
    console::Console,
    create::write_pid_file,
    id::ContainerId,
    state::Container,
    streams::{Pump, Streams},
};
use crate::{
    Error,
    control::{Answer, Ask, Connection, Exec},
    error::{Kind, errno, host},
    oci::{self, Bundle},
    signals::Signals,
    terminal::{self, Restore},
};

/// The status of a process that went when its container went.
const KILLED: u8 = 128 + 9;
/// Where a relay keeps what it needs; everything else is closed.
const RELAY_CONNECTION: RawFd = 3;
const RELAY_TERMINAL: RawFd = 4;
const RELAY_PUMPS: RawFd = 5;

/// What `exec` needs to know.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// Where a terminal's other end is sent.
    pub console_socket: Option<&'a Path>,
    /// Where the process id of the relay is written.
    pub pid_file: Option<&'a Path>,
    /// Does not wait for the end.
    pub detach: bool,
    /// Even if the container is paused.
    pub ignore_paused: bool,
}

/// A container that a process is to be started in, and its configuration.
pub struct Target {
    container: Container,
    bundle: Bundle,
}

impl Target {
    /// Finds it.
    ///
    /// # Errors
    /// There is no such container, or its bundle is gone.
    pub fn find(root: &Path, id: &ContainerId) -> Result<Self, Error> {
        let container = Container::find(root, id)?;
        let bundle = Bundle::load(&container.state.bundle)?;
        Ok(Self { container, bundle })
    }

    /// The process that the configuration describes: what `exec` starts from.
    ///
    /// # Errors
    /// There is none.
    pub fn configured_process(&self) -> Result<Process, Error> {
        let process = self.bundle.spec().process().clone();
        process.ok_or_else(|| Error::new(Kind::Container, "config.json has no process"))
    }
}

/// Starts a process in a container. Returns its status, or 0 at once if it is detached.
///
/// # Errors
/// The container does not run, or the process cannot be started in it.
pub fn exec(target: &Target, options: &ExecOptions<'_>, process: &Process) -> Result<u8, Error> {
    let Target { container, bundle } = target;
    let wants_terminal = process.terminal().unwrap_or(false);
    if options.console_socket.is_some() && !(options.detach && wants_terminal) {
        return Err(Error::new(
            Kind::Container,
            "cannot use console socket if runc will not detach or allocate tty",
        ));
    }
    if options.detach && wants_terminal && options.console_socket.is_none() {
        return Err(Error::new(
            Kind::Container,
            "cannot allocate tty if runc will detach without setting console socket",
        ));
    }
    let program = oci::compile::exec(bundle, process)?;
    let size = process.console_size().map(|size| mote_protocol::WindowSize {
        rows: u16::try_from(size.height()).unwrap_or(u16::MAX),
        columns: u16::try_from(size.width()).unwrap_or(u16::MAX),
    });
    let console = options.console_socket.map(|socket| Console::open(socket, size)).transpose()?;
    // Before the first signal can come for the process.
    let signals = Signals::take(&[Signal::SIGWINCH])?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let terminal = match &console {
        Some(console) => Some(console.slave()),
        None if wants_terminal => Some(stdin.as_fd()),
        None => None,
    };
    let size = terminal.map(|fd| terminal::size_of(fd).or(size).unwrap_or(terminal::DEFAULT_SIZE));
    let ask = Ask::Exec(Exec {
        program: program.into_bytes(),
        terminal: size.map(|size| (size.rows, size.columns)),
        ignore_paused: options.ignore_paused,
    });
    let restore = match terminal {
        Some(fd) if console.is_none() => Some(Restore::later(fd)?),
        _ => None,
    };
    const GONE: &str = "cannot exec in a stopped container";
    let gone = |_| Error::new(Kind::Container, GONE);
    let streams = match terminal {
        Some(terminal) => Streams::of_terminal(terminal),
        None => Streams::new(streams),
    }
    .map_err(host("prepare the streams"))?;
    let mut connection = container.connect(GONE)?;
    let pumps = streams.hand_over(&mut connection, &ask).map_err(gone)?;
    match connection.receive().map_err(gone)? {
        Answer::Started { .. } => {}
        Answer::Failed(failure) => return Err(Error(Box::new(failure))),
        _ => return Err(Error::new(Kind::Host, "the sandbox process spoke out of turn")),
    }
    restore.as_ref().map_or(Ok(()), Restore::set_raw)?;
    if !options.detach {
        return attend(&mut connection, &signals, terminal, pumps);
    }
    if let Some(console) = &console {
        console.hand_over()?;
    }
    let relay = detach(&connection, console.as_ref().map(Console::slave), &pumps)?;
    options.pid_file.map_or(Ok(()), |path| write_pid_file(path, relay))?;
    Ok(0)
}

/// Passes on signals, window sizes and whatever needs a thread of ours, until the process has ended; returns its status.
fn attend(
    connection: &mut Connection,
    signals: &Signals,
    terminal: Option<BorrowedFd<'_>>,
    pumps: Vec<Pump>,
) -> Result<u8, Error> {
    let threads = pumps.into_iter().map(Pump::start).collect::<Result<Vec<_>, _>>();
    let threads = threads.map_err(host("start a thread for a stream"))?;
    let status = wait_for_end(connection, signals, terminal)?;
    for output in threads.into_iter().flatten() {
        // Its last bytes are on their way; it has nothing to say.
        let _ = output.join();
    }
    Ok(status)
}

fn wait_for_end(
    connection: &mut Connection,
    signals: &Signals,
    terminal: Option<BorrowedFd<'_>>,
) -> Result<u8, Error> {
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(connection.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(errno("wait for the process")(error)),
        }
        let [_, spoke] = fds.map(|fd| fd.any().unwrap_or(false));
        while let Some(signal) = signals.next() {
            let ask = match (signal, terminal.and_then(terminal::size_of)) {
                (Signal::SIGWINCH, Some(size)) => Ask::Resize { rows: size.rows, columns: size.columns },
                (Signal::SIGWINCH, None) => continue,
                (signal, _) => Ask::Signal { signal: u8::try_from(signal as i32).unwrap_or(0) },
            };
            // That it is gone is about to be read.
            let _ = connection.send(&ask, &[]);
        }
        if spoke {
            match connection.receive() {
                Ok(Answer::Exited { status }) => return Ok(status),
                // A signal or a size that came too late.
                Ok(_) => {}
                Err(_) => return Ok(KILLED),
            }
        }
    }
}

/// Forks the relay; returns its process id.
fn detach(connection: &Connection, terminal: Option<BorrowedFd<'_>>, pumps: &[Pump]) -> Result<u32, Error> {
    // SAFETY: this process has one thread, so the child may do whatever any process may.
    match unsafe { fork() }.map_err(errno("fork"))? {
        ForkResult::Parent { child } => {
            u32::try_from(child.as_raw()).map_err(|_| Error::new(Kind::Host, "impossible process id"))
        }
        ForkResult::Child => {
            let status = relay(connection, terminal, pumps).unwrap_or(u8::MAX);
            // SAFETY: ends the process at once. Nothing of the parent's is cleaned up or written twice.
            unsafe { libc::_exit(status.into()) }
        }
    }
}

/// All that a relay does.
fn relay(connection: &Connection, terminal: Option<BorrowedFd<'_>>, pumps: &[Pump]) -> Result<u8, Error> {
    nix::unistd::setsid().map_err(errno("leave the session"))?;
    nix::unistd::chdir("/").map_err(errno("leave the folder"))?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(errno("open /dev/null"))?;
    // Whoever reads from the streams is to see the process's end, and not ours.
    nix::unistd::dup2_stdin(&null).map_err(errno("let go of standard input"))?;
    nix::unistd::dup2_stdout(&null).map_err(errno("let go of standard output"))?;
    nix::unistd::dup2_stderr(&null).map_err(errno("let go of standard error"))?;
    let keep = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(host("keep a descriptor"));
    // Copies that lie above the places they go to: what is below is overwritten.
    let high = |fd: OwnedFd| -> Result<OwnedFd, Error> {
        let moved = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(16))
            .map_err(errno("keep a descriptor"))?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Ok(unsafe { OwnedFd::from_raw_fd(moved) })
    };
    let connection = high(keep(connection.as_fd())?)?;
    let terminal = terminal.map(|fd| high(keep(fd)?)).transpose()?;
    let pumps: Vec<_> =
        pumps.iter().map(|pump| pump.map(|fd| high(keep(fd)?))).collect::<Result<_, Error>>()?;
    let place = |fd: BorrowedFd<'_>, at: RawFd| -> Result<OwnedFd, Error> {
        // SAFETY: nothing in this process uses what is at these places: the parent's objects are not touched again, nor dropped.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), at) }).map_err(errno("place a descriptor"))?;
        // SAFETY: the descriptor is open, and this is its only owner.
        Ok(unsafe { OwnedFd::from_raw_fd(at) })
    };
    let connection = place(connection.as_fd(), RELAY_CONNECTION)?;
    let terminal = terminal.map(|fd| place(fd.as_fd(), RELAY_TERMINAL)).transpose()?;
    let mut places = RELAY_PUMPS..;
    let mut place_next = |fd: BorrowedFd<'_>| place(fd, places.next().unwrap_or(RawFd::MAX));
    let pumps: Vec<_> = pumps.iter().map(|pump| pump.map(&mut place_next)).collect::<Result<_, Error>>()?;
    // Descriptors that the caller of `mote` has left open: somebody may wait for their end.
    // SAFETY: none of them is used again, and their owners are not dropped.
    unsafe { libc::syscall(libc::SYS_close_range, places.start, libc::c_uint::MAX, 0) };
    let mut connection = Connection::from(UnixStream::from(connection));
    // They are blocked since before the fork.
    let signals = Signals::take(&[Signal::SIGWINCH])?;
    if let Some(terminal) = &terminal {
        terminal::control(terminal.as_fd())?;
        // It may have changed before changes were told.
        if let Some(size) = terminal::size_of(terminal.as_fd()) {
            let _ = connection.send(&Ask::Resize { rows: size.rows, columns: size.columns }, &[]);
        }
    }
    attend(&mut connection, &signals, terminal.as_ref().map(AsFd::as_fd), pumps)
}
