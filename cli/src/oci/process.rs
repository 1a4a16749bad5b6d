//! The process of `exec`: from a file, or what the container's configuration describes, with the changes that flags ask for.

use std::{ffi::OsString, path::Path};

use mote_runtime::{Error, Kind, named_file};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};

use super::args::ExecFlags;

pub(super) fn of(
    flags: &ExecFlags,
    command: &[OsString],
    configured: impl FnOnce() -> Result<Process, Error>,
) -> Result<Process, Error> {
    if let Some(path) = &flags.process {
        return read(path);
    }
    if command.is_empty() {
        return Err(Error::new(Kind::Container, "process args cannot be empty"));
    }
    let mut process = configured()?;
    let text = |word: &OsString| {
        word.clone().into_string().map_err(|_| Error::new(Kind::Container, format!("{word:?} is not UTF-8")))
    };
    process.set_args(Some(command.iter().map(text).collect::<Result<_, _>>()?));
    process.set_terminal(Some(flags.tty));
    if !flags.tty {
        process.set_console_size(None);
    }
    if let Some(folder) = &flags.cwd {
        process.set_cwd(folder.clone());
    }
    if !flags.env.is_empty() {
        let mut environment = process.env().clone().unwrap_or_default();
        environment.extend(flags.env.iter().cloned());
        process.set_env(Some(environment));
    }
    if let Some(user) = &flags.user {
        process.set_user(parse_user(user)?);
    }
    if !flags.additional_gids.is_empty() {
        let mut user = process.user().clone();
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&flags.additional_gids);
        user.set_additional_gids(Some(gids));
        process.set_user(user);
    }
    if !flags.cap.is_empty() {
        process.set_capabilities(Some(add(process.capabilities().clone().unwrap_or_default(), &flags.cap)?));
    }
    if flags.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &flags.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &flags.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    Ok(process)
}

fn read(path: &Path) -> Result<Process, Error> {
    let wrong = |error: &dyn std::error::Error| {
        Error::because(Kind::Container, format!("process file {}", path.display()), error)
    };
    let text = named_file::read(path).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

fn parse_user(text: &str) -> Result<User, Error> {
    let id = |part: &str| {
        part.parse::<u32>()
            .map_err(|_| Error::new(Kind::Container, format!("--user {text}: give numbers, as in 1000:1000")))
    };
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let mut user = User::default();
    user.set_uid(id(uid)?);
    user.set_gid(gid.map_or(Ok(0), id)?);
    Ok(user)
}

/// Adds capabilities to all sets but the ambient one, as runc does.
fn add(mut sets: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities, Error> {
    for name in names {
        let upper = name.to_ascii_uppercase();
        let upper = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let capability: Capability = serde_json::from_value(upper.into())
            .map_err(|_| Error::new(Kind::Container, format!("unknown capability {name:?}")))?;
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        sets.set_bounding(with(sets.bounding()));
        sets.set_effective(with(sets.effective()));
        sets.set_permitted(with(sets.permitted()));
    }
    Ok(sets)
}
