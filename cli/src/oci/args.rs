//! The command line of container verbs: runc's, flag for flag, so that engines need not know.
//!
//! Positional arguments are counted by us, and not by `clap`: engines and people know what runc says about wrong numbers.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::args::Deferred;

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerVerb {
    /// Create a container from a bundle; its program waits for `start`.
    Create(Deferred<CreateFlags>),
    /// Let a created container's program begin.
    Start(Id),
    /// Print the state of a container, as JSON.
    State(Id),
    /// Send a signal, by name or number, to a container's first process.
    Kill(Deferred<KillFlags>),
    /// Remove a container that has stopped, or was never started.
    Delete(Deferred<DeleteFlags>),
    /// Run one more process in a container.
    Exec(Deferred<ExecFlags>),
    /// List containers.
    List(Deferred<ListFlags>),
    /// List the processes of a container.
    Ps(Deferred<PsFlags>),
    /// Have all processes of a container stand still.
    Pause(Id),
    /// Have the processes of a paused container go on.
    Resume(Id),
    /// Print what a container uses, and what its sandbox costs the host.
    Events(Deferred<EventsFlags>),
    /// Change the limits of a container.
    Update(Deferred<Box<UpdateFlags>>),
    /// Write a configuration to start from: config.json.
    Spec(Deferred<SpecFlags>),
    /// Print what this runtime can do, as JSON.
    Features,
    /// Not there yet.
    #[command(hide = true)]
    Checkpoint(Anything),
    /// Not there yet.
    #[command(hide = true)]
    Restore(Anything),
}

/// The container that a verb is about.
#[derive(Debug, Args)]
pub(crate) struct Id {
    /// The container's id.
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: Vec<String>,
}

/// Whatever follows.
#[derive(Debug, Args)]
pub(crate) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<OsString>,
}

/// Flags that `create` and `run --bundle` share.
#[derive(Debug, Args)]
pub(crate) struct Creation {
    /// Send the other end of the container's terminal to this Unix socket.
    #[arg(long, value_name = "SOCKET", overrides_with = "console_socket")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Write the process id of the sandbox to FILE.
    #[arg(long, value_name = "FILE", overrides_with = "pid_file")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Accepted for compatibility: a VM has a root of its own.
    #[arg(long, hide = true)]
    pub(crate) no_pivot: bool,
    /// Accepted for compatibility: a VM has keyrings of its own.
    #[arg(long, hide = true)]
    pub(crate) no_new_keyring: bool,
    /// Descriptors to pass on; a VM can take none.
    #[arg(long, value_name = "NUMBER", hide = true, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
}

#[derive(Debug, Args)]
pub(crate) struct CreateFlags {
    /// The bundle: a folder with config.json.
    #[arg(short, long, value_name = "FOLDER", default_value = ".")]
    pub(crate) bundle: PathBuf,
    #[command(flatten)]
    pub(crate) creation: Creation,
    /// The new container's id.
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillFlags {
    /// All processes of the container.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// The container's id, and the signal; SIGTERM if there is none.
    #[arg(value_name = "CONTAINER [SIGNAL]", allow_negative_numbers = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteFlags {
    /// Also if it runs.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// The container's id.
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecFlags {
    /// Send the other end of the process's terminal to this Unix socket.
    #[arg(long, value_name = "SOCKET", overrides_with = "console_socket")]
    pub(crate) console_socket: Option<PathBuf>,
    /// The folder in which the process starts.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cwd: Option<PathBuf>,
    /// Set an environment variable.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Give the process a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The user, and the group, as numbers.
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// One more group.
    #[arg(short = 'g', long, value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// Take the process from this file.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait for the process's end.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Write the process id of the process that stands for it to FILE.
    #[arg(long, value_name = "FILE", overrides_with = "pid_file")]
    pub(crate) pid_file: Option<PathBuf>,
    /// The SELinux label.
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// The AppArmor profile.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// The process can gain no privileges.
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// One more capability.
    #[arg(short, long, value_name = "CAPABILITY")]
    pub(crate) cap: Vec<String>,
    /// Descriptors to pass on; a VM can take none.
    #[arg(long, value_name = "NUMBER", hide = true, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Accepted for compatibility: the process lives in the container's cgroup.
    #[arg(long, value_name = "PATH", hide = true)]
    pub(crate) cgroup: Vec<String>,
    /// Also if the container is paused.
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// The container's id, and the command with its arguments.
    #[arg(value_name = "CONTAINER COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// How the list looks.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
    /// Print ids only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PsFlags {
    /// `table`: the processes in the guest, with their numbers there. `json`: the process ids on the host.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: Format,
    /// The container's id. What follows is for a `ps` of the host's, which sees nothing of a guest.
    #[arg(value_name = "CONTAINER", trailing_var_arg = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsFlags {
    /// How much time passes between two reports.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) interval: humantime::Duration,
    /// Report once.
    #[arg(long)]
    pub(crate) stats: bool,
    /// The container's id.
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateFlags {
    /// Read the limits from FILE, as in config.json's `resources`; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Weight for disks, 10 to 1000.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) blkio_weight: Option<u16>,
    /// Microseconds.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period; -1 for no limit.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Share of CPU time, 2 to 262144.
    #[arg(long, value_name = "NUMBER", alias = "cpu-share")]
    pub(crate) cpu_shares: Option<u64>,
    /// The CPUs to use, as in 0-1.
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// The memory nodes to use.
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory; a number with k, m or g; -1 for no limit.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Memory that is left to the container when memory is short.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory and swap together.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// How many processes there may be; -1 for no limit.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Accepted for compatibility.
    #[arg(long, value_name = "SIZE", hide = true, allow_hyphen_values = true)]
    pub(crate) kernel_memory: Option<String>,
    /// Accepted for compatibility.
    #[arg(long, value_name = "SIZE", hide = true, allow_hyphen_values = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// The container's id.
    #[arg(value_name = "CONTAINER")]
    pub(crate) id: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SpecFlags {
    /// The folder to write it to.
    #[arg(short, long, value_name = "FOLDER", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// For a container that an ordinary user starts.
    #[arg(long)]
    pub(crate) rootless: bool,
}
