//! What runs in an image: its configuration, overruled by options.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use mote_rootfs_builder::{ProcessConfig, User, image::Reader, users};
use mote_runtime::{Error, Kind, Rootfs};
use nix::{libc, sys::signal::Signal};

/// What is executed: the entrypoint, then the command. An entrypoint that is given takes the image's command along.
pub(crate) fn arguments(
    config: &ProcessConfig,
    entrypoint: Option<&OsStr>,
    command: Vec<OsString>,
) -> Result<Vec<Vec<u8>>, Error> {
    let bytes = |strings: &[String]| strings.iter().map(|string| string.clone().into_bytes()).collect();
    let mut arguments: Vec<Vec<u8>> = match entrypoint {
        Some(given) => parse_entrypoint(given),
        None => bytes(&config.entrypoint),
    };
    if command.is_empty() && entrypoint.is_none() {
        arguments.extend::<Vec<Vec<u8>>>(bytes(&config.command));
    }
    arguments.extend(command.into_iter().map(OsString::into_vec));
    if arguments.is_empty() {
        return Err(Error::new(Kind::Process, "the image says no command: give one behind its name"));
    }
    Ok(arguments)
}

/// One program, or a JSON array of it and its arguments; nothing for an empty text.
fn parse_entrypoint(given: &OsStr) -> Vec<Vec<u8>> {
    let list = serde_json::from_slice::<Vec<String>>(given.as_bytes());
    match list {
        Ok(list) => list.into_iter().map(String::into_bytes).collect(),
        Err(_) if given.is_empty() => Vec::new(),
        Err(_) => vec![given.as_bytes().to_vec()],
    }
}

/// The user `text`, looked up in the root file system, if that is an EROFS image. In a folder that is shared, which changes under us,
/// nothing is looked up.
pub(crate) fn user(rootfs: &Rootfs, text: &str) -> Result<User, Error> {
    let image = match rootfs {
        Rootfs::Image(path) => Some(path.as_path()),
        Rootfs::Share(_) => None,
    };
    users::find(image, text).map_err(|why| Error::new(Kind::Process, format!("--user {text}: {why}")))
}

/// The folders that the image calls volumes, without the symbolic links on the way.
pub(crate) fn volumes(rootfs: &Rootfs, config: &ProcessConfig) -> Result<Vec<Vec<u8>>, Error> {
    // Whoever has no image has no configuration either.
    let Rootfs::Image(rootfs) = rootfs else { return Ok(Vec::new()) };
    if config.volumes.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |volume: &str, error: std::io::Error| {
        Error::because(Kind::Rootfs, format!("the image's volume {volume} cannot be used"), &error)
    };
    let image = Reader::open(rootfs).map_err(|error| wrong("list", error))?;
    let volumes = config.volumes.iter().map(|volume| {
        image.resolve(volume.as_bytes()).map(|resolved| resolved.path).map_err(|error| wrong(volume, error))
    });
    let mut volumes = volumes.collect::<Result<Vec<_>, _>>()?;
    // The whole root is written to anyway, unless the user wants it otherwise.
    volumes.retain(|volume| volume != b"/");
    Ok(volumes)
}

/// The number of the signal that the image calls its stop signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub(crate) fn stop_signal(config: &ProcessConfig) -> Result<Option<u8>, Error> {
    let Some(text) = &config.stop_signal else { return Ok(None) };
    let number = parse_signal(text).and_then(|number| u8::try_from(number).ok());
    let number = number.filter(|&number| (1..=64).contains(&number));
    number
        .map(Some)
        .ok_or_else(|| Error::new(Kind::Process, format!("the image's stop signal {text:?} is none")))
}

fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| match text.strip_prefix(['+', '-']) {
        Some(digits) => digits.parse::<u8>().ok().map(i32::from),
        None => text.is_empty().then_some(0),
    };
    // As the C library counts them, which takes the first two for itself.
    let (least, most) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(rest).map(|more| least + more).filter(|_| !rest.starts_with('-'));
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(rest).map(|less| most - less).filter(|_| !rest.starts_with('+'));
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entrypoint: &[&str], command: &[&str]) -> ProcessConfig {
        let own = |strings: &[&str]| strings.iter().map(|&string| string.to_owned()).collect();
        ProcessConfig { entrypoint: own(entrypoint), command: own(command), ..ProcessConfig::default() }
    }

    fn line(config: &ProcessConfig, entrypoint: Option<&str>, command: &[&str]) -> String {
        let command = command.iter().map(OsString::from).collect();
        match arguments(config, entrypoint.map(OsStr::new), command) {
            Ok(arguments) => {
                arguments.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn entrypoint_and_command_go_together_as_with_podman() {
        let both = config(&["/entry", "-e"], &["cmd", "-c"]);
        assert_eq!(line(&both, None, &[]), "/entry -e cmd -c");
        assert_eq!(line(&both, None, &["other"]), "/entry -e other");
        assert_eq!(line(&both, Some("/mine"), &[]), "/mine");
        assert_eq!(line(&both, Some("/mine"), &["x"]), "/mine x");
        assert_eq!(line(&both, Some(r#"["/mine","-m"]"#), &["x"]), "/mine -m x");
        assert_eq!(line(&both, Some(""), &["x", "y"]), "x y");
        assert_eq!(line(&config(&[], &["cmd"]), None, &[]), "cmd");
        assert!(line(&config(&[], &[]), None, &[]).contains("no command"));
        assert!(line(&both, Some(""), &[]).contains("no command"));
    }

    #[test]
    fn stop_signals_have_many_names() {
        let number = |text: &str| {
            stop_signal(&ProcessConfig { stop_signal: Some(text.into()), ..ProcessConfig::default() })
                .ok()
                .flatten()
        };
        for (text, expected) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("15", 15),
            ("SIGQUIT", 3),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("SIGRTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGNOTHING", "SIGRTMIN+99", "SIGRTMIN-3", "SIGRTMAX+1", "RTMINé"]
        {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
