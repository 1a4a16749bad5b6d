//! pax extended headers: records that overrule fields of the header that follows.

use super::LayerError;
use crate::tree::Attribute;

/// The longest extended header, in bytes.
pub(super) const LONGEST: u64 = 1 << 20;

/// What a pax header says about the next entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<(i64, u32)>,
    /// Full names and values, in the order of the records.
    pub(super) attributes: Vec<Attribute>,
    pub(super) sparse: Sparse,
}

/// What the three versions of GNU's sparse files say.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Version 1.0 has the map in front of the data.
    pub(super) major: Option<u64>,
    pub(super) real_size: Option<u64>,
    /// Versions 0.0 and 0.1: offsets and lengths in turn.
    pub(super) map: Vec<u64>,
    pub(super) is_sparse: bool,
}

impl Extensions {
    /// Reads the records: `LENGTH KEYWORD=VALUE\n`, where LENGTH counts all of that.
    pub(super) fn parse(&mut self, mut bytes: &[u8]) -> Result<(), LayerError> {
        let damaged = LayerError::Damaged("an extended header is damaged");
        while !bytes.is_empty() {
            let Some(space) = bytes.iter().position(|&byte| byte == b' ') else { return Err(damaged) };
            let length =
                std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse::<usize>().ok());
            let record = length.and_then(|length| bytes.get(space + 1..length));
            let Some((length, record)) = length.zip(record) else { return Err(damaged) };
            let Some(record) = record.strip_suffix(b"\n") else { return Err(damaged) };
            let Some(equals) = record.iter().position(|&byte| byte == b'=') else { return Err(damaged) };
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = bytes.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), LayerError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(unsigned(value)?),
            b"uid" => self.uid = Some(signed(value)?),
            b"gid" => self.gid = Some(signed(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((name.into(), value.into()));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(key, value, &mut self.path)?;
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    fn record(&mut self, key: &[u8], value: &[u8], path: &mut Option<Vec<u8>>) -> Result<(), LayerError> {
        self.is_sparse = true;
        match key {
            b"major" => self.major = Some(unsigned(value)?),
            b"name" => *path = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(unsigned(value)?),
            b"offset" | b"numbytes" => self.map.push(unsigned(value)?),
            b"map" => {
                let numbers = value.split(|&byte| byte == b',').filter(|number| !number.is_empty());
                self.map = numbers.map(unsigned).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn text(value: &[u8]) -> Result<&str, LayerError> {
    std::str::from_utf8(value).map_err(|_| LayerError::Damaged("a number in an extended header is not text"))
}

pub(super) fn unsigned(value: &[u8]) -> Result<u64, LayerError> {
    text(value)?.parse().map_err(|_| LayerError::Damaged("a number in an extended header is none"))
}

fn signed(value: &[u8]) -> Result<i64, LayerError> {
    text(value)?.parse().map_err(|_| LayerError::Damaged("a number in an extended header is none"))
}

/// Seconds with a fraction, of which nanoseconds are kept; may be negative.
fn time(value: &[u8]) -> Result<(i64, u32), LayerError> {
    let damaged = || LayerError::Damaged("a time in an extended header is none");
    let value = text(value)?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let seconds: i64 = whole.parse().map_err(|_| damaged())?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(damaged());
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    // A fraction counts away from zero; nanoseconds count forward.
    if value.starts_with('-') && nanoseconds > 0 {
        let seconds = seconds.checked_sub(1).ok_or_else(damaged)?;
        return Ok((seconds, 1_000_000_000 - nanoseconds));
    }
    Ok((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_on_both_sides_of_zero() {
        for (text, time_) in [
            ("1350244992.023960108", (1_350_244_992, 23_960_108)),
            ("1.5", (1, 500_000_000)),
            ("7", (7, 0)),
            ("7.", (7, 0)),
            ("-1.25", (-2, 750_000_000)),
            ("-0.5", (-1, 500_000_000)),
            ("1.1234567899", (1, 123_456_789)),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), time_, "{text}");
        }
        for text in ["", "x", "1.x", "1.-1", "99999999999999999999"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn records_say_how_long_they_are() {
        let mut extensions = Extensions::default();
        extensions.parse(b"12 path=a\nb\n11 size=42\n26 SCHILY.xattr.user.a=b=\n").unwrap();
        assert_eq!(extensions.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(extensions.size, Some(42));
        assert_eq!(&*extensions.attributes, [(b"user.a"[..].into(), b"b="[..].into())]);
        for damaged in [
            "x",
            "5 a=b\n",
            "7 a=b\n",
            "6 ab1\n",
            "0 a=b\n",
            "99999999999999999999 a=b\n",
            "-6 a=b\n",
            "9 size=x\n",
        ] {
            assert!(Extensions::default().parse(damaged.as_bytes()).is_err(), "{damaged:?}");
        }
    }
}
