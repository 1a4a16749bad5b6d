//! Which walls this user gets on this host: tried out by a child, which is gone afterwards.

use std::{
    fs::File,
    io::{Read, Write},
};

use nix::{
    libc,
    sys::wait::waitpid,
    unistd::{ForkResult, pipe},
};

use super::{Jail, Layer};
use crate::{
    Error,
    error::{Failure, Kind, errno, host},
};

/// The walls that a sandbox process of this user's gets here. The caller must have one thread.
///
/// # Errors
/// A wall that should stand does not.
pub fn layers() -> Result<Vec<Layer>, Error> {
    let (reader, writer) = pipe().map_err(errno("create a pipe"))?;
    // SAFETY: there is one thread, so no lock is held that the child could wait for.
    let child = match unsafe { nix::unistd::fork() }.map_err(errno("start a process"))? {
        ForkResult::Child => {
            let result = Jail::for_kvm(None).enter().map_err(|error| *error.0);
            // Without an answer, the parent says so.
            let _ = serde_json::to_vec(&result).map(|answer| File::from(writer).write_all(&answer));
            // SAFETY: ends the process without anything of the parent's being done twice.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => child,
    };
    drop(writer);
    let mut answer = Vec::new();
    let read = File::from(reader).read_to_end(&mut answer);
    waitpid(child, None).map_err(errno("wait for a process"))?;
    read.map_err(host("read from a pipe"))?;
    let result: Result<Vec<Layer>, Failure> = serde_json::from_slice(&answer)
        .map_err(|_| Error::new(Kind::Host, "the process that tries the jail out ended without a word"))?;
    result.map_err(|failure| Error(Box::new(failure)))
}
