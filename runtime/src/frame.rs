//! Messages between processes of ours: a length (u32, little endian), and that many bytes of JSON.

use std::io;

use serde::Serialize;

/// The length that stands before a message.
pub(crate) const LENGTH: usize = size_of::<u32>();

/// A message as it travels, if it is no longer than `max` bytes without its length.
///
/// # Errors
/// It is longer, or is no JSON.
pub(crate) fn frame(message: &impl Serialize, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, message)?;
    let len = bytes.len() - LENGTH;
    let len = u32::try_from(len).ok().filter(|_| len <= max).ok_or(io::ErrorKind::InvalidInput)?;
    bytes[..LENGTH].copy_from_slice(&len.to_le_bytes());
    Ok(bytes)
}
