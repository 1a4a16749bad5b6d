//! Signals as people and engines write them.

use mote_runtime::{Error, Kind};
use nix::sys::signal::Signal;

/// The highest number of a signal.
const MAX: u8 = 64;

/// The number that a name (`KILL`, `sigkill`) or a number means.
pub(super) fn parse(text: &str) -> Result<u8, Error> {
    let unknown = || Error::new(Kind::Container, format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<u8>() {
        return if number <= MAX { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(name) {
        return Ok(number);
    }
    format!("SIG{name}")
        .parse::<Signal>()
        .ok()
        .and_then(|signal| u8::try_from(signal as i32).ok())
        .ok_or_else(unknown)
}

/// `RTMIN+N` and `RTMAX-N`.
fn real_time(name: &str) -> Option<u8> {
    const MIN: u8 = 34;
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        let more = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        MIN.checked_add(more)?
    } else {
        let rest = name.strip_prefix("RTMAX")?;
        let less = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
        MAX.checked_sub(less)?
    };
    (MIN..=MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("Hup", 1),
            ("SIGRTMIN+3", 37),
            ("rtmax", 64),
            ("RTMAX-30", 34),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["BADSIG", "65", "-1", "", "SIG", "RTMIN+31", "RTMAX-31", "1.5"] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("unknown signal {text:?}"));
        }
    }
}
