//! The command line: every verb and flag, with the words that `--help`, the manual and the completions show.

mod deferred;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, builder::ArgPredicate};
use mote_runtime::{HypervisorChoice, SeccompMode};

pub(crate) use self::deferred::Deferred;
use crate::{
    bench::args::BenchOptions,
    image::args::{ImageOptions, PullPolicy, RegistryOptions, StoreOptions, UnpackOptions},
    memory::MemorySize,
    oci::args::{ContainerVerb, Creation},
    volume::{self, VolumeOption},
};

/// Runs commands, each in a virtual machine of its own.
///
/// Every command gets its own kernel, on a tiny virtual machine that starts in milliseconds. What it does to its files is
/// forgotten when it ends.
#[derive(Debug, Parser)]
#[command(name = "mote", disable_version_flag = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What a sandbox process has on its command line; all else it hears from its caller. A line of its own, because it is read at every
/// start, and to set up all of [`Arguments`] takes longer than to make a VM.
#[derive(Debug, Parser)]
#[command(name = mote_runtime::SANDBOX_NAME)]
pub(crate) struct SandboxArguments {
    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// Where messages go.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Append log messages to FILE instead of standard error. What finds no room in a pipe is lost.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How log messages look.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Log more, and show the causes of errors.
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

/// What engines say before the verb.
#[derive(Debug, Args)]
pub(crate) struct GlobalOptions {
    /// Where the state of containers lies. Default: /run/mote; without privileges, $XDG_RUNTIME_DIR/mote.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) root: Option<PathBuf>,
    /// A container's cgroupsPath has systemd's form, slice:prefix:name.
    #[arg(long, global = true)]
    pub(crate) systemd_cgroup: bool,
    /// Go on without a cgroup on the host if none can be made.
    #[arg(long = "rootless", id = "without_privileges", value_name = "WHEN", default_value = "auto")]
    pub(crate) rootless: Rootless,
    /// Accepted for compatibility.
    #[arg(long, global = true, value_name = "PATH", hide = true)]
    pub(crate) criu: Option<PathBuf>,
    /// What runs containers' machines; `run` has an option of its own.
    #[arg(long = "container-hypervisor", global = true, value_name = "NAME", default_value = "auto")]
    container_hypervisor: HypervisorName,
}

impl GlobalOptions {
    pub(crate) fn hypervisor(&self) -> HypervisorChoice {
        self.container_hypervisor.into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rootless {
    /// Always
    True,
    /// Never
    False,
    /// If mote has no privileges
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// key=value
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command in a new virtual machine.
    #[command(after_long_help = RUN_HELP)]
    Run(Deferred<Box<RunOptions>>),
    /// Get, list and remove images.
    Image(Deferred<Box<ImageOptions>>),
    #[command(flatten)]
    Container(ContainerVerb),
    /// Say what this host can do, and what to do about what is missing.
    Check,
    /// Measure: how fast machines start, what they weigh, how fast bytes move.
    Bench(Deferred<BenchOptions>),
    /// Print the version.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them to a folder.
    Man {
        /// Write one page for each command here.
        directory: Option<PathBuf>,
    },
}

const RUN_HELP: &str = "\
Exit status:
  the command's own, or 128+N if signal N ended it;
  125  Mote itself failed
  126  the command is not executable
  127  the command was not found

Examples:
  mote run docker.io/library/alpine
  mote run -e DEBUG=1 localhost/app --flag of-the-command
  mote run -- uname -a
  echo hello | mote run -- tr a-z A-Z
  mote run -t -- sh
  mote run -v ./src:/src:ro -v ./out:/out -- sh -c 'ls /src > /out/list'
  mote run --rootfs ./debian --memory 512m --cpus 2 -- /bin/bash -c 'nproc; free -m'";

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The root file system: a folder, packed once and remembered by its content, or an EROFS image.
    ///
    /// The source is never changed. Default, if no image is named either: a small one with busybox.
    #[arg(long, value_name = "PATH")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Run the container of an OCI bundle: a folder with a config.json and a root file system.
    ///
    /// The configuration says everything about the machine and the command.
    #[arg(short, long, value_name = "FOLDER", conflicts_with_all = ["rootfs", "volume", "tty"])]
    pub(crate) bundle: Option<PathBuf>,
    /// What becomes of a folder given as --rootfs.
    #[arg(long, value_name = "MODE", default_value = "image")]
    pub(crate) rootfs_mode: RootfsMode,
    /// Show a folder or a file from here to the command: SOURCE:TARGET[:OPTIONS].
    ///
    /// Options, separated by commas: ro, so that it cannot be changed; cache=auto (the default: what changes here is seen at
    /// once), cache=none (each read comes here) or cache=always (for what nobody else changes: the fastest).
    #[arg(short, long, value_name = "SOURCE:TARGET", value_parser = volume::parser())]
    pub(crate) volume: Vec<VolumeOption>,
    /// Make the root file system read-only; otherwise changes go to memory and are forgotten.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Give the command a terminal: yours, in raw mode.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable; NAME alone takes the value from here.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<OsString>,
    /// The folder in which the command starts. Default: the image's, else /.
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) workdir: Option<OsString>,
    /// The user, and the group, that the command runs as: numbers, or names that the root file system knows. Default: the
    /// image's, else root.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Run this program instead of the image's own, with COMMAND as its arguments; also a JSON array.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<OsString>,
    /// When to get the image from its registry.
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub(crate) pull: PullPolicy,
    #[command(flatten)]
    pub(crate) store: StoreOptions,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
    #[command(flatten)]
    pub(crate) unpack: UnpackOptions,
    /// The host name that the command sees.
    #[arg(long, value_name = "NAME", default_value = "mote")]
    pub(crate) hostname: String,
    /// How many virtual CPUs, 1 to 32.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(mote_vmm::MAX_VCPUS)))]
    pub(crate) cpus: u8,
    /// How much memory the machine has: a number with b, k, m or g; at least 32m.
    #[arg(short, long, value_name = "SIZE", default_value = "128m")]
    pub(crate) memory: MemorySize,
    /// The guest kernel: an uncompressed vmlinux. Default: the one that was built with Mote.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// An initial ramdisk instead of the built-in one.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) initrd: Option<PathBuf>,
    /// Further options for the guest kernel's command line.
    #[arg(long, value_name = "OPTIONS", default_value = "", hide = true)]
    pub(crate) kernel_options: String,
    /// What runs the machine.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) hypervisor: HypervisorName,
    /// What happens when a process of Mote's makes a system call that it has no business with.
    #[arg(long, value_name = "MODE", default_value = "enforce")]
    pub(crate) seccomp: SeccompName,
    /// The user, and the group, that the sandbox process becomes if root starts it; default: one that nobody else has.
    #[arg(long, value_name = "UID", value_parser = clap::value_parser!(u32).range(1..=0xffff_fffe))]
    pub(crate) jail_uid: Option<u32>,
    /// Write the guest kernel's log to FILE. Makes the guest slower. A pipe must be read, and is given up if nobody reads it for a second.
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
    /// Afterwards, show on standard error when each phase of the start was reached.
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text",
          default_value_if("timeline", ArgPredicate::IsPresent, "text"))]
    pub(crate) timeline: Option<LogFormat>,
    /// With --bundle: do not wait for the container's end.
    #[arg(short, long, requires = "bundle")]
    pub(crate) detach: bool,
    /// With --bundle: do not remove the container at its end.
    #[arg(long, requires = "bundle")]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) creation: Creation,
    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    /// The image to run, and a command with its arguments instead of the image's own. Behind `--`, a command in a root file system
    /// that is no image. With --bundle, the container's id; without one, it gets one that nobody else has.
    #[arg(value_name = "IMAGE|-- COMMAND", trailing_var_arg = true, required_unless_present = "bundle")]
    words: Vec<OsString>,
    /// The image, if one is named.
    #[arg(skip)]
    pub(crate) image: Option<OsString>,
    /// The container's id, if one is named.
    #[arg(skip)]
    pub(crate) id: Option<String>,
    /// The command with its arguments; empty for the image's own.
    #[arg(skip)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RootfsMode {
    /// Packed once, and remembered by its content
    Image,
    /// Used as it is, over virtio-fs; it must not be changed meanwhile
    Virtiofs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HypervisorName {
    /// KVM where it runs real guests, else QEMU
    Auto,
    /// Mote's own VMM on KVM
    Kvm,
    /// QEMU, on KVM or with its software emulation
    Qemu,
}

impl HypervisorName {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

impl From<HypervisorName> for HypervisorChoice {
    fn from(name: HypervisorName) -> Self {
        match name {
            HypervisorName::Auto => Self::Auto,
            HypervisorName::Kvm => Self::Kvm,
            HypervisorName::Qemu => Self::Qemu,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SeccompName {
    /// The sandbox ends
    Enforce,
    /// The host's kernel logs it, and it is done: not safe, for finding out what a filter lacks
    Log,
}

impl From<SeccompName> for SeccompMode {
    fn from(name: SeccompName) -> Self {
        match name {
            SeccompName::Enforce => Self::Enforce,
            SeccompName::Log => Self::Log,
        }
    }
}

impl Arguments {
    /// Reads a whole command line, the program's name first.
    pub(crate) fn read(line: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        let line: Vec<OsString> = line.collect();
        let mut arguments = Self::try_parse_from(&line)?;
        let Verb::Run(Deferred(options)) = &mut arguments.verb else { return Ok(arguments) };
        if options.bundle.is_none() {
            options.tell_image_from_command(&line)?;
            return Ok(arguments);
        }
        // As with runc, flags may stand behind the container's id: read them where the parser takes them for flags.
        if let [id, _, ..] = &options.words[..] {
            let at = line.len() - options.words.len();
            let rest = line[at + 1..].iter();
            let line: Vec<_> = line[..at].iter().chain(rest).chain([id]).cloned().collect();
            arguments = Self::try_parse_from(&line)?;
        }
        if let Verb::Run(Deferred(options)) = &mut arguments.verb {
            options.take_container_id()?;
        }
        Ok(arguments)
    }
}

impl RunOptions {
    /// The words at the line's end start with an image, unless there is a `--` before them. The parser takes that away.
    fn tell_image_from_command(&mut self, line: &[OsString]) -> Result<(), clap::Error> {
        let mut words = std::mem::take(&mut self.words);
        let before = line.len().checked_sub(words.len() + 1).and_then(|at| line.get(at));
        let is_image = before.is_none_or(|word| word != "--");
        let wrong = if is_image && self.rootfs.is_some() {
            Some("--rootfs goes with a command behind --, and not with an image")
        } else if !is_image && self.entrypoint.is_some() {
            Some("--entrypoint goes with an image")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(conflict(wrong));
        }
        self.image = is_image.then(|| words.remove(0));
        self.command = words;
        Ok(())
    }

    /// With a bundle, the only word is the container's id.
    fn take_container_id(&mut self) -> Result<(), clap::Error> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        self.id = words.next().map(|id| id.to_string_lossy().into_owned());
        match words.next() {
            Some(_) => Err(conflict(
                "with --bundle, the configuration says what is run; there is one container id at most",
            )),
            None => Ok(()),
        }
    }
}

fn conflict(wrong: &str) -> clap::Error {
    Arguments::command().error(clap::error::ErrorKind::ArgumentConflict, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<RunOptions, clap::Error> {
        let all = ["mote", "run"].iter().chain(arguments).map(OsString::from);
        Arguments::read(all).map(|parsed| match parsed.verb {
            Verb::Run(options) => *options.0,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let options = run(&["-t", "--", "sh", "-c", "exit 3", "--help"]).unwrap();
        assert_eq!(options.command, ["sh", "-c", "exit 3", "--help"]);
        assert!(options.tty);
        assert!(run(&[]).is_err());
        assert_eq!(options.image, None);
    }

    #[test]
    fn everything_behind_the_image_is_its_command() {
        let options = run(&["-t", "alpine", "sh", "-c", "x", "--", "-e", "--help"]).unwrap();
        assert_eq!(options.image.as_deref(), Some(std::ffi::OsStr::new("alpine")));
        assert_eq!(options.command, ["sh", "-c", "x", "--", "-e", "--help"]);
        assert!(options.env.is_empty() && options.tty);
        assert!(run(&["alpine"]).is_ok_and(|options| options.command.is_empty()));
        assert!(run(&["--no-such-option", "alpine"]).is_err());
        assert!(run(&["--"]).is_err());
        assert!(run(&["--rootfs", "/x", "alpine"]).is_err());
        assert!(run(&["--entrypoint", "/x", "--", "y"]).is_err());
        assert!(run(&["--tls-verify=false", "alpine"]).is_ok_and(|options| !options.registry.tls_verify));
        assert!(run(&["alpine"]).is_ok_and(|options| options.registry.tls_verify));
    }

    #[test]
    fn timeline_has_an_optional_format() {
        assert_eq!(run(&["--", "x"]).unwrap().timeline, None);
        assert_eq!(run(&["--timeline", "--", "x"]).unwrap().timeline, Some(LogFormat::Text));
        assert_eq!(run(&["--timeline=json", "--", "x"]).unwrap().timeline, Some(LogFormat::Json));
        assert!(run(&["--timeline=xml", "--", "x"]).is_err());
    }

    #[test]
    fn numbers_have_limits() {
        for cpus in ["0", "33", "-1", "x", ""] {
            assert!(run(&["--cpus", cpus, "--", "x"]).is_err(), "{cpus}");
        }
        assert_eq!(run(&["--cpus=32", "--", "x"]).unwrap().cpus, 32);
    }
}
