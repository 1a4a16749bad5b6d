//! The lab: boots L1, a whole Linux machine in which `/dev/kvm` is real, and runs one command in it.
//!
//! L1 is Debian's `linux-image-cloud-amd64` 6.1 under QEMU's TCG on `-cpu EPYC,+svm`, so its `kvm_amd`
//! drives an emulated AMD-V, and a VMM in L1 boots real guests (L2). L1 has a small ramdisk and nothing else: busybox,
//! the modules, and the files that the caller puts in.
//!
//! **Time in L1 is virtual.** `-icount shift=0,sleep=off` makes one executed instruction one nanosecond: L1's
//! `CLOCK_MONOTONIC` counts instructions, whatever the load of the machine, and idle time is skipped. The same run
//! takes the same time on every machine within a few percent, and a `sleep 1000` in L1 takes no time at all outside.
//! All CPUs of L1 take turns on one host thread.
//!
//! One thing is added to L1's kernel: a module that works around a fault of QEMU's emulation, without which guests with several
//! vCPUs stop for good now and then (`repair/lab_repair.c`).
//!
//! One boot costs some seconds of wall time, so run many things in one lab. Labs share nothing but the read-only kernel
//! cache: any number may run at once, also from several threads.
//!
//! ```no_run
//! # fn main() -> Result<(), mote_tests::lab::Error> {
//! use mote_tests::lab::Lab;
//! let outcome = Lab::new()?.file("/tmp/vmm", "/usr/bin/vmm").program("mkfs.erofs").run(&["vmm", "--probe"])?;
//! assert_eq!(outcome.status, 0, "{}", String::from_utf8_lossy(&outcome.output));
//! # Ok(())
//! # }
//! ```

mod elf;
mod error;
mod image;
mod kernel;
mod machine;
mod modules;
mod payload;
mod programs;
mod repair;
mod report;
mod script;
mod terminal;
mod tools;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{Error, Result};

use image::Image;
use kernel::Kernel;
use machine::Machine;
use report::Report;
use terminal::Terminal;

/// What L1 always loads: KVM on AMD, and what containers are made of.
const MODULES: [&str; 7] = ["irqbypass", "kvm", "kvm-amd", "overlay", "erofs", "loop", "tun"];
/// L1's memory unless the caller says otherwise, in MiB.
const MEMORY_MIB: u32 = 1600;
/// What L1 needs for itself, in MiB: the kernel, its page tables and busybox.
const OVERHEAD_MIB: u64 = 192;
/// How long a lab may take unless the caller says otherwise.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How a command in the lab ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The command's exit status, 128 + N if signal N ended it.
    pub status: u8,
    /// What the command wrote to its standard output and standard error, in the order it was written.
    pub output: Vec<u8>,
}

/// A lab that is being set up; [`Lab::run`] boots it.
#[derive(Debug, Clone)]
pub struct Lab {
    kernel: Kernel,
    memory_mib: u32,
    log_code: Option<(RangeInclusive<u64>, PathBuf)>,
    timeout: Option<Duration>,
    files: Vec<(PathBuf, PathBuf)>,
    programs: Vec<String>,
    modules: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    outputs: Vec<(PathBuf, PathBuf)>,
}

impl Lab {
    /// A lab with one CPU, 1600 MiB of memory and a time limit of 10 minutes. The first call on a machine downloads the
    /// kernel package, with `apt-get download`, into `$XDG_CACHE_HOME/mote/lab` (`~/.cache/mote/lab`), and says so on
    /// standard error.
    ///
    /// # Errors
    ///
    /// If the kernel is not in the cache and cannot be fetched, or the cache cannot be written.
    pub fn new() -> Result<Self> {
        Ok(Self {
            kernel: Kernel::locate()?,
            memory_mib: MEMORY_MIB,
            log_code: None,
            timeout: Some(TIMEOUT),
            files: Vec::new(),
            programs: Vec::new(),
            modules: Vec::new(),
            environment: Vec::new(),
            outputs: Vec::new(),
        })
    }

    /// L1's memory in MiB. Everything that is put into L1 takes its room from it.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Has QEMU write to `file` what code runs at these virtual addresses, of whichever machine: a line that begins with its address for
    /// each instruction, when it is translated.
    #[must_use]
    pub fn log_code(mut self, addresses: RangeInclusive<u64>, file: impl Into<PathBuf>) -> Self {
        self.log_code = Some((addresses, file.into()));
        self
    }

    /// The wall-clock time after which the lab is stopped, as an [`Error::Died`]. `None` for no limit.
    #[must_use]
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.timeout = limit.into();
        self
    }

    /// Copies the file or the folder `host` to the absolute path `guest` in L1, with its permission bits. Symbolic
    /// links inside a folder stay symbolic links.
    #[must_use]
    pub fn file(mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        self.files.push((host.into(), guest.into()));
        self
    }

    /// Copies an installed program, found in `PATH`, to `/usr/bin` in L1, with its ELF interpreter and libraries.
    #[must_use]
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.programs.push(name.into());
        self
    }

    /// Loads a further kernel module, by its name, with what it depends on.
    #[must_use]
    pub fn module(mut self, name: impl Into<String>) -> Self {
        self.modules.push(name.into());
        self
    }

    /// Sets a variable in the command's environment, which otherwise holds `PATH`, `HOME` and `TERM`.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Brings the regular file `guest` out of L1 when the command has ended, to the path `host`.
    #[must_use]
    pub fn output(mut self, guest: impl Into<PathBuf>, host: impl Into<PathBuf>) -> Self {
        self.outputs.push((guest.into(), host.into()));
        self
    }

    /// Boots L1, runs `command` in it without standard input, and waits for its end.
    ///
    /// # Errors
    ///
    /// [`Error::Died`], if L1 ended without a status of the command or the time limit was reached. Others, if the lab
    /// could not be set up or a result could not be brought out. A command that fails is not an error.
    pub fn run<S: AsRef<OsStr>>(&self, command: &[S]) -> Result<Outcome> {
        let mut output = Vec::new();
        let status = self.run_to(command, &mut output)?;
        Ok(Outcome { status, output })
    }

    /// As [`run`](Self::run), but passes the command's output on while it comes, and returns its status.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_to<S: AsRef<OsStr>>(&self, command: &[S], output: &mut dyn Write) -> Result<u8> {
        let mut image = self.image()?;
        image.command(&script::command(command, &self.environment));
        self.boot(image, None, output)
    }

    /// Boots L1 with a shell on the terminal of the calling process, and returns the shell's status.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and if standard input is not a terminal.
    pub fn interact(&self) -> Result<u8> {
        let mut image = self.image()?;
        let terminal = Terminal::raw()?;
        image.command(&script::shell(&self.environment, terminal.size()));
        self.boot(image, Some(&terminal), &mut std::io::stdout())
    }

    /// Everything of the ramdisk except for the command.
    fn image(&self) -> Result<Image> {
        let mut image = Image::new()?;
        let wanted = MODULES.into_iter().chain(self.modules.iter().map(String::as_str));
        for module in modules::with_dependencies(&self.kernel.modules, wanted)? {
            image.module(&module.name, module.bytes);
        }
        let repair = fs::read(&self.kernel.repair).map_err(Error::io("read", &self.kernel.repair))?;
        image.module(repair::NAME, repair);
        for (host, guest) in &self.files {
            image.copy(host, guest)?;
        }
        for name in &self.programs {
            for file in programs::closure(name)? {
                image.copy(&file.host, &file.guest)?;
            }
        }
        Ok(image)
    }

    fn boot(&self, mut image: Image, terminal: Option<&Terminal>, output: &mut dyn Write) -> Result<u8> {
        let marker = report::marker()?;
        image.init(&script::init(&marker, &self.outputs, terminal.is_some()));
        let initrd = image.finish()?;
        self.check_memory(initrd.len())?;
        let machine = Machine {
            kernel: &self.kernel.vmlinux,
            memory_mib: self.memory_mib,
            log_code: self.log_code.as_ref(),
        };
        let run = machine.run(&initrd, self.timeout, terminal, output)?;
        let report = Report::parse(&run.console, &marker).ok_or_else(|| run.died())?;
        for ((guest, host), result) in self.outputs.iter().zip(&report.files) {
            match result {
                Some(bytes) => fs::write(host, bytes).map_err(Error::io("write the result to", host))?,
                None => return Err(Error::NoResult { guest: guest.clone(), status: report.status }),
            }
        }
        Ok(report.status)
    }

    /// L1 holds the ramdisk twice while it unpacks it.
    fn check_memory(&self, initrd: usize) -> Result<()> {
        let initrd_mib = u64::try_from(initrd).unwrap_or(u64::MAX).div_ceil(1 << 20);
        let needed = initrd_mib.saturating_mul(2).saturating_add(OVERHEAD_MIB);
        if u64::from(self.memory_mib) < needed {
            return Err(Error::Memory { given: self.memory_mib, needed });
        }
        Ok(())
    }
}

/// Whether the absolute path `guest` has only plain components, and the same path as L1's ramdisk names it.
fn guest_path(guest: &Path) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Component;
    let mut parts = guest.components();
    let rooted = parts.next() == Some(Component::RootDir);
    let plain: Option<Vec<&[u8]>> = parts
        .map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    match plain {
        Some(names) if rooted && !names.is_empty() => Ok(names.join(&b'/')),
        _ => Err(Error::GuestPath { path: guest.to_path_buf() }),
    }
}
