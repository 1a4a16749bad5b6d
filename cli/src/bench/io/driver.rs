//! The host's end of the conversation with the meter: gives tasks, takes times on this side, hears those of the other.

use std::{
    io::{self, Read, Write},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use mote_protocol::meter::{Order, Task};

use crate::bench::stats::nanoseconds;

/// A meter, over whatever leads to it.
pub(in crate::bench) struct Driver<R, W> {
    from_guest: R,
    to_guest: W,
    buffer: Vec<u8>,
}

/// A transfer, as both sides saw it. Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) guest_ns: u64,
    pub(super) host_ns: u64,
}

/// Reads from a disk, as the guest saw them. Nanoseconds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reads {
    pub(super) total_ns: u64,
    pub(super) each_ns: Vec<u64>,
}

impl<R: Read, W: Write> Driver<R, W> {
    /// Drives the meter that writes what is read from `from_guest`, and reads what is written to `to_guest`, in calls of `call` bytes.
    pub(in crate::bench) fn new(from_guest: R, to_guest: W, call: u32) -> anyhow::Result<Self> {
        Ok(Self { from_guest, to_guest, buffer: vec![0x5a; usize::try_from(call)?] })
    }

    fn call(&self) -> anyhow::Result<u32> {
        Ok(u32::try_from(self.buffer.len())?)
    }

    fn order(&mut self, task: Task) -> io::Result<()> {
        self.to_guest.write_all(&task.to_bytes())
    }

    fn answer(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.from_guest.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn samples(&mut self, count: u64) -> anyhow::Result<Vec<u64>> {
        let mut bytes = vec![0; usize::try_from(count)? * 4];
        self.from_guest.read_exact(&mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|sample| u32::from_le_bytes(*sample).into()).collect())
    }

    /// The guest's clock runs from its first call until it knows that the host has every byte; the host's from the order until
    /// the last byte.
    pub(super) fn guest_to_host(&mut self, bytes: u64) -> anyhow::Result<Transfer> {
        let start = Instant::now();
        self.order(Task::Send { call: self.call()?, count: bytes })?;
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = match self.from_guest.read(&mut self.buffer[..most]) {
                Ok(0) => bail!("the stream ended {left} bytes early"),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            left -= count as u64;
        }
        let host_ns = nanoseconds(start);
        self.to_guest.write_all(&[1])?;
        Ok(Transfer { guest_ns: self.answer()?, host_ns })
    }

    /// The host's clock runs from the order until the guest says that it has every byte; the guest's from the end of its first
    /// call until the end of its last.
    pub(super) fn host_to_guest(&mut self, bytes: u64) -> anyhow::Result<Transfer> {
        let start = Instant::now();
        self.order(Task::Receive { call: self.call()?, count: bytes })?;
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            self.to_guest.write_all(&self.buffer[..most])?;
            left -= most as u64;
        }
        let guest_ns = self.answer()?;
        Ok(Transfer { guest_ns, host_ns: nanoseconds(start) })
    }

    /// One byte there and back, on the guest's clock.
    pub(super) fn round_trips_of_guest(&mut self, count: u64) -> anyhow::Result<Vec<u64>> {
        self.order(Task::Ping { count })?;
        let mut byte = [0];
        for _ in 0..count {
            self.from_guest.read_exact(&mut byte)?;
            self.to_guest.write_all(&byte)?;
        }
        self.samples(count)
    }

    /// One byte there and back, on the host's clock.
    pub(in crate::bench) fn round_trips_of_host(&mut self, count: u64) -> anyhow::Result<Vec<u64>> {
        self.order(Task::Echo { count })?;
        let mut samples = Vec::new();
        let mut byte = [1];
        for _ in 0..count {
            let start = Instant::now();
            self.to_guest.write_all(&byte)?;
            self.from_guest.read_exact(&mut byte)?;
            samples.push(nanoseconds(start));
        }
        Ok(samples)
    }

    /// Has the guest read its disk in `count` calls of `call` bytes.
    pub(super) fn read_disk(
        &mut self,
        call: u32,
        count: u64,
        order: Order,
        direct: bool,
    ) -> anyhow::Result<Reads> {
        self.order(Task::Read { call, count, order, direct })?;
        let mut errno = [0; 4];
        self.from_guest.read_exact(&mut errno)?;
        let errno = i32::from_le_bytes(errno);
        ensure!(errno == 0, "the guest cannot read its disk: {}", nix::errno::Errno::from_raw(errno).desc());
        let total_ns = self.answer().context("no times of the disk")?;
        Ok(Reads { total_ns, each_ns: self.samples(count)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meter that answers from a script.
    fn with_answers(answers: &[u8]) -> Driver<&[u8], Vec<u8>> {
        Driver::new(answers, Vec::new(), 4096).unwrap()
    }

    #[test]
    fn a_transfer_to_the_host_is_acknowledged_when_it_is_complete() {
        let answers = [vec![0; 10_000], 77_u64.to_le_bytes().to_vec()].concat();
        let mut driver = with_answers(&answers);
        assert_eq!(driver.guest_to_host(10_000).unwrap().guest_ns, 77);
        let task = Task::Send { call: 4096, count: 10_000 }.to_bytes();
        assert_eq!(driver.to_guest, [&task[..], &[1]].concat());
        assert!(driver.from_guest.is_empty());
        let error = with_answers(&[0; 9_999]).guest_to_host(10_000).unwrap_err();
        assert!(error.to_string().contains("1 bytes early"), "{error}");
    }

    #[test]
    fn a_transfer_to_the_guest_has_as_many_bytes_as_were_ordered() {
        let answer = 5_u64.to_le_bytes();
        let mut driver = with_answers(&answer);
        assert_eq!(driver.host_to_guest(10_000).unwrap().guest_ns, 5);
        assert_eq!(driver.to_guest.len(), mote_protocol::meter::TASK_LEN + 10_000);
    }

    #[test]
    fn errors_of_the_disk_are_told() {
        let errno = 22_i32.to_le_bytes();
        let error = with_answers(&errno).read_disk(4096, 1, Order::Random, true).unwrap_err();
        assert!(error.to_string().contains("Invalid argument"), "{error}");
        let mut answers = [0, 0, 0, 0].to_vec();
        answers.extend(9_u64.to_le_bytes());
        answers.extend([4_u32, 5].iter().flat_map(|sample| sample.to_le_bytes()));
        let reads = with_answers(&answers).read_disk(4096, 2, Order::Sequential, false).unwrap();
        assert_eq!(reads, Reads { total_ns: 9, each_ns: vec![4, 5] });
    }
}
