//! Reads archives entry by entry. Each part that is held in memory has a limit, which the readers of crate `tar` lack: a name or an
//! extended header of many GiB would be read as a whole there.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::header::{BLOCK, Header, sparse_pairs};
use super::pax::{self, Extensions};
use super::sparse::{self, Segments};
use super::{LONGEST_PATH, LayerError};
use crate::erofs;
use crate::tree::Metadata;

/// One entry, with everything that extended headers say about it.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    /// The target of a link of either kind.
    pub(crate) link: Vec<u8>,
    pub(crate) what: What,
    pub(crate) metadata: Metadata,
}

/// What an entry is.
#[derive(Debug)]
pub(crate) enum What {
    File(Segments),
    /// A hard link.
    Link,
    Symlink,
    Folder,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// What archives are read from.
pub(crate) trait Input: Read {
    /// Goes on behind the next `length` bytes, which must be there.
    fn skip(&mut self, length: u64) -> Result<(), LayerError>;
}

/// A stream: what is skipped is read.
pub(crate) struct Stream<R>(pub(crate) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl<R: Read> Input for Stream<R> {
    fn skip(&mut self, length: u64) -> Result<(), LayerError> {
        let skipped =
            io::copy(&mut self.0.by_ref().take(length), &mut io::sink()).map_err(LayerError::Read)?;
        if skipped == length { Ok(()) } else { Err(LayerError::Truncated) }
    }
}

/// Reads one archive.
pub(crate) struct Reader<R> {
    source: R,
    /// Data of the current entry that nobody has read yet, in bytes.
    left: u64,
    /// What fills up the last block of that data.
    padding: u64,
}

impl<R: Input> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0 }
    }

    /// What is left, once the end was reached.
    pub(super) fn into_source(self) -> R {
        self.source
    }

    /// What the archive is read from: it stands at the current entry's data.
    pub(crate) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next entry; its data comes through [`Reader::read_exact`]. `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.size()?;
            match header.kind() {
                b'x' => {
                    let records = self.collect(size, pax::LONGEST)?;
                    extensions.parse(&records)?;
                }
                // Nothing that a layer's global header says is about one file.
                b'g' => self.start(size),
                b'L' => extensions.path = Some(self.name(size)?),
                b'K' => extensions.link = Some(self.name(size)?),
                _ => return self.item(&header, extensions, size).map(Some),
            }
        }
    }

    /// Reads data of the current entry.
    pub(super) fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), LayerError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(LayerError::Truncated)?;
        read_exact(&mut self.source, bytes)
    }

    fn start(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Reads what is left of the current entry.
    fn skip(&mut self) -> Result<(), LayerError> {
        let left = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        if left > 0 { self.source.skip(left) } else { Ok(()) }
    }

    /// The next header; `None` at the mark of the end, or where the archive just ends, as some programs leave the mark out.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let mut bytes = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(LayerError::Truncated),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
        let header = Header(bytes);
        if header.is_end() {
            return Ok(None);
        }
        header.check()?;
        Ok(Some(header))
    }

    /// The whole data of an entry.
    fn collect(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, LayerError> {
        let length = usize::try_from(size).ok().filter(|_| size <= limit);
        let length = length.ok_or(LayerError::Damaged("an extended header is too long"))?;
        self.start(size);
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// GNU's way to say a long name: as the data of an entry before it.
    fn name(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        let mut name = self.collect(size, LONGEST_PATH as u64 + BLOCK as u64)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn item(&mut self, header: &Header, mut extensions: Extensions, size: u64) -> Result<Item, LayerError> {
        let size = extensions.size.unwrap_or(size);
        let path = extensions.path.take().unwrap_or_else(|| header.path());
        let what = match header.kind() {
            b'0' | b'\0' if path.ends_with(b"/") => {
                self.start(size);
                What::Folder
            }
            b'0' | b'\0' | b'7' | b'S' => {
                self.start(size);
                What::File(self.segments(header, &extensions.sparse, size)?)
            }
            // These have no data, whatever their size field says.
            b'1' => What::Link,
            b'2' => What::Symlink,
            b'3' => header.device().map(|(major, minor)| What::CharDevice(major, minor))?,
            b'4' => header.device().map(|(major, minor)| What::BlockDevice(major, minor))?,
            b'5' => What::Folder,
            b'6' => What::Fifo,
            _ => return Err(LayerError::Damaged("an entry is of no known kind")),
        };
        let link = match extensions.link.take() {
            Some(link) => link,
            None => header.link(),
        };
        let metadata = metadata(header, extensions)?;
        Ok(Item { path, link, what, metadata })
    }

    fn segments(&mut self, header: &Header, pax: &pax::Sparse, size: u64) -> Result<Segments, LayerError> {
        if header.kind() == b'S' {
            let (mut list, mut more, real_size) = header.sparse()?;
            // The rest of the map stands between the header and the data.
            while more {
                let mut block = [0; BLOCK];
                read_exact(&mut self.source, &mut block)?;
                list.extend(sparse_pairs(&block[..504])?);
                more = block[504] != 0;
                if list.len() > sparse::MOST {
                    return Err(LayerError::Damaged("the map of a sparse file is too long"));
                }
            }
            return Segments::sparse(real_size, size, list);
        }
        if !pax.is_sparse {
            return Ok(Segments::whole(size));
        }
        let real_size = pax.real_size.ok_or(LayerError::Damaged("a sparse file does not say its size"))?;
        let list = if pax.major == Some(1) {
            let mut taken = 0_u64;
            let list = sparse::read_map(|| {
                let mut byte = [0];
                taken += 1;
                self.read_exact(&mut byte)?;
                Ok(byte[0])
            })?;
            let mut fill = [0; BLOCK];
            let padding = usize::try_from(taken.wrapping_neg() % BLOCK as u64).unwrap_or(0);
            self.read_exact(&mut fill[..padding])?;
            list
        } else {
            sparse::pairs(&pax.map)?
        };
        Segments::sparse(real_size, self.left, list)
    }
}

fn metadata(header: &Header, extensions: Extensions) -> Result<Metadata, LayerError> {
    let id = |said: Option<i64>, field: Result<i64, LayerError>| {
        let id = match said {
            Some(id) => id,
            None => field?,
        };
        u32::try_from(id).map_err(|_| LayerError::Damaged("an owner's number is out of range"))
    };
    let (mtime, mtime_nsec) = match extensions.mtime {
        Some(time) => time,
        None => (header.mtime()?, 0),
    };
    // The last record of a name counts.
    let attributes: BTreeMap<_, _> =
        extensions.attributes.into_iter().filter(|(name, value)| erofs::is_attribute(name, value)).collect();
    let attributes = attributes.into_iter().collect();
    if !erofs::fit(&attributes) {
        return Err(LayerError::Damaged("a file has too many extended attributes"));
    }
    Ok(Metadata {
        mode: header.mode()?,
        uid: id(extensions.uid, header.uid())?,
        gid: id(extensions.gid, header.gid())?,
        mtime,
        mtime_nsec,
        attributes,
    })
}

fn read_exact(source: &mut impl Read, bytes: &mut [u8]) -> Result<(), LayerError> {
    source.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LayerError::Truncated,
        _ => LayerError::Read(error),
    })
}
