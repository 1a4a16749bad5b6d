//! Reads in a thread of its own, a few chunks ahead: a layer is unpacked while what came of it before is written.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

/// The bytes that are passed on at a time.
const CHUNK: usize = 256 * 1024;
/// How many chunks may lie between the two threads.
const DEPTH: usize = 4;

/// What `source` gives, read in a thread of `scope`, which ends when the result is dropped.
pub(crate) fn through_thread<'scope>(
    scope: &'scope Scope<'scope, '_>,
    source: impl Read + Send + 'scope,
) -> impl Read + 'scope {
    let (full, full_chunks) = sync_channel(DEPTH);
    let (empty, empty_chunks) = sync_channel(DEPTH + 2);
    scope.spawn(move || pump(source, &full, &empty_chunks));
    Piped { chunks: full_chunks, empty, chunk: Vec::new(), at: 0 }
}

/// Passes on chunks until the end, an error, or nobody wants more.
fn pump(mut source: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.clear();
        let read = source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let is_last = !matches!(read, Ok(length) if length > 0);
        let message = match read {
            // What came before an error counts, as it does without a thread.
            Err(error) if chunk.is_empty() => Err(error),
            Err(error) => {
                if full.send(Ok(chunk)).is_err() {
                    return;
                }
                Err(error)
            }
            Ok(_) => Ok(chunk),
        };
        if full.send(message).is_err() || is_last {
            return;
        }
    }
}

struct Piped {
    chunks: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Piped {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            // The thread has said so before it ended: an empty chunk is the end.
            let Ok(next) = self.chunks.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.chunk, next?);
            // The thread may have ended.
            let _ = self.empty.try_send(used);
            self.at = 0;
        }
        let ready = self.chunk.get(self.at..).unwrap_or_default();
        let length = ready.len().min(bytes.len());
        if let (Some(to), Some(from)) = (bytes.get_mut(..length), ready.get(..length)) {
            to.copy_from_slice(from);
        }
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_through_in_order() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
        let mut got = Vec::new();
        std::thread::scope(|scope| through_thread(scope, &bytes[..]).read_to_end(&mut got)).unwrap();
        assert_eq!(got, bytes);
    }

    #[test]
    fn an_error_comes_after_what_was_before_it() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let mut got = Vec::new();
        let source = (&b"before"[..]).chain(Fails);
        let result = std::thread::scope(|scope| through_thread(scope, source).read_to_end(&mut got));
        assert_eq!((got.as_slice(), result.unwrap_err().to_string()), (&b"before"[..], "broken".into()));
    }

    #[test]
    fn the_thread_ends_when_nobody_reads_on() {
        std::thread::scope(|scope| {
            let mut piped = through_thread(scope, io::repeat(7));
            piped.read_exact(&mut [0; 10]).unwrap();
        });
    }
}
