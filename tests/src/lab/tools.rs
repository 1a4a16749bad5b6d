//! Calls the programs of the build machine that the lab is made with.

use std::env;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{Error, Result};

/// How much of a failed program's standard error is worth showing.
const MESSAGE_LINES: usize = 5;

/// A program's file: `name` itself if it has a slash, else the first one in `PATH` and the administrator's folders.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The file of a program that the lab itself needs; `package` has it.
pub(crate) fn require(name: &str, package: &str) -> Result<PathBuf> {
    find(name).ok_or_else(|| Error::NoProgram { program: name.to_owned(), package: package.to_owned() })
}

/// Runs a program to its end in `folder` with `input`, and returns what it wrote to standard output.
pub(crate) fn output(
    name: &str,
    package: &str,
    arguments: &[&str],
    folder: &Path,
    input: &[u8],
) -> Result<Vec<u8>> {
    let program = require(name, package)?;
    let failed = |source: io::Error| Error::Io { action: "run", path: program.clone(), source };
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        let mut file = tempfile::tempfile().map_err(failed)?;
        file.write_all(input).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(failed)?;
        Stdio::from(file)
    };
    let output = Command::new(&program)
        .args(arguments)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(stdin)
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::Helper {
        command: format!("{name} {}", arguments.join(" ")),
        status: output.status.to_string(),
        message: last_lines(&output.stderr, MESSAGE_LINES).join("; "),
    })
}

/// The last `count` lines of `text` that are not empty, without carriage returns.
pub(crate) fn last_lines(text: &[u8], count: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(|&line| line.to_owned()).collect()
}
