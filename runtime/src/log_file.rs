//! Files that something is logged to. Whatever the file is, neither opening it nor writing to it waits for somebody who may never come.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// How long a pipe may stay full before nobody is thought to read it, in milliseconds.
const PATIENCE: u16 = 1000;

/// Opens a file for writing, with more `options`, and makes it if there is none. Writing to it does not block.
///
/// # Errors
/// It cannot be opened, or is a pipe that nobody reads.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let options =
        options.write(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => io::Error::other("nobody reads it"),
        _ => error,
    })
}

/// A file from [`open`] whose reader may be slow: writing waits for it, but not for one that takes nothing at all.
pub(crate) struct Patient(pub(crate) File);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Patient {
    fn wait(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(PATIENCE))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn fifo() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        (folder, path)
    }

    fn reader(path: &Path) -> File {
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_not_opened() {
        let (_folder, path) = fifo();
        let error = open(&path, &mut File::options()).unwrap_err();
        assert_eq!(error.to_string(), "nobody reads it");
    }

    #[test]
    fn a_full_pipe_is_an_error_in_the_end() {
        let (_folder, path) = fifo();
        let _reader = reader(&path);
        let mut file = Patient(open(&path, &mut File::options()).unwrap());
        let error = file.write_all(&[7; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_slow_reader_gets_everything() {
        let (_folder, path) = fifo();
        let mut reader = reader(&path);
        let mut file = Patient(open(&path, &mut File::options()).unwrap());
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
        let read = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        });
        file.write_all(&[7; 1 << 20]).unwrap();
        drop(file);
        assert_eq!(read.join().unwrap(), vec![7; 1 << 20]);
    }
}
