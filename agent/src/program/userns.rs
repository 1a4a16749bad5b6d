//! User namespaces: made by a process of their own, so that whoever wants one can still write its maps, which takes privileges in
//! the namespace that it comes from.

use core::ffi::CStr;

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
    io::{Errno, Result},
    pipe::PipeFlags,
    process::{Pid, WaitOptions},
};

use super::path::{Text, decimal};
use crate::sys;

/// `CLONE_NEWUSER`.
const NEW_USER_NAMESPACE: u32 = 0x1000_0000;

/// Makes a user namespace with these maps. `proc` is a `proc` of this process's own PID namespace.
pub(super) fn make(proc: &OwnedFd, uids: &CStr, gids: &CStr) -> Result<OwnedFd> {
    let (told, tells) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (held, holds) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (mut told, mut holds) = (Some(told), Some(holds));
    let member = sys::process::spawn(false, || {
        // What it waits for is that nobody holds the other ends any more.
        drop((told.take(), holds.take()));
        let made = sys::process::unshare(NEW_USER_NAMESPACE);
        let word = made.map_or_else(|errno| errno.raw_os_error().to_le_bytes(), |()| [0; 4]);
        let _ = rustix::io::write(&tells, &word);
        let _ = rustix::io::read(&held, &mut [0]);
        0
    })?;
    drop(tells);
    let mut word = [0; 4];
    let made = match &told {
        Some(told) => rustix::io::read(told, &mut word),
        None => Err(Errno::BADF),
    };
    let namespace = match (made, i32::from_le_bytes(word)) {
        (Ok(4), 0) => set_up(proc, member, uids, gids),
        (Ok(4), errno) => Err(Errno::from_raw_os_error(errno)),
        (Ok(_), _) => Err(Errno::CHILD),
        (Err(errno), _) => Err(errno),
    };
    drop(holds);
    let _ = rustix::process::waitpid(Some(member), WaitOptions::empty());
    namespace
}

fn set_up(proc: &OwnedFd, member: Pid, uids: &CStr, gids: &CStr) -> Result<OwnedFd> {
    let mut digits = [0; 10];
    let member = decimal(member.as_raw_pid().unsigned_abs(), &mut digits);
    for (file, map) in [(b"/uid_map".as_slice(), uids), (b"/gid_map", gids)] {
        let path = Text::<32>::join(&[member, file])?;
        let file = rustix::fs::openat(proc, &*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        if rustix::io::write(&file, map.to_bytes())? != map.count_bytes() {
            return Err(Errno::INVAL);
        }
    }
    let path = Text::<32>::join(&[member, b"/ns/user"])?;
    rustix::fs::openat(proc, &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
