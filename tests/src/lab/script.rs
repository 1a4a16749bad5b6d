//! The shell scripts that L1 runs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What L1 does before and after the command.
const INIT: &[u8] = include_bytes!("init.sh");

/// L1's `/init`.
pub(crate) fn init(marker: &str, outputs: &[(PathBuf, PathBuf)], interactive: bool) -> Vec<u8> {
    let (shebang, rest) = INIT.split_at(INIT.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1));
    let list: Vec<Vec<u8>> = outputs.iter().map(|(guest, _)| quoted(guest.as_os_str())).collect();
    let interactive: &[u8] = if interactive { b"yes" } else { b"no" };
    [
        shebang,
        b"MARKER=",
        &quoted(OsStr::new(marker)),
        b"\nOUTPUTS=",
        &quoted(OsStr::from_bytes(&list.join(&b' '))),
        b"\nINTERACTIVE=",
        interactive,
        b"\n",
        rest,
    ]
    .concat()
}

/// The script that becomes `command`.
pub(crate) fn command<S: AsRef<OsStr>>(command: &[S], environment: &[(OsString, OsString)]) -> Vec<u8> {
    let mut script = exports(environment);
    script.extend_from_slice(b"exec");
    for word in command {
        script.push(b' ');
        script.extend_from_slice(&quoted(word.as_ref()));
    }
    script.push(b'\n');
    script
}

/// The script that becomes a shell on a terminal with `size` as rows and columns.
pub(crate) fn shell(environment: &[(OsString, OsString)], size: (u16, u16)) -> Vec<u8> {
    let mut script = exports(environment);
    script.extend_from_slice(format!("stty sane rows {} cols {}\nexec sh -i\n", size.0, size.1).as_bytes());
    script
}

fn exports(environment: &[(OsString, OsString)]) -> Vec<u8> {
    let mut script = Vec::new();
    for (name, value) in environment {
        script.extend_from_slice(b"export ");
        script.extend_from_slice(name.as_bytes());
        script.push(b'=');
        script.extend_from_slice(&quoted(value));
        script.push(b'\n');
    }
    script
}

/// `word` as the shell takes it literally.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for &byte in word.as_bytes() {
        if byte == b'\'' {
            text.extend_from_slice(b"'\\''");
        } else {
            text.push(byte);
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_what_they_are() {
        let environment = [(OsString::from("A"), OsString::from("it's $HOME"))];
        let script = command(&["echo", "a b", "'"], &environment);
        assert_eq!(
            String::from_utf8(script).unwrap(),
            "export A='it'\\''s $HOME'\nexec 'echo' 'a b' ''\\'''\n"
        );
    }

    #[test]
    fn init_stays_a_script() {
        let script = init("m", &[("/a b".into(), "/c".into())], false);
        let text = String::from_utf8(script).unwrap();
        assert!(
            text.starts_with("#!/bin/busybox sh\nMARKER='m'\nOUTPUTS=''\\''/a b'\\'''\nINTERACTIVE=no\n"),
            "{text}"
        );
    }
}
