//! `mote run`: from options to a complete specification, and from an outcome to an exit status.

use std::{
    ffi::{OsStr, OsString},
    io::IsTerminal,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use mote_rootfs_builder::{Store, image};
use mote_runtime::{Cache, Error, Kind, Machine, Process, Rootfs, Share, Spec, Streams, Timeline};

use crate::{
    args::{LogFormat, LogOptions, RootfsMode, RunOptions},
    memory, report, volume,
};

/// What a command finds in `PATH` if nobody says otherwise.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn run(options: RunOptions, log: &LogOptions, timeline: Timeline) -> ExitCode {
    let format = options.timeline;
    let outcome = match spec(options) {
        Ok(spec) => mote_runtime::run(&spec, &sandbox_arguments(log), timeline),
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
    arguments.push("sandbox".into());
    arguments
}

fn spec(options: RunOptions) -> Result<Spec, Error> {
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
    let environment = environment(&options);
    let (mut shares, mut volumes) = (Vec::new(), Vec::new());
    let rootfs = rootfs(options.rootfs.as_deref(), options.rootfs_mode, &mut shares)?;
    volume::complete(options.volume, &mut shares, &mut volumes)?;
    let streams = if options.tty { Streams::Terminal } else { Streams::Pipes };
    Ok(Spec {
        machine: Machine {
            hypervisor: options.hypervisor.into(),
            vcpus: options.cpus,
            memory: options.memory.bytes(),
            kernel: mote_runtime::kernel(options.kernel.as_deref())?,
            initrd: options.initrd,
            kernel_options: options.kernel_options,
            rootfs,
            shares,
            console: options.console,
        },
        read_only: options.read_only,
        volumes,
        process: Process {
            arguments: options.command.into_iter().map(OsString::into_vec).collect(),
            environment,
            directory: options.workdir.into_vec(),
            uid: options.user.uid,
            gid: options.user.gid,
            hostname: options.hostname,
            streams,
        },
    })
}

/// What the command gets as its root: a folder is packed into the store, or shared; a file is used as it is.
fn rootfs(asked: Option<&Path>, mode: RootfsMode, shares: &mut Vec<Share>) -> Result<Rootfs, Error> {
    let Some(path) = asked else {
        return match mode {
            RootfsMode::Image => mote_runtime::default_rootfs().map(Rootfs::Image),
            RootfsMode::Virtiofs => {
                Err(Error::new(Kind::Rootfs, "--rootfs-mode virtiofs: give a folder with --rootfs"))
            }
        };
    };
    let wrong = |error: &dyn std::error::Error| {
        Error::because(Kind::Rootfs, format!("--rootfs {}", path.display()), error)
    };
    match mode {
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
            let location = match std::env::var_os("MOTE_STORE") {
                Some(location) => PathBuf::from(location),
                None => Store::default_location().map_err(|error| wrong(&error))?,
            };
            let store = Store::open(location).map_err(|error| wrong(&error))?;
            store.folder_image(path).map(Rootfs::Image).map_err(|error| wrong(&error))
        }
        RootfsMode::Image => {
            image::check(path).map_err(|error| wrong(&error))?;
            Ok(Rootfs::Image(path.to_owned()))
        }
    }
}

/// The command's environment: a few defaults, then what the user gives.
fn environment(options: &RunOptions) -> Vec<Vec<u8>> {
    let home = if options.user.uid == 0 { "HOME=/root" } else { "HOME=/" };
    let mut variables: Vec<Vec<u8>> =
        vec![PATH.into(), home.into(), format!("HOSTNAME={}", options.hostname).into_bytes()];
    if options.tty {
        let terminal = std::env::var_os("TERM").unwrap_or_else(|| "xterm".into());
        variables.push([b"TERM=", terminal.as_bytes()].concat());
    }
    for given in &options.env {
        let Some(variable) = complete(given) else { continue };
        let name_len = variable.iter().position(|byte| *byte == b'=').unwrap_or(variable.len());
        variables.retain(|other| !other.starts_with(&variable[..=name_len.min(variable.len() - 1)]));
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
