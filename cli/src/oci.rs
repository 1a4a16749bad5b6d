//! Container verbs: what an engine that knows runc asks for.
//!
//! Failures are told as runc tells them: one line through the log, with `--log FILE` also on standard error, and status 1, or
//! 255 if it is `exec` that failed.

pub(crate) mod args;
mod features;
mod process;
mod signal;
mod spec;
mod update;

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::CommandFactory;
use mote_runtime::{
    Error, HypervisorChoice, Kind,
    container::{self, ContainerId, CreateOptions, ExecOptions, ExecTarget},
};

use self::args::{ContainerVerb, Creation, ExecFlags, Format};
use crate::args::{Arguments, GlobalOptions, HypervisorName, LogOptions};

/// Why a verb failed.
pub(crate) enum Failure {
    /// It was called in a way that it cannot be.
    Usage(String),
    /// It could not do what it should.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Result<T = ()> = std::result::Result<T, Failure>;

pub(crate) fn main(verb: ContainerVerb, global: &GlobalOptions, log: &LogOptions) -> ExitCode {
    let name = verb.name();
    // A program that fails has the status that it has; everything else that goes wrong with `exec` is 255.
    let failed = if name == "exec" { 255 } else { 1 };
    finish(name, carry_out(verb, global, log), failed, log)
}

/// Says what went wrong, if something did.
fn finish(name: &str, result: Result<u8>, failed: u8, log: &LogOptions) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(status),
        Err(Failure::Usage(what)) => {
            println!("Incorrect Usage.\n");
            let mut all = Arguments::command();
            if let Some(verb) = all.find_subcommand_mut(name) {
                println!("{}", verb.render_long_help());
            }
            eprintln!("mote: {what}");
            ExitCode::from(1)
        }
        Err(Failure::Failed(error)) => {
            let message = match name {
                "create" | "run" => format!("mote {name} failed: {error}"),
                "exec" => format!("exec failed: {error}"),
                _ => error.to_string(),
            };
            for cause in &error.0.causes {
                tracing::debug!("because: {cause}");
            }
            for line in &error.0.kernel_log {
                tracing::debug!("guest: {line}");
            }
            tracing::error!("{message}");
            if log.log.is_some() {
                eprintln!("{message}");
            }
            ExitCode::from(failed)
        }
    }
}

impl ContainerVerb {
    fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::State(_) => "state",
            Self::Kill(_) => "kill",
            Self::Delete(_) => "delete",
            Self::Exec(_) => "exec",
            Self::List(_) => "list",
            Self::Ps(_) => "ps",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Events(_) => "events",
            Self::Update(_) => "update",
            Self::Spec(_) => "spec",
            Self::Features => "features",
            Self::Checkpoint(_) => "checkpoint",
            Self::Restore(_) => "restore",
        }
    }
}

fn carry_out(verb: ContainerVerb, global: &GlobalOptions, log: &LogOptions) -> Result<u8> {
    let name = verb.name();
    let root = &root(global);
    match verb {
        ContainerVerb::Create(flags) => {
            let id = exactly_one(name, &flags.id)?;
            let call = Creating::new(global, log, &flags.creation, &flags.bundle)?;
            container::create(&call.options(root, &id, false))?;
        }
        ContainerVerb::Start(id) => container::start(root, &exactly_one(name, &id.id)?)?,
        ContainerVerb::State(id) => {
            let view = container::state(root, &exactly_one(name, &id.id)?)?;
            print(&serde_json::to_string_pretty(&view).map_err(unprintable)?)?;
        }
        ContainerVerb::Kill(flags) => {
            let (id, signal) = match &flags.arguments[..] {
                [id] => (id, "SIGTERM"),
                [id, signal] => (id, signal.as_str()),
                arguments => return Err(usage(name, "a minimum of 1 and a maximum of 2", arguments.len())),
            };
            let signal = signal::parse(signal)?;
            container::kill(root, &ContainerId::new(id)?, signal, flags.all)?;
        }
        ContainerVerb::Delete(flags) => {
            container::delete(root, &exactly_one(name, &flags.id)?, flags.force)?;
        }
        ContainerVerb::Exec(flags) => return exec(flags.0, root),
        ContainerVerb::List(flags) => list(global, root, flags.format, flags.quiet)?,
        ContainerVerb::Ps(flags) => {
            let [id, ..] = &flags.arguments[..] else { return Err(usage(name, "a minimum of 1", 0)) };
            let id = ContainerId::new(id)?;
            match flags.format {
                Format::Json => {
                    let pids = container::host_pids(root, &id)?;
                    print(&format!("{}\n", serde_json::to_string(&pids).map_err(unprintable)?))?;
                }
                Format::Table => print(&container::process_table(root, &id)?)?,
            }
        }
        ContainerVerb::Pause(id) => container::freeze(root, &exactly_one(name, &id.id)?, true)?,
        ContainerVerb::Resume(id) => container::freeze(root, &exactly_one(name, &id.id)?, false)?,
        ContainerVerb::Events(flags) => {
            events(root, &exactly_one(name, &flags.id)?, flags.stats, flags.interval.into())?;
        }
        ContainerVerb::Update(flags) => {
            let id = exactly_one(name, &flags.id)?;
            container::update(root, &id, &update::resources(&flags)?)?;
        }
        ContainerVerb::Spec(flags) => spec::write(&flags.bundle, flags.rootless)?,
        ContainerVerb::Features => {
            print(&format!(
                "{}\n",
                serde_json::to_string_pretty(&features::features()).map_err(unprintable)?
            ))?;
        }
        ContainerVerb::Checkpoint(_) | ContainerVerb::Restore(_) => {
            return Err(Error::new(
                Kind::Container,
                format!("{name} is not there yet: a container in a VM cannot be saved and restored"),
            )
            .into());
        }
    }
    Ok(0)
}

/// `run --bundle`: `create`, `start`, and in the foreground `delete`.
pub(crate) fn run(
    flags: &crate::args::RunOptions,
    bundle: &Path,
    global: &GlobalOptions,
    log: &LogOptions,
) -> ExitCode {
    let call = || -> Result<u8> {
        let id = flags.id.clone().unwrap_or_else(|| format!("run-{}", std::process::id()));
        let id = ContainerId::new(&id)?;
        let mut call = Creating::new(global, log, &flags.creation, bundle)?;
        if flags.hypervisor != HypervisorName::Auto {
            call.hypervisor = flags.hypervisor.into();
        }
        Ok(container::run(&call.options(&root(global), &id, !flags.detach), flags.keep)?)
    };
    finish("run", call(), 1, log)
}

/// What `create` and `run` have in common.
struct Creating<'a> {
    creation: &'a Creation,
    bundle: &'a Path,
    systemd_cgroup: bool,
    rootless: bool,
    hypervisor: HypervisorChoice,
    arguments: Vec<OsString>,
}

impl<'a> Creating<'a> {
    fn new(
        global: &GlobalOptions,
        log: &LogOptions,
        creation: &'a Creation,
        bundle: &'a Path,
    ) -> Result<Self> {
        no_descriptors(creation.preserve_fds)?;
        let mut arguments: Vec<OsString> = Vec::new();
        if log.debug {
            arguments.push("--debug".into());
        }
        Ok(Self {
            creation,
            bundle,
            systemd_cgroup: global.systemd_cgroup,
            rootless: match global.rootless {
                crate::args::Rootless::True => true,
                crate::args::Rootless::False => false,
                crate::args::Rootless::Auto => !nix::unistd::geteuid().is_root(),
            },
            hypervisor: global.hypervisor(),
            arguments,
        })
    }

    fn options(&'a self, root: &'a Path, id: &'a ContainerId, foreground: bool) -> CreateOptions<'a> {
        CreateOptions {
            root,
            id,
            bundle: self.bundle,
            console_socket: self.creation.console_socket.as_deref(),
            pid_file: self.creation.pid_file.as_deref(),
            systemd_cgroup: self.systemd_cgroup,
            rootless: self.rootless,
            hypervisor: self.hypervisor,
            arguments: &self.arguments,
            foreground,
        }
    }
}

fn exec(flags: ExecFlags, root: &Path) -> Result<u8> {
    no_descriptors(flags.preserve_fds)?;
    let [id, command @ ..] = &flags.arguments[..] else {
        return Err(usage("exec", "a minimum of 1", 0));
    };
    let id = ContainerId::new(&id.to_string_lossy())?;
    let target = ExecTarget::find(root, &id)?;
    let process = process::of(&flags, command, || target.configured_process())?;
    let options = ExecOptions {
        console_socket: flags.console_socket.as_deref(),
        pid_file: flags.pid_file.as_deref(),
        detach: flags.detach,
        ignore_paused: flags.ignore_paused,
    };
    Ok(container::exec(&target, &options, &process)?)
}

/// Descriptors of the host's mean nothing in a VM.
fn no_descriptors(count: u32) -> Result {
    if count == 0 {
        return Ok(());
    }
    Err(Error::new(Kind::Container, "--preserve-fds: a VM cannot take over descriptors of the host").into())
}

fn list(global: &GlobalOptions, root: &Path, format: Format, quiet: bool) -> Result {
    let views = match container::list(root) {
        // Where nothing was ever created there is nothing to list; a folder that was named has to be there.
        Err(error) if error.0.kind == Kind::NoContainer && global.root.is_none() => Vec::new(),
        result => result?,
    };
    let mut text = String::new();
    match format {
        _ if quiet => views.iter().for_each(|view| text.push_str(&format!("{}\n", view.id))),
        Format::Json if views.is_empty() => text.push_str("null"),
        Format::Json => text = serde_json::to_string(&views).map_err(unprintable)?,
        Format::Table => {
            let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from);
            let rows = views.iter().map(|view| {
                let status = view.status.as_str().to_owned();
                let bundle = view.bundle.display().to_string();
                [
                    view.id.clone(),
                    view.pid.to_string(),
                    status,
                    bundle,
                    view.created.clone(),
                    view.owner.clone(),
                ]
            });
            let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
            let width = |column: usize| {
                rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0).max(9)
            };
            let widths: Vec<_> = (0..6).map(width).collect();
            for row in &rows {
                for (cell, width) in row.iter().zip(&widths) {
                    text.push_str(&format!("{cell:<width$}   "));
                }
                text.truncate(text.trim_end().len());
                text.push('\n');
            }
        }
    }
    print(&text)
}

fn events(root: &Path, id: &ContainerId, once: bool, interval: std::time::Duration) -> Result {
    let first = container::stats(root, id)?;
    if once {
        return print(&format!("{first}\n"));
    }
    let (oom_root, oom_id) = (root.to_owned(), id.clone());
    let (over, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let say = |event: serde_json::Value| drop(print(&format!("{event}\n")));
        if let Err(error) = container::watch_oom(&oom_root, &oom_id, say) {
            tracing::debug!("{error}");
        }
        drop(over);
    });
    // The reports are what this verb is for; the end of the container ends the wait at once.
    while ended.recv_timeout(interval) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        match container::stats(root, id) {
            Ok(stats) => print(&format!("{stats}\n"))?,
            Err(_) => break,
        }
    }
    Ok(())
}

fn print(text: &str) -> Result {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::because(Kind::Host, "cannot write to standard output", &error).into())
}

fn unprintable(error: serde_json::Error) -> Failure {
    Error::because(Kind::Host, "cannot write JSON", &error).into()
}

fn usage(verb: &str, count: &str, _given: usize) -> Failure {
    Failure::Usage(format!("{verb:?} requires {count} argument(s)"))
}

fn exactly_one(verb: &str, ids: &[String]) -> Result<ContainerId> {
    match ids {
        [id] => Ok(ContainerId::new(id)?),
        ids => Err(usage(verb, "exactly 1", ids.len())),
    }
}

/// Where state folders lie.
fn root(global: &GlobalOptions) -> PathBuf {
    match (&global.root, std::env::var_os("XDG_RUNTIME_DIR")) {
        // The sandbox process has another working directory.
        (Some(root), _) => std::path::absolute(root).unwrap_or_else(|_| root.clone()),
        (None, Some(folder)) if !nix::unistd::geteuid().is_root() => PathBuf::from(folder).join("mote"),
        (None, _) => PathBuf::from("/run/mote"),
    }
}
