//! One queue as a device sees it: take a checked descriptor chain, give it back.
//!
//! Everything in a ring is written by the guest. A [`Chain`] exists only after every descriptor of it was checked: the
//! readable part comes before the writable part (VIRTIO 1.2, 2.7.4.2), every byte lies in guest memory, the chain
//! ends. Devices touch nothing before that.

use std::num::Wrapping;

use virtio_queue::{Queue, QueueOwnedT, desc::split::Descriptor};
use vm_memory::{Address, GuestAddress, VolatileSlice};

use crate::Memory;

mod ring;
pub(super) mod transfer;

use transfer::Vector;

/// What a driver did wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rings themselves cannot be used.
    #[error("ring is not usable")]
    Ring(#[source] virtio_queue::Error),
    /// One of the rings does not lie in guest memory as a whole.
    #[error("ring reaches outside of guest memory")]
    NoRing,
    /// A chain has a cycle, is longer than the queue, or has an index out of range or an indirect table where none may be.
    #[error("descriptor chain {0} does not end")]
    Unterminated(u16),
    /// A descriptor does not lie in guest memory.
    #[error("descriptor chain {head} reaches outside of guest memory at {address:#x}, {len} bytes")]
    OutOfMemory {
        /// The chain's head index.
        head: u16,
        /// Where the descriptor points, a guest-physical address.
        address: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// A readable descriptor follows a writable one.
    #[error("descriptor chain {0} has a readable part after a writable one")]
    Order(u16),
    /// A chain is too short, too long, or of the wrong direction for what the device does with it.
    #[error("descriptor chain {0} has the wrong size or direction")]
    Shape(u16),
}

/// A piece of guest memory that was checked to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    address: GuestAddress,
    len: usize,
}

/// Pieces of guest memory, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Segments {
    parts: Vec<Segment>,
    len: usize,
}

impl Segments {
    /// The length of all pieces together, in bytes. Less than 4 GiB.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is not one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Calls `visit` with the host's view of each piece of the bytes from `offset` on, at most `limit` bytes.
    fn each_slice<'m>(
        &self,
        memory: &'m Memory,
        offset: usize,
        limit: usize,
        mut visit: impl FnMut(VolatileSlice<'m>),
    ) {
        let (mut skip, mut left) = (offset, limit);
        for part in &self.parts {
            if left == 0 {
                break;
            }
            if skip >= part.len {
                skip -= part.len;
                continue;
            }
            let len = (part.len - skip).min(left);
            // Both cannot fail: the whole part was found in one region when the chain was taken, and regions never go.
            if let Some(address) = part.address.checked_add(skip as u64)
                && let Some(slice) = ring::slice(memory, address, len)
            {
                visit(slice);
            }
            left -= len;
            skip = 0;
        }
    }

    /// Appends the bytes from `offset` on, at most `limit` of them, to `vector`.
    pub(crate) fn gather<'m>(
        &self,
        memory: &'m Memory,
        offset: usize,
        limit: usize,
        vector: &mut Vector<'m>,
    ) {
        self.each_slice(memory, offset, limit, |slice| vector.push(slice));
    }

    /// Copies bytes from `offset` on to `out`; returns how many there were.
    pub fn read(&self, memory: &Memory, offset: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        self.each_slice(memory, offset, out.len(), |slice| done += slice.copy_to(&mut out[done..]));
        done
    }

    /// Copies `data` to the bytes from `offset` on; returns how many found room.
    pub fn write(&self, memory: &Memory, offset: usize, data: &[u8]) -> usize {
        let mut done = 0;
        self.each_slice(memory, offset, data.len(), |slice| {
            let len = slice.len().min(data.len() - done);
            slice.copy_from(&data[done..done + len]);
            done += len;
        });
        done
    }

    fn push(&mut self, address: GuestAddress, len: usize) {
        self.parts.push(Segment { address, len });
        self.len += len;
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.len = 0;
    }
}

/// A descriptor chain, checked whole. Reused from one chain to the next, so that the steady path allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    /// What the driver wrote for the device.
    pub readable: Segments,
    /// Where the device may write.
    pub writable: Segments,
    head: u16,
}

impl Chain {
    /// The index of the chain's first descriptor, its name in the ring.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }
}

/// A queue and the memory it lives in, for as long as a device works on it.
#[derive(Debug)]
pub struct VirtQueue<'a> {
    queue: &'a mut Queue,
    memory: &'a Memory,
    /// How many chains were given back.
    used: Wrapping<u16>,
}

impl<'a> VirtQueue<'a> {
    /// Lets a device work on `queue`.
    pub fn new(queue: &'a mut Queue, memory: &'a Memory) -> Self {
        Self { queue, memory, used: Wrapping(0) }
    }

    /// The memory that chains of this queue lie in.
    #[must_use]
    pub fn memory(&self) -> &'a Memory {
        self.memory
    }

    /// Takes the next available chain into `chain`. `false` if there is none.
    ///
    /// # Errors
    /// The driver broke the rules; the queue must not be used again before a reset.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, Error> {
        let Some(head) = ring::next_head(self.queue, self.memory)? else { return Ok(false) };
        chain.readable.clear();
        chain.writable.clear();
        chain.head = head;
        ring::chain(self.queue, self.memory, head, |descriptor| {
            push_checked(chain, descriptor, self.memory)
        })?;
        Ok(true)
    }

    /// Puts the chain that was taken last back, to be taken again. Called once for each of the chains taken last that were
    /// not given back.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the driver; the device wrote the first `written` bytes of its writable part.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn push_used(&mut self, chain: &Chain, written: usize) -> Result<(), Error> {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        ring::give_back(self.queue, self.memory, chain.head, written)?;
        self.used += 1;
        Ok(())
    }

    /// Asks the driver to notify again. `true` if chains arrived meanwhile: take them first.
    ///
    /// # Errors
    /// The rings cannot be accessed.
    pub fn enable_notification(&mut self) -> Result<bool, Error> {
        ring::ask_to_be_told(self.queue, self.memory)
    }

    /// Tells the driver that it need not notify.
    ///
    /// # Errors
    /// The rings cannot be accessed.
    pub fn disable_notification(&mut self) -> Result<(), Error> {
        ring::ask_not_to_be_told(self.queue, self.memory)
    }

    /// Whether the driver wants an interrupt for what was given back since this view was made.
    ///
    /// # Errors
    /// The rings cannot be accessed.
    pub fn needs_interrupt(&mut self) -> Result<bool, Error> {
        let used = std::mem::take(&mut self.used);
        Ok(used != Wrapping(0) && ring::is_to_be_told(self.queue, self.memory, used)?)
    }
}

fn push_checked(chain: &mut Chain, descriptor: Descriptor, memory: &Memory) -> Result<(), Error> {
    let (address, len) = (descriptor.addr(), descriptor.len());
    let out_of_memory = || Error::OutOfMemory { head: chain.head, address: address.raw_value(), len };
    let bytes = usize::try_from(len).map_err(|_| out_of_memory())?;
    // One region must hold the whole descriptor: `get_slice` refuses ends, holes and wrap-around.
    ring::slice(memory, address, bytes).ok_or_else(out_of_memory)?;
    if descriptor.is_write_only() {
        chain.writable.push(address, bytes);
    } else if chain.writable.parts.is_empty() {
        chain.readable.push(address, bytes);
    } else {
        return Err(Error::Order(chain.head));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
