//! Files that somebody names to be read. Neither opening nor reading one waits for somebody who may never come.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};

/// Opens the regular file at `path` for reading.
///
/// # Errors
/// It cannot be opened, or is a folder, a pipe, a socket or a device: those are not even opened.
pub fn open(path: &Path) -> io::Result<File> {
    let check = |kind: fs::FileType| match kind.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{}, not a file", name(kind)))),
    };
    check(fs::metadata(path)?.file_type())?;
    let file = open_now(path)?;
    // It may be another one than a moment before.
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// What the file at `path` says. It may also be a pipe, as shells make one for `<(command)`, that somebody writes to.
///
/// # Errors
/// It cannot be opened or read, is neither a file nor a pipe, or is a pipe without a writer.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if !fs::metadata(path)?.file_type().is_fifo() {
        open(path)?.read_to_end(&mut text)?;
        return Ok(text);
    }
    let mut pipe = open_now(path)?;
    // Opened without waiting, it ends at once where nobody writes.
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty()))?;
    pipe.read_to_end(&mut text)?;
    if text.is_empty() { Err(io::Error::other("a pipe that nobody writes to")) } else { Ok(text) }
}

fn open_now(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn name(kind: fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn what_is_no_file_is_named_and_nobody_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mkfifo(&at("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (path, word) in [
            (folder.path().to_owned(), "a folder"),
            (at("pipe"), "a pipe"),
            (at("socket"), "a socket"),
            ("/dev/zero".into(), "a device"),
        ] {
            assert_eq!(open(&path).unwrap_err().to_string(), format!("{word}, not a file"));
            assert!(read(&path).unwrap_err().to_string().contains(word));
        }
        fs::write(at("file"), "text").unwrap();
        assert_eq!(read(&at("file")).unwrap(), b"text");
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let written = std::thread::spawn(move || writer.write_all(&[7; 1 << 18]).unwrap());
        assert_eq!(read(Path::new(&path)).unwrap(), vec![7; 1 << 18]);
        written.join().unwrap();
    }
}
