//! Says what a driver did wrong, but not for ever: a guest decides how often that is, and must not fill the host's log.

use std::fmt;

/// How many complaints about one device's driver reach the log.
const LIMIT: u32 = 8;

/// The complaints about one device's driver, over the device's whole life.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    said: u32,
}

impl Complaints {
    /// Logs `what`, unless enough was said.
    pub(super) fn log(&mut self, device: &'static str, what: fmt::Arguments<'_>) {
        if self.is_next_said() {
            tracing::error!(device, "{what}");
            if self.said == LIMIT {
                tracing::error!(device, "nothing more is said about this device's driver");
            }
        }
    }

    fn is_next_said(&mut self) -> bool {
        let said = self.said < LIMIT;
        self.said += u32::from(said);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn come_to_an_end() {
        let mut complaints = Complaints::default();
        let said = (0..1000).filter(|_| complaints.is_next_said()).count();
        assert_eq!(said, 8);
    }
}
