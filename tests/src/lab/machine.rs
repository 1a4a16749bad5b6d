//! The QEMU process that is L1: starts it, passes its output on, and ends with it.
//!
//! QEMU dies with the thread that waits for it, even if that one is killed. It has its own process group, so that a
//! Ctrl-C reaches only the caller. The ramdisk and the console's log are memory files: nothing is left on disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use super::error::{Error, Result};
use super::terminal::Terminal;
use super::tools;

const QEMU: &str = "qemu-system-x86_64";
const QEMU_PACKAGE: &str = "qemu-system-x86";
/// `tsc_early_khz`: without it L1 sometimes measures its TSC to 0 kHz, and KVM then spins for ever.
/// `reboot=t`: a triple fault ends this machine for certain. `panic=-1`: at once.
const COMMAND_LINE: &str = "console=ttyS0 reboot=t panic=-1 quiet mitigations=off tsc_early_khz=1000000";
/// How many lines of a dead lab's console are shown.
const LINES: usize = 20;
/// Room in the pipe of the command's output: a full pipe stops L1's clock-driven progress until it is read.
const PIPE_BYTES: i32 = 1 << 20;
/// Ctrl-] ends an interactive lab.
const ESCAPE: u8 = 0x1d;

/// A machine to run.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) memory_mib: u32,
    /// Addresses whose code is written to a file when it runs for the first time: see [`Lab::log_code`](super::Lab::log_code).
    pub(crate) log_code: Option<&'a (RangeInclusive<u64>, PathBuf)>,
}

/// What is left of a machine that has ended.
pub(crate) struct Run {
    /// All that L1 wrote to its console.
    pub(crate) console: Vec<u8>,
    qemu: Vec<u8>,
    status: ExitStatus,
}

impl Run {
    /// That it ended before its time.
    pub(crate) fn died(&self) -> Error {
        let reason = if self.status.success() {
            "L1 went down without a status of the command".to_owned()
        } else {
            format!("{QEMU} ended with {}", self.status)
        };
        Error::Died { reason, console: excerpt(&self.console, &self.qemu) }
    }
}

impl Machine<'_> {
    /// Boots the machine and waits for its end. What comes on the command's serial line goes to `output`; what is typed
    /// on `terminal` goes to that line.
    pub(crate) fn run(
        &self,
        initrd: &[u8],
        limit: Option<Duration>,
        terminal: Option<&Terminal>,
        output: &mut dyn Write,
    ) -> Result<Run> {
        let deadline = limit.map(|limit| (Instant::now() + limit, limit));
        let mut ramdisk = memory_file("mote-lab-initrd")?;
        ramdisk.write_all(initrd).map_err(Error::io("write", "the lab's ramdisk in memory"))?;
        let console = memory_file("mote-lab-console")?;
        let messages = memory_file("mote-lab-qemu")?;
        let stderr = messages.try_clone().map_err(Error::io("duplicate", "a memory file"))?;
        let mut qemu = Qemu::start(self.command(&ramdisk, &console), stderr, terminal.is_some())?;
        let end = qemu.pump(deadline, terminal, output);
        if !matches!(end, Ok(End::Quit)) {
            qemu.stop();
        }
        let status = qemu.child.wait().map_err(Error::io("wait for", QEMU))?;
        let (console, messages) = (contents(&console)?, contents(&messages)?);
        match end? {
            End::Quit => Ok(Run { console, qemu: messages, status }),
            End::Escaped => {
                Err(Error::Died { reason: "ended with Ctrl-]".to_owned(), console: String::new() })
            }
            End::Limit(limit) => Err(Error::Hang { limit, console: excerpt(&console, &messages) }),
        }
    }

    fn command(&self, initrd: &File, console: &File) -> Result<Command> {
        let mut command = Command::new(tools::require(QEMU, QEMU_PACKAGE)?);
        command
            .args(["-M", "microvm,acpi=off", "-accel", "tcg", "-icount", "shift=0,sleep=off"])
            .args(["-cpu", "EPYC,+svm", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-m", &self.memory_mib.to_string()])
            .arg("-chardev")
            .arg(format!("file,id=console,path={}", path_of(console)))
            .args(["-serial", "chardev:console", "-chardev", "stdio,id=command,signal=off"])
            .args(["-device", "isa-serial,chardev=command,index=1"])
            .arg("-kernel")
            .arg(self.kernel)
            .args(["-initrd", &path_of(initrd), "-append", COMMAND_LINE]);
        if let Some((addresses, file)) = self.log_code {
            let filter = format!("{:#x}..{:#x}", addresses.start(), addresses.end());
            command.args(["-d", "in_asm", "-dfilter", &filter, "-D"]).arg(file);
        }
        Ok(command)
    }
}

/// Why the pump has stopped.
enum End {
    /// QEMU closed its output.
    Quit,
    /// The user asked for it.
    Escaped,
    /// The time was up.
    Limit(Duration),
}

struct Qemu {
    child: Child,
    stdout: ChildStdout,
    stdin: Option<ChildStdin>,
}

impl Qemu {
    fn start(command: Result<Command>, stderr: File, interactive: bool) -> Result<Self> {
        let mut command = command?;
        let parent = getpid();
        command
            .stdin(if interactive { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0);
        // SAFETY: `die_with` makes two system calls and allocates nothing, as is allowed between fork and exec.
        unsafe { command.pre_exec(move || die_with(parent)) };
        let mut child = command.spawn().map_err(Error::io("start", QEMU))?;
        let stdin = child.stdin.take();
        let Some(stdout) = child.stdout.take() else {
            return Err(Error::io("read from", QEMU)(io::Error::from(io::ErrorKind::BrokenPipe)));
        };
        // A smaller pipe does as well, if the system's limit is below.
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok(Self { child, stdout, stdin })
    }

    fn pump(
        &mut self,
        deadline: Option<(Instant, Duration)>,
        terminal: Option<&Terminal>,
        output: &mut dyn Write,
    ) -> Result<End> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some((at, limit)) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(End::Limit(limit));
                    }
                    // Rounded up, so that the last wait does not become a busy one.
                    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut ready = vec![PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
            ready.extend(terminal.map(|terminal| PollFd::new(terminal.as_fd(), PollFlags::POLLIN)));
            match poll(&mut ready, timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(Error::io("wait for the output of", QEMU)(io::Error::from(errno))),
            }
            let readable: Vec<bool> = ready.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            if readable.first() == Some(&true) {
                let count = self.stdout.read(&mut buffer).map_err(Error::io("read the output of", QEMU))?;
                if count == 0 {
                    return Ok(End::Quit);
                }
                let bytes = buffer.get(..count).unwrap_or_default();
                output
                    .write_all(bytes)
                    .and_then(|()| output.flush())
                    .map_err(Error::io("pass on", "the command's output"))?;
            }
            if let (Some(true), Some(terminal)) = (readable.get(1), terminal) {
                let count = nix::unistd::read(terminal, &mut buffer)
                    .map_err(|errno| Error::io("read", "the terminal")(io::Error::from(errno)))?;
                let typed = buffer.get(..count).unwrap_or_default();
                if typed.is_empty() || typed.contains(&ESCAPE) {
                    return Ok(End::Escaped);
                }
                if let Some(stdin) = &mut self.stdin {
                    stdin.write_all(typed).map_err(Error::io("write to", QEMU))?;
                }
            }
        }
    }

    fn stop(&mut self) {
        // It fails only if QEMU has ended already.
        let _ = self.child.kill();
    }
}

/// Has the calling process killed when the thread that started it ends.
fn die_with(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before.
    if getppid() == parent { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
}

fn memory_file(name: &str) -> Result<File> {
    let fd: OwnedFd = memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| Error::io("make the memory file", name)(io::Error::from(errno)))?;
    Ok(File::from(fd))
}

/// A path under which QEMU, which runs as the same user, opens one of this process's files.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", getpid(), file.as_raw_fd())
}

/// The whole content, wherever the file's position is.
fn contents(file: &File) -> Result<Vec<u8>> {
    let path = path_of(file);
    std::fs::read(&path).map_err(Error::io("read", &path))
}

/// The last lines of both texts, each with a newline in front.
fn excerpt(console: &[u8], qemu: &[u8]) -> String {
    let line = |text: String| format!("\n  {text}");
    tools::last_lines(console, LINES)
        .into_iter()
        .map(line)
        .chain(tools::last_lines(qemu, LINES).into_iter().map(|text| line(format!("{QEMU}: {text}"))))
        .collect()
}
