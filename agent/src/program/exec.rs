//! The last operation: finding the program to execute, and becoming it.

use core::ffi::CStr;

use mote_protocol::{ErrorCode, StrList};
use rustix::io::Errno;

use super::{Fault, kernel::Kernel, path::Text};

/// Where programs are looked for if the environment names no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest path that is tried, with its NUL: Linux's `PATH_MAX`.
const PATH_ROOM: usize = 4096;

/// Becomes the program that `arguments` names. Returns only if that failed.
pub(super) fn exec<K: Kernel>(kernel: &mut K, arguments: StrList<'_>, environment: StrList<'_>) -> Fault {
    let Some(name) = arguments.iter().next() else {
        return Fault::invalid("exec without a name");
    };
    if let Err(errno) = kernel.announce_exec() {
        return Fault::new(ErrorCode::System, Some(errno), "write");
    }
    let attempt = |kernel: &mut K, path: &CStr| kernel.execve(path, arguments, environment);
    let folders = environment.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    refuse(search(kernel, name, folders, attempt), "execve")
}

/// Finds out before the gate whether a program is there and can be executed, as far as that can be told.
pub(super) fn check<K: Kernel>(kernel: &mut K, name: &CStr, path: &CStr) -> Result<(), Fault> {
    let mut found = false;
    let attempt = |kernel: &mut K, path: &CStr| match kernel.check_executable(path) {
        Ok(()) => {
            found = true;
            // Whatever ends the search.
            Errno::EXIST
        }
        Err(errno) => errno,
    };
    let folders = Some(path.to_bytes()).filter(|path| !path.is_empty());
    let errno = search(kernel, name, folders, attempt);
    if found { Ok(()) } else { Err(refuse(errno, "access")) }
}

fn refuse(errno: Errno, step: &'static str) -> Fault {
    let code = match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorCode::CommandNotFound,
        _ => ErrorCode::CommandNotExecutable,
    };
    Fault::new(code, Some(errno), step)
}

/// Tries a name: if it has no `/`, in the folders of `PATH` in order, as `execvpe(3)` does; but a file of an unknown format
/// is not given to a shell.
fn search<K: Kernel>(
    kernel: &mut K,
    name: &CStr,
    folders: Option<&[u8]>,
    mut attempt: impl FnMut(&mut K, &CStr) -> Errno,
) -> Errno {
    if name.to_bytes().contains(&b'/') {
        return attempt(kernel, name);
    }
    if name.is_empty() {
        return Errno::NOENT;
    }
    let mut denied = false;
    for folder in folders.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':') {
        // An empty entry is the working directory.
        let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
        let Ok(path) = Text::<PATH_ROOM>::join(&[folder, slash, name.to_bytes()]) else {
            continue;
        };
        match attempt(kernel, &path) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => denied = true,
            errno => return errno,
        }
    }
    if denied { Errno::ACCESS } else { Errno::NOENT }
}
