//! Which files an installed program needs in L1.

use std::fs;
use std::path::{Path, PathBuf};

use super::elf::{self, Kind};
use super::error::{Error, Result};
use super::tools;

/// Tells the interpreter where libraries are that lie in none of its built-in folders.
const LIBRARY_CACHE: &str = "/etc/ld.so.cache";

/// A file to copy.
pub(crate) struct Needed {
    pub(crate) host: PathBuf,
    pub(crate) guest: PathBuf,
}

/// The program `name`, its ELF interpreter and every library that the interpreter would load, which it is asked itself,
/// as `ldd` does. The program comes to `/usr/bin`, the others to where they are on the host.
pub(crate) fn closure(name: &str) -> Result<Vec<Needed>> {
    let path = tools::find(name).ok_or_else(|| Error::NoSuchProgram { name: name.to_owned() })?;
    let failed = |reason: String| Error::Program { path: path.clone(), reason };
    let file_name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let mut needed = vec![Needed { host: path.clone(), guest: Path::new("/usr/bin").join(file_name) }];
    let file = fs::read(&path).map_err(Error::io("read", &path))?;
    let interpreter = match elf::kind(&file) {
        Kind::Static => return Ok(needed),
        Kind::Dynamic(interpreter) => interpreter,
        Kind::Foreign => return Err(failed("it is no 64-bit ELF file; copy scripts with --file".to_owned())),
    };
    let program = path.to_string_lossy();
    let list = tools::output(&interpreter, "libc6", &["--list", &program], Path::new("/"), &[])?;
    for line in String::from_utf8_lossy(&list).lines() {
        match library(line) {
            Library::At(path) => needed.push(Needed { host: path.into(), guest: path.into() }),
            Library::Missing(name) => return Err(failed(format!("its library {name} is not installed"))),
            Library::None => {}
        }
    }
    for file in [interpreter.as_str(), LIBRARY_CACHE] {
        needed.push(Needed { host: file.into(), guest: file.into() });
    }
    Ok(needed)
}

#[derive(Debug, PartialEq)]
enum Library<'a> {
    At(&'a str),
    Missing(&'a str),
    /// The line is about the vDSO, or about nothing.
    None,
}

/// Reads a line of the interpreter's list: `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)` or `NAME => not found`.
fn library(line: &str) -> Library<'_> {
    let line = line.trim();
    let (name, place) = line.split_once(" => ").unwrap_or((line, line));
    if place.starts_with("not found") {
        return Library::Missing(name);
    }
    match place.rsplit_once(" (") {
        Some((path, _)) if path.starts_with('/') => Library::At(path),
        _ => Library::None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Library, library};

    #[test]
    fn lines_of_the_interpreter() {
        assert_eq!(library("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)"), Library::At("/lib/libc.so.6"));
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Library::At("/lib64/ld-linux-x86-64.so.2")
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f)"), Library::None);
        assert_eq!(library("\tlibodd.so => not found"), Library::Missing("libodd.so"));
        assert_eq!(library("\tstatically linked"), Library::None);
    }
}
