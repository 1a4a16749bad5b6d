//! The last operation: finding the program to execute, and becoming it.

use core::ffi::CStr;

use mote_protocol::{ErrorCode, StrList};
use rustix::io::Errno;

use super::{Fault, kernel::Kernel, path::Text};

/// Where programs are looked for if the environment names no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest path that is tried, with its NUL: Linux's `PATH_MAX`.
const PATH_ROOM: usize = 4096;

/// A `PATH`, and how many of its first folders were looked into in vain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed<'p> {
    path: &'p [u8],
    folders: usize,
}

/// Becomes the program that `arguments` names. Folders that were looked into before are not tried again: what was found at the check is
/// what is executed. Returns only if that failed.
pub(super) fn exec<K: Kernel>(
    kernel: &mut K,
    arguments: StrList<'_>,
    environment: StrList<'_>,
    passed: Option<Passed<'_>>,
) -> Fault {
    let Some(name) = arguments.iter().next() else {
        return Fault::invalid("exec without a name");
    };
    if let Err(errno) = kernel.announce_exec() {
        return Fault::new(ErrorCode::System, Some(errno), "write");
    }
    let attempt = |kernel: &mut K, path: &CStr| kernel.execve(path, arguments, environment);
    let folders = environment.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let passed = passed.filter(|passed| folders == Some(passed.path)).map_or(0, |passed| passed.folders);
    refuse(search(kernel, name, folders, passed, attempt), "execve")
}

/// Finds out before the gate whether a program is there and can be executed, as far as that can be told, and in which folder of `path` the
/// search begins that executes it.
pub(super) fn check<'p, K: Kernel>(kernel: &mut K, name: &CStr, path: &'p CStr) -> Result<Passed<'p>, Fault> {
    let (mut found, mut tried) = (false, 0);
    let attempt = |kernel: &mut K, path: &CStr| match kernel.check_executable(path) {
        Ok(()) => {
            found = true;
            // Whatever ends the search.
            Errno::EXIST
        }
        Err(errno) => {
            tried += 1;
            errno
        }
    };
    let path = path.to_bytes();
    let folders = Some(path).filter(|path| !path.is_empty());
    let errno = search(kernel, name, folders, 0, attempt);
    if found { Ok(Passed { path, folders: tried }) } else { Err(refuse(errno, "access")) }
}

fn refuse(errno: Errno, step: &'static str) -> Fault {
    let code = match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorCode::CommandNotFound,
        _ => ErrorCode::CommandNotExecutable,
    };
    Fault::new(code, Some(errno), step)
}

/// Tries a name: if it has no `/`, in the folders of `PATH` in order, as `execvpe(3)` does; but a file of an unknown format
/// is not given to a shell. The first `passed` of those that a program may be in are left out.
fn search<K: Kernel>(
    kernel: &mut K,
    name: &CStr,
    folders: Option<&[u8]>,
    passed: usize,
    mut attempt: impl FnMut(&mut K, &CStr) -> Errno,
) -> Errno {
    if name.to_bytes().contains(&b'/') {
        return attempt(kernel, name);
    }
    if name.is_empty() {
        return Errno::NOENT;
    }
    let mut denied = false;
    let paths = folders.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':').filter_map(|folder| {
        // An empty entry is the working directory.
        let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
        Text::<PATH_ROOM>::join(&[folder, slash, name.to_bytes()]).ok()
    });
    for path in paths.skip(passed) {
        match attempt(kernel, &path) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => denied = true,
            errno => return errno,
        }
    }
    if denied { Errno::ACCESS } else { Errno::NOENT }
}
