//! What L1 says on its console when the command has ended.
//!
//! A marker line that no one else can write, as it is new for each lab; then `status N`; for each file to bring out
//! either `missing`, or `file LENGTH` and so many bytes; then `end`. Without `end` there is no report.

use std::fs;

use super::error::{Error, Result};

/// The kernel's source of fresh identifiers.
const FRESH: &str = "/proc/sys/kernel/random/uuid";

/// A report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) status: u8,
    /// The content of each file that was asked for, `None` if there is no such file.
    pub(crate) files: Vec<Option<Vec<u8>>>,
}

/// A line that was never written before. All of them are equally long.
pub(crate) fn marker() -> Result<String> {
    let id = fs::read_to_string(FRESH).map_err(Error::io("read", FRESH))?;
    Ok(format!("lab-report-{}", id.trim()))
}

impl Report {
    /// Finds and reads the report in all that L1 wrote to its console.
    pub(crate) fn parse(console: &[u8], marker: &str) -> Option<Self> {
        let line = [marker.as_bytes(), b"\n"].concat();
        let start = console.windows(line.len()).position(|window| window == line)? + line.len();
        let (status, mut rest) = split_line(console.get(start..)?)?;
        let status = status.strip_prefix("status ")?.parse().ok()?;
        let mut files = Vec::new();
        loop {
            let (line, after) = split_line(rest)?;
            rest = after;
            match line.split_once(' ') {
                None if line == "end" => return Some(Self { status, files }),
                None if line == "missing" => files.push(None),
                Some(("file", length)) => {
                    let (bytes, after) = rest.split_at_checked(length.parse().ok()?)?;
                    files.push(Some(bytes.to_vec()));
                    rest = after;
                }
                _ => return None,
            }
        }
    }
}

fn split_line(text: &[u8]) -> Option<(&str, &[u8])> {
    let end = text.iter().position(|&byte| byte == b'\n')?;
    Some((std::str::from_utf8(text.get(..end)?).ok()?, text.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_to_its_end() {
        let text = b"noise\r\nM\nstatus 137\nfile 4\nend\nmissing\nfile 0\nend\ntrailing";
        let files = vec![Some(b"end\n".to_vec()), None, Some(Vec::new())];
        assert_eq!(Report::parse(text, "M"), Some(Report { status: 137, files }));
    }

    #[test]
    fn half_a_report_is_none() {
        let whole = b"M\nstatus 0\nfile 2\nab\nend\n";
        for text in [
            &b"M\nstatus 0\nfile 9\nab"[..],
            b"M\nstatus 0\n",
            b"M\nstatus 300\nend\n",
            b"status 0\nend\n",
            b"",
        ] {
            assert_eq!(Report::parse(text, "M"), None);
        }
        assert_eq!(Report::parse(whole, "M"), None, "the file has one byte too many");
    }
}
