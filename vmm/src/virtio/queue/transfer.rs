//! Moves bytes between host descriptors and guest memory, without a copy in between.
//!
//! A [`Vector`] lists pieces of memory for one `readv`-like system call; devices fill it from checked descriptor chains. The
//! calls here take a vector as it is and say how far they came: partial transfers are the caller's to continue, with
//! [`Vector::advance`]. `EINTR` never surfaces.
//!
//! All `unsafe` of the devices' data path is in this file.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;
use smallvec::SmallVec;
use vm_memory::VolatileSlice;

/// The most pieces that one system call takes (`IOV_MAX` of Linux).
const MAX_PIECES: usize = 1024;

/// How much is sent to a socket as one message, in bytes. Linux puts 36544 bytes of what is sent to a Unix socket into one buffer: 32 KiB of
/// pages, and the rest beside its own description, so that what is left of 64 KiB does not fill its pages. Two buffers of 32 KiB
/// take half as many allocations.
const MESSAGE: usize = 32 << 10;
/// The most messages of one call, and the pieces of all of them.
const MESSAGES: usize = 4;
const MESSAGE_PIECES: usize = 32;

/// Pieces of memory, each valid and writable for `'m`.
#[derive(Default)]
pub(crate) struct Vector<'m> {
    /// On the stack as long as they are few, as of most requests.
    pieces: SmallVec<[libc::iovec; 16]>,
    /// How many pieces are used up.
    start: usize,
    /// The bytes of the pieces that are left.
    len: usize,
    memory: PhantomData<VolatileSlice<'m>>,
}

impl<'m> Vector<'m> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The bytes of all pieces together.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.start = 0;
        self.len = 0;
    }

    pub(crate) fn push(&mut self, slice: VolatileSlice<'m>) {
        if slice.is_empty() {
            return;
        }
        self.pieces
            .push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
        self.len += slice.len();
    }

    /// Drops the first `count` bytes, at most all.
    pub(crate) fn advance(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len -= left;
        for piece in &mut self.pieces[self.start..] {
            if left < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(left);
                piece.iov_len -= left;
                return;
            }
            left -= piece.iov_len;
            self.start += 1;
        }
    }

    /// What one system call can take of it.
    fn pieces(&self) -> &[libc::iovec] {
        let rest = &self.pieces[self.start..];
        &rest[..rest.len().min(MAX_PIECES)]
    }

    /// The same for a call that takes the number of pieces as an `int`. It is at most [`MAX_PIECES`].
    fn pieces_and_count(&self) -> (*const libc::iovec, libc::c_int) {
        let pieces = self.pieces();
        (pieces.as_ptr(), libc::c_int::try_from(pieces.len()).unwrap_or(0))
    }

    fn message(&self) -> libc::msghdr {
        // SAFETY: `msghdr` is a plain C structure for which all zeroes mean: no name, no pieces, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        let pieces = self.pieces();
        message.msg_iov = pieces.as_ptr().cast_mut();
        message.msg_iovlen = pieces.len() as _;
        message
    }
}

/// `readv`: 0 is the end of the file, if the vector is not empty.
pub(crate) fn read(fd: BorrowedFd<'_>, into: &Vector<'_>) -> io::Result<usize> {
    let (pieces, count) = into.pieces_and_count();
    // SAFETY: `pieces` are `count` entries, each of memory that stays mapped and writable while the vector is borrowed; that
    // the guest may access the same bytes meanwhile is what volatile memory allows.
    retry(|| unsafe { libc::readv(fd.as_raw_fd(), pieces, count) })
}

/// `writev`. Writing to a pipe that nobody reads is `EPIPE`, where `SIGPIPE` is ignored, as Rust programs have it.
pub(crate) fn write(fd: BorrowedFd<'_>, from: &Vector<'_>) -> io::Result<usize> {
    let (pieces, count) = from.pieces_and_count();
    // SAFETY: as in `read`; the memory is only read.
    retry(|| unsafe { libc::writev(fd.as_raw_fd(), pieces, count) })
}

/// `recvmsg` that does not block.
pub(crate) fn receive(fd: BorrowedFd<'_>, into: &Vector<'_>) -> io::Result<usize> {
    let mut message = into.message();
    // SAFETY: `message` names the pieces of `into`, valid as in `read`, and nothing else.
    retry(|| unsafe {
        libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
    })
}

/// `sendmsg`, or `sendmmsg` for more than one [`MESSAGE`], that neither blocks nor raises `SIGPIPE`. For sockets without bounds of messages.
pub(crate) fn send(fd: BorrowedFd<'_>, from: &Vector<'_>) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let pieces = from.pieces();
    if from.len() <= MESSAGE || pieces.len() + MESSAGES > MESSAGE_PIECES {
        let message = from.message();
        // SAFETY: as in `receive`; the memory is only read.
        return retry(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) });
    }
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MESSAGE_PIECES];
    // SAFETY: as in `message`; no bytes have been sent.
    let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { std::mem::zeroed() };
    let count = cut(pieces, &mut parts, &mut messages);
    // SAFETY: the first `count` messages name entries of `parts`, and these parts of the pieces of `from`, valid as in `read`.
    retry(|| unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags) as isize }).map(
        // The last one may have been sent in part: nothing is after that.
        |sent| messages[..sent].iter().map(|message| message.msg_len as usize).sum(),
    )
}

/// Cuts `pieces` into messages of [`MESSAGE`] bytes, as far as there is room for them; the last one may be shorter. Returns how many.
fn cut(
    pieces: &[libc::iovec],
    parts: &mut [libc::iovec; MESSAGE_PIECES],
    messages: &mut [libc::mmsghdr; MESSAGES],
) -> libc::c_uint {
    let (mut used, mut ends) = (0, [0; MESSAGES]);
    let mut pieces = pieces.iter().copied().peekable();
    for end in &mut ends {
        let mut room = MESSAGE;
        while let Some(piece) = pieces.peek_mut().filter(|_| room > 0 && used < parts.len()) {
            let len = piece.iov_len.min(room);
            parts[used] = libc::iovec { iov_base: piece.iov_base, iov_len: len };
            used += 1;
            room -= len;
            piece.iov_base = piece.iov_base.wrapping_byte_add(len);
            piece.iov_len -= len;
            if piece.iov_len == 0 {
                pieces.next();
            }
        }
        *end = used;
    }
    // All parts are in their places: from here on only the messages lead to them.
    let parts = parts.as_mut_ptr();
    let (mut first, mut count) = (0, 0);
    for (message, end) in messages.iter_mut().zip(ends) {
        if end == first {
            break;
        }
        message.msg_hdr.msg_iov = parts.wrapping_add(first);
        message.msg_hdr.msg_iovlen = (end - first) as _;
        (first, count) = (end, count + 1);
    }
    count
}

/// `preadv2` at `offset` bytes from the start of the file.
pub(crate) fn read_at(fd: BorrowedFd<'_>, into: &Vector<'_>, offset: u64) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    let (pieces, count) = into.pieces_and_count();
    // SAFETY: as in `read`.
    retry(|| unsafe { libc::preadv2(fd.as_raw_fd(), pieces, count, offset, 0) })
}

/// `pwritev2` at `offset` bytes from the start of the file.
pub(crate) fn write_at(fd: BorrowedFd<'_>, from: &Vector<'_>, offset: u64) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    let (pieces, count) = from.pieces_and_count();
    // SAFETY: as in `write`.
    retry(|| unsafe { libc::pwritev2(fd.as_raw_fd(), pieces, count, offset, 0) })
}

/// `pwritev2` at the end of the file, wherever that is by then.
pub(crate) fn append(fd: BorrowedFd<'_>, from: &Vector<'_>) -> io::Result<usize> {
    let (pieces, count) = from.pieces_and_count();
    // SAFETY: as in `write`.
    retry(|| unsafe { libc::pwritev2(fd.as_raw_fd(), pieces, count, 0, libc::RWF_APPEND) })
}

/// Takes what an event descriptor has counted. It is no error if that is nothing.
///
/// This is `preadv2` once more, at no offset, so that who reads files as well needs no other system call.
pub(crate) fn take_event(event: BorrowedFd<'_>) -> io::Result<()> {
    let mut count = [0_u8; 8];
    let piece = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
    // SAFETY: the one piece is `count`, which lives and is not looked at until the call returns.
    match retry(|| unsafe { libc::preadv2(event.as_raw_fd(), &raw const piece, 1, -1, 0) }) {
        Ok(taken) if taken == count.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests;
