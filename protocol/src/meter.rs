//! What `mote bench io` and the meter, a small program in the guest, say to each other.
//!
//! The host sends a [`Task`], the meter carries it out, and the host sends the next one. All numbers are little endian. There is
//! one stream each way: a vsock stream, or the standard streams of a command.

/// The vsock port on the host that a meter connects to when it is a guest's `/init`.
pub const PORT: u32 = 1024;

/// The most bytes that one call of the meter's moves.
pub const MAX_CALL: usize = 1 << 20;

/// The most calls of a task whose calls are timed one by one.
pub const MAX_SAMPLES: usize = 16384;

/// The length of a [`Task`] on the wire.
pub const TASK_LEN: usize = 16;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Write `count` bytes in calls of `call` bytes, wait for one byte of the host's, answer with the nanoseconds (u64) between
    /// the first call and that byte.
    Send {
        /// Bytes a call.
        call: u32,
        /// Bytes in all.
        count: u64,
    },
    /// Read `count` bytes in calls of up to `call` bytes, answer with the nanoseconds (u64) from the end of the first call to the
    /// end of the last.
    Receive {
        /// Bytes a call, at most.
        call: u32,
        /// Bytes in all.
        count: u64,
    },
    /// `count` times: write one byte, wait for one byte. Answer with the nanoseconds of each (u32).
    Ping {
        /// Round trips.
        count: u64,
    },
    /// `count` times: wait for one byte, write it back. No answer.
    Echo {
        /// Round trips.
        count: u64,
    },
    /// Read the first disk in `count` calls of `call` bytes. Answer with the error number (u32); if that is 0, with the
    /// nanoseconds of all calls (u64) and of each (u32).
    Read {
        /// Bytes a call; a power of two.
        call: u32,
        /// Calls.
        count: u64,
        /// In order from the start, or from places without an order.
        order: Order,
        /// Past the guest's page cache (`O_DIRECT`).
        direct: bool,
    },
}

/// In which order a disk is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the start on.
    Sequential,
    /// Multiples of the call's length, as a fixed sequence of pseudo-random numbers has them.
    Random,
}

const DIRECT: u16 = 1;
const RANDOM: u16 = 2;

impl Task {
    /// As it goes over the wire: kind (u16), flags (u16), bytes a call (u32), count (u64).
    #[must_use]
    pub fn to_bytes(self) -> [u8; TASK_LEN] {
        let (kind, flags, call, count): (u16, u16, u32, u64) = match self {
            Self::Send { call, count } => (1, 0, call, count),
            Self::Receive { call, count } => (2, 0, call, count),
            Self::Ping { count } => (3, 0, 1, count),
            Self::Echo { count } => (4, 0, 1, count),
            Self::Read { call, count, order, direct } => {
                let random = if order == Order::Random { RANDOM } else { 0 };
                (5, random | if direct { DIRECT } else { 0 }, call, count)
            }
        };
        let mut bytes = [0; TASK_LEN];
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&call.to_le_bytes());
        bytes[8..16].copy_from_slice(&count.to_le_bytes());
        bytes
    }

    /// The task that `bytes` describe, if it is one that a meter can carry out.
    #[must_use]
    pub fn from_bytes(bytes: [u8; TASK_LEN]) -> Option<Self> {
        let [k0, k1, f0, f1, a, b, c, d, count @ ..] = bytes;
        let (kind, flags) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([f0, f1]));
        let (call, count) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(count));
        let fits = (1..=MAX_CALL).contains(&usize::try_from(call).ok()?);
        let timed = usize::try_from(count).is_ok_and(|count| count <= MAX_SAMPLES);
        match kind {
            1 if fits => Some(Self::Send { call, count }),
            2 if fits => Some(Self::Receive { call, count }),
            3 if timed => Some(Self::Ping { count }),
            4 => Some(Self::Echo { count }),
            5 if fits && timed && call.is_power_of_two() => {
                let order = if flags & RANDOM == 0 { Order::Sequential } else { Order::Random };
                Some(Self::Read { call, count, order, direct: flags & DIRECT != 0 })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_travel() {
        for task in [
            Task::Send { call: 65536, count: 1 << 26 },
            Task::Receive { call: 1, count: 0 },
            Task::Ping { count: 16384 },
            Task::Echo { count: u64::MAX },
            Task::Read { call: 4096, count: 7, order: Order::Random, direct: true },
            Task::Read { call: 65536, count: 7, order: Order::Sequential, direct: false },
        ] {
            assert_eq!(Task::from_bytes(task.to_bytes()), Some(task));
        }
    }

    #[test]
    fn what_a_meter_cannot_do_is_refused() {
        for task in [
            Task::Send { call: 0, count: 1 },
            Task::Receive { call: (1 << 20) + 1, count: 1 },
            Task::Ping { count: 16385 },
            Task::Read { call: 3000, count: 1, order: Order::Random, direct: true },
        ] {
            assert_eq!(Task::from_bytes(task.to_bytes()), None, "{task:?}");
        }
        assert_eq!(Task::from_bytes([0xff; TASK_LEN]), None);
    }
}
