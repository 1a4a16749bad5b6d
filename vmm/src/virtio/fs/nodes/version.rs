//! Whether a file is still as it was.

use std::time::{Duration, SystemTime};

use super::Stat;

/// Two changes within this time may leave a file with the same time of its last change: file systems count ticks, some of them seconds.
const GRAIN: Duration = Duration::from_secs(3);

/// A file's contents at some time, as far as its size and the time of its last change tell them from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Version {
    size: u64,
    changed: (i64, u32),
}

impl Version {
    /// The version that a file has at `now`. None if it was changed just before: the next change may not show then.
    pub(in super::super) fn at(now: SystemTime, stat: &Stat) -> Option<Self> {
        let raw = stat.raw();
        let changed = (raw.stx_ctime.tv_sec, raw.stx_ctime.tv_nsec);
        let since_epoch = Duration::new(u64::try_from(changed.0).ok()?, changed.1);
        let age = now.duration_since(SystemTime::UNIX_EPOCH + since_epoch).ok()?;
        (age >= GRAIN).then_some(Self { size: raw.stx_size, changed })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;
    use crate::virtio::fs::host;

    #[test]
    fn only_a_file_at_rest_has_one() {
        let file = tempfile::tempfile().unwrap();
        let version = |file: &File, now| Version::at(now, &host::stat(file.as_fd()).unwrap());
        let now = SystemTime::now();
        assert_eq!(version(&file, now), None);
        assert_eq!(version(&file, now - Duration::from_secs(60)), None, "the clock was set back");
        let later = now + Duration::from_secs(60);
        let before = version(&file, later);
        assert!(before.is_some() && before == version(&file, later + GRAIN));
        file.set_len(1).unwrap();
        assert_ne!(before, version(&file, later));
    }
}
