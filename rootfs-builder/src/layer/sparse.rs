//! The maps of sparse files: which parts of a file are in the archive.

use super::{LayerError, pax};

/// Offset and length of each part of a file that is in the archive.
pub(crate) type Map = Vec<(u64, u64)>;

/// The most parts that a file may have.
pub(super) const MOST: usize = 1 << 16;

/// The parts of a file that are in the archive; the rest is zero.
#[derive(Debug)]
pub(crate) struct Segments {
    /// The whole file, in bytes.
    pub(crate) size: u64,
    /// Offset and length of each part, in the order in which they come.
    pub(crate) list: Map,
}

impl Segments {
    /// A file without holes.
    pub(super) fn whole(size: u64) -> Self {
        Self { size, list: vec![(0, size)] }
    }

    /// Checks that the parts follow each other, lie within the file, and are all that is stored of it.
    pub(super) fn sparse(size: u64, stored: u64, list: Map) -> Result<Self, LayerError> {
        let damaged = LayerError::Damaged("the map of a sparse file is wrong");
        let (mut end, mut total) = (0_u64, 0_u64);
        for &(offset, length) in &list {
            let next = offset.checked_add(length).filter(|&next| offset >= end && next <= size);
            let Some(next) = next else { return Err(damaged) };
            end = next;
            total += length;
        }
        if total != stored || list.len() > MOST { Err(damaged) } else { Ok(Self { size, list }) }
    }
}

/// Offsets and lengths in turn, in pairs.
pub(super) fn pairs(numbers: &[u64]) -> Result<Map, LayerError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|&[offset, length]| (offset, length)).collect())
    } else {
        Err(LayerError::Damaged("the map of a sparse file has an odd number of entries"))
    }
}

/// Reads a map of version 1.0: a number of pairs, then the pairs, each number on a line of its own. `next` gives the next byte.
pub(super) fn read_map(mut next: impl FnMut() -> Result<u8, LayerError>) -> Result<Map, LayerError> {
    let mut number = || {
        let mut digits = Vec::new();
        loop {
            match next()? {
                b'\n' => return pax::unsigned(&digits),
                _ if digits.len() > 20 => {
                    return Err(LayerError::Damaged("the map of a sparse file is wrong"));
                }
                digit => digits.push(digit),
            }
        }
    };
    let count = usize::try_from(number()?).ok().filter(|&count| count <= MOST);
    let count = count.ok_or(LayerError::Damaged("the map of a sparse file is too long"))?;
    (0..count).map(|_| Ok((number()?, number()?))).collect()
}
