//! Frames: a fixed header, then the body.
//!
//! ```text
//! offset  0        4        8      10      12
//!         +--------+--------+------+-------+------ … ------+
//!         | length |   id   | kind |   0   |     body      |
//!         +--------+--------+------+-------+------ … ------+
//!           u32 LE   u32 LE  u16 LE  u16      `length` bytes
//! ```
//!
//! The two zero bytes are ignored by the receiver.

use crate::Error;

/// The length of a frame header, in bytes.
pub const HEADER_LEN: usize = 12;

/// What stands before a frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The length of the body, in bytes.
    pub len: u32,
    /// The request this frame is, or answers; 0 for an event that answers none.
    pub id: u32,
    /// Which message the body is.
    pub kind: u16,
}

impl Header {
    /// The header's bytes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..10].copy_from_slice(&self.kind.to_le_bytes());
        out
    }

    /// Reads a header from its bytes on the wire.
    #[must_use]
    pub fn from_bytes(bytes: [u8; HEADER_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, _, _] = bytes;
        Self {
            len: u32::from_le_bytes([a, b, c, d]),
            id: u32::from_le_bytes([e, f, g, h]),
            kind: u16::from_le_bytes([i, j]),
        }
    }

    /// Writes this header's `id` and `kind` and the body that `serialize` produces into `buf`; returns the frame's length.
    pub(crate) fn write_frame(
        id: u32,
        kind: u16,
        buf: &mut [u8],
        serialize: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let (head, body) = buf.split_at_mut_checked(HEADER_LEN).ok_or(Error::NoRoom)?;
        let used = serialize(body)?;
        let len = u32::try_from(used).map_err(|_| Error::NoRoom)?;
        head.copy_from_slice(&Self { len, id, kind }.to_bytes());
        Ok(HEADER_LEN + used)
    }
}

/// A whole frame, borrowed from the [`Assembler`] that collected it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The request this frame is, or answers; 0 for an event that answers none.
    pub id: u32,
    /// Which message the body is.
    pub kind: u16,
    /// The message.
    pub body: &'a [u8],
}

/// Collects frames from a byte stream in a buffer of fixed size.
///
/// Read from the stream into [`spare`](Self::spare), tell [`filled`](Self::filled) how much came, then take frames with
/// [`next_frame`](Self::next_frame) until it returns `None`. The longest body accepted is the buffer's length less [`HEADER_LEN`];
/// a longer frame is reported once and its bytes are dropped as they arrive.
#[derive(Debug)]
pub struct Assembler<B> {
    buf: B,
    /// Bytes of the frame that was handed out last; they are dropped on the next call.
    consumed: usize,
    /// How much of `buf` holds bytes from the stream.
    end: usize,
    /// How many bytes of a refused frame are still to come.
    skip: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Assembler<B> {
    /// An assembler that collects in `buf`, which must be longer than a header.
    pub fn new(buf: B) -> Self {
        Self { buf, consumed: 0, end: 0, skip: 0 }
    }

    /// The room for the next bytes from the stream. Never empty once [`next_frame`](Self::next_frame) has returned `None`.
    pub fn spare(&mut self) -> &mut [u8] {
        self.compact();
        &mut self.buf.as_mut()[self.end..]
    }

    /// Says that the first `count` bytes of [`spare`](Self::spare) were filled.
    pub fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.buf.as_ref().len());
    }

    /// The next whole frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`Error::TooLong`] for a frame that cannot fit; the stream is then still usable.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        self.compact();
        let room = self.buf.as_ref().len();
        let Some((head, _)) = self.buf.as_ref()[..self.end].split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = Header::from_bytes(*head);
        let frame_len = usize::try_from(header.len).ok().and_then(|len| len.checked_add(HEADER_LEN));
        let Some(frame_len) = frame_len.filter(|len| *len <= room) else {
            self.skip = HEADER_LEN.saturating_add(usize::try_from(header.len).unwrap_or(usize::MAX));
            return Err(Error::TooLong { id: header.id, len: header.len });
        };
        if self.end < frame_len {
            return Ok(None);
        }
        self.consumed = frame_len;
        Ok(Some(Frame { id: header.id, kind: header.kind, body: &self.buf.as_ref()[HEADER_LEN..frame_len] }))
    }

    /// Drops what was handed out or refused, and moves the rest to the front.
    fn compact(&mut self) {
        let skipped = self.skip.min(self.end.saturating_sub(self.consumed));
        self.skip -= skipped;
        let drop = self.consumed + skipped;
        if drop > 0 {
            self.buf.as_mut().copy_within(drop..self.end, 0);
            self.end -= drop;
            self.consumed = 0;
        }
    }
}
