//! The guest's end of `mote bench io`: carries out the host's tasks and times them. See [`mote_protocol::meter`].
//!
//! Not a part of the agent: `meter/main.rs` is a program of its own. It is a guest's `/init` where devices are measured alone,
//! and a command like any other where everything is measured that stands between two pipes.
//!
//! Times are taken with plain system calls, two a sample: well below a microsecond, where the shortest sample is some tens.

use mote_protocol::meter::{MAX_CALL, MAX_SAMPLES, Order, TASK_LEN, Task};
use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{Mode, OFlags, SeekFrom},
    io::{Errno, Result},
};

use crate::sys::clock::monotonic_ns;

/// The disk that is measured.
const DISK: &core::ffi::CStr = c"/dev/vda";

/// The room that a meter works in.
pub struct Room<'a> {
    /// What is written, and where bytes are read to. Aligned as `O_DIRECT` wants it.
    pub buffer: &'a mut [u8; MAX_CALL],
    /// Nanoseconds of single calls.
    pub samples: &'a mut [u32; MAX_SAMPLES],
}

/// Carries out tasks until the host sends no more.
///
/// # Errors
/// Those of reading and writing the streams; `EBADMSG` for a task that is none.
pub fn serve(input: BorrowedFd<'_>, output: BorrowedFd<'_>, room: &mut Room<'_>) -> Result<()> {
    // Touched now, so that no sample pays for it.
    room.buffer.fill(0x5a);
    room.samples.fill(1);
    loop {
        let mut task = [0; TASK_LEN];
        match read_all(input, &mut task) {
            Ok(()) => {}
            Err(Errno::PIPE) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        match Task::from_bytes(task).ok_or(Errno::BADMSG)? {
            Task::Send { call, count } => send(input, output, part(room.buffer, call), count)?,
            Task::Receive { call, count } => receive(input, output, part(room.buffer, call), count)?,
            Task::Ping { count } => ping(input, output, samples(room.samples, count))?,
            Task::Echo { count } => echo(input, output, count)?,
            Task::Read { call, count, order, direct } => {
                let samples = samples(room.samples, count);
                match read_disk(part(room.buffer, call), samples, order, direct) {
                    Ok(elapsed) => {
                        write_all(output, &[0; 4])?;
                        write_all(output, &elapsed.to_le_bytes())?;
                        write_samples(output, samples)?;
                    }
                    Err(errno) => write_all(output, &errno.raw_os_error().to_le_bytes())?,
                }
            }
        }
    }
}

fn part(buffer: &mut [u8; MAX_CALL], call: u32) -> &mut [u8] {
    let len = usize::try_from(call).unwrap_or(MAX_CALL).min(MAX_CALL);
    buffer.get_mut(..len).unwrap_or_default()
}

fn samples(samples: &mut [u32; MAX_SAMPLES], count: u64) -> &mut [u32] {
    let len = usize::try_from(count).unwrap_or(MAX_SAMPLES).min(MAX_SAMPLES);
    samples.get_mut(..len).unwrap_or_default()
}

fn send(input: BorrowedFd<'_>, output: BorrowedFd<'_>, buffer: &[u8], count: u64) -> Result<()> {
    let start = monotonic_ns();
    let mut left = count;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        let written = rustix::io::write(output, buffer.get(..len).unwrap_or_default())?;
        left = left.saturating_sub(u64::try_from(written).unwrap_or(0));
    }
    read_all(input, &mut [0])?;
    let elapsed = monotonic_ns().saturating_sub(start);
    write_all(output, &elapsed.to_le_bytes())
}

fn receive(input: BorrowedFd<'_>, output: BorrowedFd<'_>, buffer: &mut [u8], count: u64) -> Result<()> {
    let mut start = None;
    let mut left = count;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        match rustix::io::read(input, buffer.get_mut(..len).unwrap_or_default())? {
            0 => return Err(Errno::PIPE),
            read => left = left.saturating_sub(u64::try_from(read).unwrap_or(0)),
        }
        start.get_or_insert_with(monotonic_ns);
    }
    let end = monotonic_ns();
    write_all(output, &end.saturating_sub(start.unwrap_or(end)).to_le_bytes())
}

fn ping(input: BorrowedFd<'_>, output: BorrowedFd<'_>, samples: &mut [u32]) -> Result<()> {
    for sample in &mut *samples {
        let start = monotonic_ns();
        write_all(output, &[1])?;
        read_all(input, &mut [0])?;
        *sample = since(start, monotonic_ns());
    }
    write_samples(output, samples)
}

fn echo(input: BorrowedFd<'_>, output: BorrowedFd<'_>, count: u64) -> Result<()> {
    let mut byte = [0];
    for _ in 0..count {
        read_all(input, &mut byte)?;
        write_all(output, &byte)?;
    }
    Ok(())
}

/// Fills `samples` with the nanoseconds of one call each; returns those of all.
fn read_disk(buffer: &mut [u8], samples: &mut [u32], order: Order, direct: bool) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | if direct { OFlags::DIRECT } else { OFlags::empty() };
    let disk = rustix::fs::open(DISK, flags, Mode::empty())?;
    let size = rustix::fs::seek(&disk, SeekFrom::End(0))?;
    let call = u64::try_from(buffer.len()).map_err(|_| Errno::INVAL)?;
    let calls = size.checked_div(call).filter(|calls| *calls > 0).ok_or(Errno::NXIO)?;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let start = monotonic_ns();
    let mut before = start;
    for (index, sample) in (0_u64..).zip(&mut *samples) {
        let number = match order {
            Order::Sequential => index,
            Order::Random => {
                // xorshift64: every run reads the same places.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            }
        };
        let offset = (number % calls) * call;
        if rustix::io::pread(disk.as_fd(), &mut *buffer, offset)? != buffer.len() {
            return Err(Errno::IO);
        }
        let now = monotonic_ns();
        *sample = since(before, now);
        before = now;
    }
    Ok(before.saturating_sub(start))
}

fn since(start: u64, end: u64) -> u32 {
    u32::try_from(end.saturating_sub(start)).unwrap_or(u32::MAX)
}

fn write_samples(output: BorrowedFd<'_>, samples: &[u32]) -> Result<()> {
    let mut bytes = [0; 4096];
    for chunk in samples.chunks(bytes.len() / 4) {
        let mut used = 0;
        for (place, sample) in bytes.chunks_exact_mut(4).zip(chunk) {
            place.copy_from_slice(&sample.to_le_bytes());
            used += 4;
        }
        write_all(output, bytes.get(..used).unwrap_or_default())?;
    }
    Ok(())
}

/// `EPIPE` if the stream ends before.
fn read_all(input: BorrowedFd<'_>, mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        match rustix::io::read(input, &mut *buffer) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(count) => buffer = buffer.get_mut(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn write_all(output: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(output, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
