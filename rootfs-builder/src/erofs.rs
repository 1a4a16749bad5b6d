//! Runs `mkfs.erofs` (erofs-utils 1.5 or later).

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use crate::error::Error;
use crate::image;

/// The options that every image is made with. Files stay uncompressed: a guest reads them straight out of its block
/// device, without a decompressor on the way to its first instruction, and the host's page cache is shared anyway.
const OPTIONS: [&str; 3] = [
    "--quiet",
    // The same file system UUID in every image. By default it is random.
    "-U6d6f7465-0000-4000-8000-000000000000",
    // Each file's extended attributes lie next to its inode. Those that are shared between files are otherwise
    // written in the order in which the folder lists its entries, which differs between equal trees.
    "-x2147483647",
];

/// The image's own time stamp: the last second of the year 9999. `SOURCE_DATE_EPOCH` is the one way to fix it that
/// leaves files their modification times, as long as they are not later. (`-T` sets all of them.) A file from before
/// 1970 counts as later, too.
const TIMESTAMP: &str = "253402300799";

/// How much of the program's standard error is kept for an error message, in bytes and lines.
const MESSAGE_BYTES: usize = 4096;
const MESSAGE_LINES: usize = 4;

/// Packs `folder` into the file `image` and checks that the result is an image. The program dies with the calling
/// thread.
///
/// On an error, `image` may have been written to. `store` is for the error message.
pub(crate) fn pack(program: &Path, folder: &Path, image: &Path, store: &Path) -> Result<(), Error> {
    let start_error = |source: io::Error| {
        if source.kind() == io::ErrorKind::NotFound {
            Error::MkfsMissing { program: program.to_path_buf() }
        } else {
            Error::MkfsStart { program: program.to_path_buf(), source }
        }
    };
    let mut child = command(program, folder, image).spawn().map_err(start_error)?;
    let message = last_lines(&mut child);
    let status =
        child.wait().map_err(|source| Error::MkfsStart { program: program.to_path_buf(), source })?;
    if !status.success() {
        return Err(match out_of_space(&message) {
            Some(source) => Error::NoSpace { store: store.to_path_buf(), source },
            None => Error::MkfsFailed {
                program: program.to_path_buf(),
                folder: folder.to_path_buf(),
                status,
                message,
            },
        });
    }
    image::check(image).map_err(|source| Error::MkfsImage {
        program: program.to_path_buf(),
        folder: folder.to_path_buf(),
        source,
    })
}

fn command(program: &Path, folder: &Path, image: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(OPTIONS)
        .args([image, folder])
        .env("SOURCE_DATE_EPOCH", TIMESTAMP)
        // Messages are recognised below.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes two
    // system calls and allocates nothing.
    unsafe { command.pre_exec(move || die_with(parent)) };
    command
}

/// Asks the kernel to kill this process when its parent's thread ends, however that happens.
fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have ended before the kernel was asked.
    if getppid() == parent { Ok(()) } else { Err(io::Error::from(Errno::ESRCH)) }
}

/// Reads the program's standard error to its end, and returns its last lines as one. What cannot be read is left out:
/// the program's exit status is what counts.
fn last_lines(child: &mut Child) -> String {
    let mut tail = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        let mut chunk = [0; MESSAGE_BYTES];
        loop {
            match stderr.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => tail.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            tail.drain(..tail.len().saturating_sub(MESSAGE_BYTES));
        }
    }
    let text = String::from_utf8_lossy(&tail);
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.drain(..lines.len().saturating_sub(MESSAGE_LINES));
    if lines.is_empty() { "it did not say why".to_owned() } else { lines.join("; ") }
}

/// The error of a full disk or quota, if `message` reports one.
fn out_of_space(message: &str) -> Option<io::Error> {
    [Errno::ENOSPC, Errno::EDQUOT]
        .into_iter()
        .find(|errno| message.contains(errno.desc()))
        .map(io::Error::from)
}
