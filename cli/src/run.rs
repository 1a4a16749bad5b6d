//! `mote run`: from options to a complete specification, and from an outcome to an exit status.

mod container;

use std::{
    ffi::{OsStr, OsString},
    io::IsTerminal,
    os::unix::ffi::{OsStrExt, OsStringExt},
    process::ExitCode,
};

use mote_rootfs_builder::{ProcessConfig, Rootfs as HeldRootfs, User, image};
use mote_runtime::{Cache, Error, Kind, Machine, Process, Rootfs, Share, Spec, Streams, Timeline};

use crate::{
    args::{LogFormat, LogOptions, RootfsMode, RunOptions, SeccompName},
    memory, report, volume,
};

/// What a command finds in `PATH` if nobody says otherwise.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn run(options: RunOptions, log: &LogOptions, timeline: Timeline) -> ExitCode {
    let format = options.timeline;
    let outcome = match spec(options) {
        // The root file system stays in the store for as long as it is in use.
        Ok((spec, _held)) => mote_runtime::run(&spec, &sandbox_arguments(log), timeline),
        Err(error) => return report::sandbox_failed(&error, log.log.is_some(), log.debug),
    };
    let status = match &outcome.result {
        Ok(status) => ExitCode::from(*status),
        Err(error) => report::sandbox_failed(error, log.log.is_some(), log.debug),
    };
    if let Some(format) = format {
        report::timeline(&outcome.timeline, format);
    }
    status
}

/// The sandbox process logs as we do.
fn sandbox_arguments(log: &LogOptions) -> Vec<OsString> {
    let mut arguments = Vec::new();
    if let Some(path) = &log.log {
        arguments.extend(["--log".into(), path.clone().into_os_string()]);
    }
    if log.log_format == LogFormat::Json {
        arguments.push("--log-format=json".into());
    }
    if log.debug {
        arguments.push("--debug".into());
    }
    arguments
}

/// Where the root file system is; for an image's, what the image says and what keeps it in the store.
struct Root {
    rootfs: Rootfs,
    config: Option<ProcessConfig>,
    held: Option<HeldRootfs>,
}

fn spec(options: RunOptions) -> Result<(Spec, Option<HeldRootfs>), Error> {
    if options.seccomp == SeccompName::Log {
        tracing::warn!(
            "--seccomp log: forbidden system calls are logged by the host's kernel, and done. This is not safe"
        );
    }
    if let Some(total) = memory::of_host()
        && options.memory.bytes() > total
    {
        return Err(Error::new(
            Kind::Hypervisor,
            format!("--memory {}: this host has only {}m", options.memory, total >> 20),
        ));
    }
    if options.tty && !std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Process, "--tty: standard input is not a terminal"));
    }
    let kernel = mote_runtime::kernel(options.kernel.as_deref())?;
    let (mut shares, mut volumes) = (Vec::new(), Vec::new());
    let root = root(&options, &mut shares)?;
    let config = root.config.unwrap_or_default();
    let is_image = root.held.is_some();
    let user = match (&options.user, is_image) {
        (Some(text), _) => container::user(&root.rootfs, text)?,
        (None, true) => container::user(&root.rootfs, &config.user)?,
        (None, false) => User::default(),
    };
    let environment = environment(&options, &config, &user);
    volume::complete(options.volume, &mut shares, &mut volumes)?;
    let command = options.command;
    let directory = options.workdir.map(OsString::into_vec);
    let directory = directory.unwrap_or_else(|| config.directory.clone().into_bytes());
    let streams = if options.tty { Streams::Terminal } else { Streams::Pipes };
    let writable = container::volumes(&root.rootfs, &config)?;
    let spec = Spec {
        machine: Machine {
            hypervisor: options.hypervisor.into(),
            vcpus: options.cpus,
            memory: options.memory.bytes(),
            kernel,
            initrd: options.initrd,
            kernel_options: options.kernel_options,
            rootfs: root.rootfs,
            shares,
            console: options.console,
            seccomp: options.seccomp.into(),
        },
        read_only: options.read_only,
        folders: if is_image && !directory.is_empty() { vec![directory.clone()] } else { Vec::new() },
        writable,
        volumes,
        jail_uid: options.jail_uid,
        process: Process {
            arguments: container::arguments(&config, options.entrypoint.as_deref(), command)?,
            environment,
            directory: if directory.is_empty() { b"/".to_vec() } else { directory },
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            hostname: options.hostname,
            streams,
            stop_signal: container::stop_signal(&config)?,
        },
    };
    Ok((spec, root.held))
}

/// The root file system that is asked for.
fn root(options: &RunOptions, shares: &mut Vec<Share>) -> Result<Root, Error> {
    let Some(name) = &options.image else {
        return Ok(Root { rootfs: rootfs(options, shares)?, config: None, held: None });
    };
    let shown = name.to_string_lossy();
    let wrong = |error: anyhow::Error| {
        let kind = match error.downcast_ref::<crate::image::Interrupted>() {
            Some(interrupted) => Kind::Interrupted(interrupted.0.into()),
            None => Kind::Rootfs,
        };
        let causes: &(dyn std::error::Error + 'static) = error.as_ref();
        Error::because(kind, format!("image {shown}"), causes)
    };
    let provide = || {
        let store = crate::image::open(&options.store)?;
        crate::image::provide(&store, &shown, options.pull, &options.registry, &options.unpack)
    };
    let (image, rootfs) = provide().map_err(wrong)?;
    Ok(Root {
        rootfs: Rootfs::Image(rootfs.path().to_owned()),
        config: Some(image.process()),
        held: Some(rootfs),
    })
}

/// What the command gets as its root: a folder is packed into the store, or shared; a file is used as it is.
fn rootfs(options: &RunOptions, shares: &mut Vec<Share>) -> Result<Rootfs, Error> {
    let Some(path) = &options.rootfs else {
        return match options.rootfs_mode {
            RootfsMode::Image => mote_runtime::default_rootfs().map(Rootfs::Image),
            RootfsMode::Virtiofs => {
                Err(Error::new(Kind::Rootfs, "--rootfs-mode virtiofs: give a folder with --rootfs"))
            }
        };
    };
    let wrong = |error: &dyn std::error::Error| {
        Error::because(Kind::Rootfs, format!("--rootfs {}", path.display()), error)
    };
    match options.rootfs_mode {
        RootfsMode::Virtiofs if path.is_dir() => {
            // The file system above it takes what the command changes, and wants what is below to stay as it is.
            shares.push(Share { source: volume::absolute(path)?, read_only: true, cache: Cache::Always });
            Ok(Rootfs::Share(shares.len() - 1))
        }
        RootfsMode::Virtiofs => Err(Error::new(
            Kind::Rootfs,
            format!("--rootfs {}: not a folder, as --rootfs-mode virtiofs needs", path.display()),
        )),
        RootfsMode::Image if path.is_dir() => {
            let store = crate::image::open(&options.store).map_err(|error| wrong(&error))?;
            store.folder_image(path).map(Rootfs::Image).map_err(|error| wrong(&error))
        }
        RootfsMode::Image => {
            image::check(path).map_err(|error| wrong(&error))?;
            Ok(Rootfs::Image(path.to_owned()))
        }
    }
}

/// The command's environment: a few defaults, then what the image says, then what the user gives.
fn environment(options: &RunOptions, config: &ProcessConfig, user: &User) -> Vec<Vec<u8>> {
    let home = if user.uid == 0 { "/root" } else { "/" };
    let home = format!("HOME={}", user.home.as_deref().unwrap_or(home));
    let mut variables: Vec<Vec<u8>> =
        vec![PATH.into(), home.into_bytes(), format!("HOSTNAME={}", options.hostname).into_bytes()];
    if options.tty {
        let terminal = std::env::var_os("TERM").unwrap_or_else(|| "xterm".into());
        variables.push([b"TERM=", terminal.as_bytes()].concat());
    }
    let given = options.env.iter().filter_map(|given| complete(given));
    for variable in config.environment.iter().map(|variable| variable.clone().into_bytes()).chain(given) {
        let name_len = variable.iter().position(|byte| *byte == b'=').unwrap_or(variable.len());
        let Some(name) = variable.get(..=name_len) else { continue };
        variables.retain(|other| !other.starts_with(name));
        variables.push(variable);
    }
    variables
}

/// `NAME=VALUE` as it is; `NAME` with its value here, if it has one.
fn complete(given: &OsStr) -> Option<Vec<u8>> {
    let bytes = given.as_bytes();
    if bytes.is_empty() {
        return None;
    }
    if bytes.contains(&b'=') {
        return Some(bytes.to_vec());
    }
    std::env::var_os(given).map(|value| [bytes, b"=", value.as_bytes()].concat())
}
