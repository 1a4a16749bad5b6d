//! Takes the compression off a layer: gzip, zstd or none. Which, is told by the first bytes; what a manifest says is only said.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd frame that is no data starts with one of 16 numbers, of which these are the last three bytes. Some programs put one first.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// The bytes that are read from a file at a time.
const CHUNK: usize = 256 * 1024;

/// How a blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// The compression of a blob that starts with `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(&GZIP) {
            Self::Gzip
        } else if bytes.starts_with(&ZSTD)
            || (bytes.first().is_some_and(|first| first & 0xf0 == 0x50)
                && bytes.get(1..4) == Some(&ZSTD_SKIPPABLE))
        {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// The content of `source` without its compression.
pub(crate) fn reader<'r>(source: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
    let mut source = BufReader::with_capacity(CHUNK, source);
    Ok(match Compression::of(source.fill_buf()?) {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(Zstd::new(source)),
    })
}

/// A sequence of zstd frames, as parallel compressors make them.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether the decoder is in the middle of a frame.
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Goes on to the next frame that has data; `false` at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                    if skipped < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(invalid(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            self.in_frame = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(invalid)?;
            }
            let length = self.decoder.read(bytes)?;
            if length > 0 {
                return Ok(length);
            }
            self.in_frame = false;
            match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
                (Some(said), Some(is)) if said != is => {
                    return Err(invalid("a zstd frame's checksum is wrong"));
                }
                _ => {}
            }
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn unpacked(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        reader(packed)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn every_compression_comes_off() {
        let long: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        assert_eq!(unpacked(&long).unwrap(), long);
        assert_eq!(unpacked(b"").unwrap(), b"");
        assert_eq!(unpacked(&gzip(&long)).unwrap(), long);
        assert_eq!(unpacked(&[gzip(b"one"), gzip(b""), gzip(b"two")].concat()).unwrap(), b"onetwo");
        assert_eq!(unpacked(&zstd(&long)).unwrap(), long);
        let frames = [skippable.clone(), zstd(b"one"), skippable.clone(), zstd(b""), zstd(b"two"), skippable];
        assert_eq!(unpacked(&frames.concat()).unwrap(), b"onetwo");
    }

    #[test]
    fn damage_is_an_error() {
        for good in [gzip(&[7; 10_000]), zstd(b"some text that is not that repetitive, after all")] {
            assert!(unpacked(&good[..good.len() - 1]).is_err());
            assert!(unpacked(&[&good[..], b"x"].concat()).is_err());
            let mut bad = good.clone();
            let last = bad.len() - 2;
            bad[last] ^= 1;
            assert!(unpacked(&bad).is_err());
        }
    }
}
