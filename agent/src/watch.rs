//! Files that the host reads, writes and waits for: cgroups, mostly.
//!
//! **Owns** the table of open `WaitFile` requests. **Must not know** what the files mean.

use core::ffi::CStr;

use mote_protocol::{
    Contents, ErrorCode, Event, Failed,
    limits::{MAX_CONTENTS, MAX_WATCHES},
};
use rustix::{
    event::epoll::{self, EventFlags},
    fd::{BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
    io::{Errno, Result},
    process::Pid,
};

use crate::{control::Outbox, program::wire_errno, sys, token::Token};

/// A file that was read and has said nothing new since, or has just done so.
#[derive(Debug)]
struct Watch {
    request: u32,
    file: OwnedFd,
    changed: bool,
}

/// The open `WaitFile` requests.
#[derive(Debug, Default)]
pub(crate) struct Watches([Option<Watch>; MAX_WATCHES]);

impl Watches {
    /// Answers at once if the file says something else than `known`, or later.
    ///
    /// # Errors
    /// The table is full (`EMFILE`), or the file cannot be read or watched.
    pub(crate) fn begin(
        &mut self,
        epoll: BorrowedFd<'_>,
        request: u32,
        (path, known): (&CStr, &[u8]),
        outbox: &mut Outbox,
    ) -> Result<()> {
        let (slot, place) = (0..).zip(&mut self.0).find(|(_, place)| place.is_none()).ok_or(Errno::MFILE)?;
        let file = open(path, OFlags::RDONLY)?;
        let mut buf = [0; MAX_CONTENTS];
        let (content, more) = read(&file, 0, &mut buf)?;
        if content != known {
            outbox.push(request, &Event::Contents(Contents { content, more }));
            return Ok(());
        }
        // What changes from here on, after it was read, is reported.
        let data = epoll::EventData::new_u64(Token::Watch(slot).to_bits());
        epoll::add(epoll, &file, data, EventFlags::PRI)?;
        *place = Some(Watch { request, file, changed: false });
        Ok(())
    }

    /// An event of a file.
    pub(crate) fn ready(&mut self, epoll: BorrowedFd<'_>, slot: u8) {
        if let Some(Some(watch)) = self.0.get_mut(usize::from(slot)) {
            // It stays ready until it is read, which has to wait for room. A second event finds it gone, which is fine.
            let _ = epoll::delete(epoll, &watch.file);
            watch.changed = true;
        }
    }

    /// Says what has changed, as long as there is room.
    pub(crate) fn advance(&mut self, outbox: &mut Outbox) {
        for place in &mut self.0 {
            if let Some(watch) = place
                && watch.changed
                && outbox.has_room()
            {
                let mut buf = [0; MAX_CONTENTS];
                let event = match read(&watch.file, 0, &mut buf) {
                    Ok((content, more)) => Event::Contents(Contents { content, more }),
                    Err(errno) => {
                        let (code, errno) = (ErrorCode::System, wire_errno(errno));
                        Event::Failed(Failed { code, errno, operation: None, text: "read" })
                    }
                };
                outbox.push(watch.request, &event);
                *place = None;
            }
        }
    }
}

/// Reads a part of a file and says it.
pub(crate) fn read_file(request: u32, path: &CStr, offset: u64, outbox: &mut Outbox) -> Result<()> {
    let file = open(path, OFlags::RDONLY)?;
    let mut buf = [0; MAX_CONTENTS];
    let (content, more) = read(&file, offset, &mut buf)?;
    outbox.push(request, &Event::Contents(Contents { content, more }));
    Ok(())
}

/// Writes to a file with one call.
pub(crate) fn write_file(path: &CStr, content: &[u8]) -> Result<()> {
    let file = open(path, OFlags::WRONLY)?;
    match rustix::io::write(&file, content)? {
        count if count == content.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Sends a signal to every process in a file of PIDs.
pub(crate) fn signal_group(path: &CStr, signal: u8) -> Result<()> {
    let file = open(path, OFlags::RDONLY)?;
    let mut buf = [0; MAX_CONTENTS];
    let (mut offset, mut number) = (0_u64, None);
    loop {
        let (content, more) = read(&file, offset, &mut buf)?;
        for byte in content {
            if byte.is_ascii_digit() {
                let digit = i32::from(byte - b'0');
                number = number.unwrap_or(0_i32).checked_mul(10).and_then(|tens| tens.checked_add(digit));
            } else if let Some(pid) = number.take().and_then(Pid::from_raw) {
                match sys::signal::send(pid, signal) {
                    // It has just ended.
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        if !more {
            return Ok(());
        }
        offset += u64::try_from(content.len()).unwrap_or(0);
    }
}

/// Opens a file of the agent's own that must not make it wait.
fn open(path: &CStr, access: OFlags) -> Result<OwnedFd> {
    let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Fills `buf` from a file; says whether there is more.
fn read<'b>(file: &OwnedFd, offset: u64, buf: &'b mut [u8]) -> Result<(&'b [u8], bool)> {
    let mut used = 0;
    loop {
        let room = buf.get_mut(used..).unwrap_or_default();
        if room.is_empty() {
            return Ok((buf, true));
        }
        let at = offset.saturating_add(u64::try_from(used).unwrap_or(0));
        match rustix::io::pread(file, room, at) {
            Ok(0) => return Ok((buf.get(..used).unwrap_or_default(), false)),
            Ok(count) => used += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
