//! Where inodes go: each with what lies beside it into one block, with little space between them.

use std::collections::BTreeSet;
use std::io;

use super::{BLOCK, Plan, superblock};

/// The root inode's place: behind the superblock, as its number has 16 bits.
const ROOT: usize = superblock::OFFSET + superblock::LENGTH;
/// The least that an inode takes, and what its length is rounded up to.
const SLOT: usize = 32;
/// How many blocks with space are remembered. Few, so that files of one folder stay near each other.
const OPEN: usize = 32;

/// Whether the root's inode may have this length, with what lies beside it.
pub(super) fn root_fits(length: usize) -> bool {
    ROOT + length <= BLOCK
}

/// The position of every inode, in bytes from the image's start.
#[derive(Debug)]
pub(super) struct Places {
    positions: Vec<u64>,
    /// In blocks.
    end: u64,
}

impl Places {
    /// Finds places for `plans`, the root's first, from block `next` on.
    pub(super) fn find(plans: &[Plan], next: u64) -> io::Result<Self> {
        let mut places = Self { positions: Vec::with_capacity(plans.len()), end: next };
        // Free bytes at the end of a block, and the block.
        let mut open: BTreeSet<(usize, u64)> = BTreeSet::new();
        for plan in plans {
            let need = plan.inode + plan.tail;
            if places.positions.is_empty() {
                if !root_fits(need) {
                    return Err(io::Error::other("the root has too many extended attributes"));
                }
                places.positions.push(ROOT as u64);
                continue;
            }
            let need = need.next_multiple_of(SLOT);
            let (free, block) = match open.range((need, 0)..).next().copied() {
                Some(best) => {
                    open.remove(&best);
                    best
                }
                None => places.fresh(need),
            };
            let start = BLOCK - free % BLOCK;
            places.positions.push(block * BLOCK as u64 + (start % BLOCK) as u64);
            let left = (free - need) % BLOCK;
            if left > 0 {
                open.insert((left, places.last_block(block, need)));
                if open.len() > OPEN {
                    open.pop_first();
                }
            }
        }
        Ok(places)
    }

    /// Whole blocks at the end. More than one is taken only by attributes, which may cross from block to block.
    fn fresh(&mut self, need: usize) -> (usize, u64) {
        let block = self.end;
        let blocks = need.div_ceil(BLOCK);
        self.end += blocks as u64;
        (blocks * BLOCK, block)
    }

    /// The block in which what starts in `block` and has `need` bytes ends, if it is longer than a block.
    fn last_block(&self, block: u64, need: usize) -> u64 {
        if need > BLOCK { self.end - 1 } else { block }
    }

    /// The position of the inode with this index.
    pub(super) fn position(&self, index: usize) -> u64 {
        self.positions[index]
    }

    /// The first block behind all inodes.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The indices in the order of their positions.
    pub(super) fn by_position(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.positions.len()).collect();
        order.sort_unstable_by_key(|&index| self.positions[index]);
        order
    }
}
