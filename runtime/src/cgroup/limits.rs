//! What a sandbox may use, and which files of a cgroup say so.

use std::{io, path::Path};

use super::hierarchy::{Hierarchy, write};

/// The period of CPU time quotas if nothing is said, in microseconds.
pub(crate) const PERIOD: u64 = 100_000;

/// Bounds for a sandbox. What is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// In bytes.
    pub(crate) memory: Option<Bound>,
    /// Processes and threads.
    pub(crate) pids: Option<u64>,
    /// The share of time, as version 1 counts: 2 to 262144.
    pub(crate) cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub(crate) cpu_quota: Option<Bound>,
    /// Microseconds.
    pub(crate) cpu_period: Option<u64>,
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    AtMost(u64),
    None,
}

impl Bound {
    /// As an OCI configuration has it: a negative number is none, and 0 says nothing.
    pub(crate) fn of(limit: i64) -> Option<Self> {
        if limit == 0 { None } else { Some(u64::try_from(limit).map_or(Self::None, Self::AtMost)) }
    }

    fn text(self, none: &str) -> String {
        match self {
            Self::AtMost(limit) => limit.to_string(),
            Self::None => none.to_owned(),
        }
    }
}

impl Limits {
    /// Writes what there is to say about the controllers of `hierarchy` to the cgroup at `path`. A file that is not there belongs to a
    /// controller that is not, and limits nothing.
    pub(super) fn write(&self, path: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
        let none = if hierarchy.is_v2() { "max" } else { "-1" };
        for (controller, file, value) in [
            (
                "memory",
                hierarchy.either("memory.max", "memory.limit_in_bytes"),
                self.memory.map(|m| m.text(none)),
            ),
            ("pids", "pids.max", self.pids.map(|pids| pids.to_string())),
            ("cpu", hierarchy.either("cpu.weight", "cpu.shares"), self.share(hierarchy)),
        ] {
            if let Some(value) = value.filter(|_| hierarchy.has(controller)) {
                set(path, file, &value)?;
            }
        }
        if hierarchy.has("cpu") { self.write_time(path, hierarchy) } else { Ok(()) }
    }

    fn share(&self, hierarchy: &Hierarchy) -> Option<String> {
        let shares = self.cpu_shares.filter(|shares| *shares > 0)?;
        // Both scales are logarithmic in effect; this is how runc and systemd convert them.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        Some(if hierarchy.is_v2() { weight } else { shares }.to_string())
    }

    fn write_time(&self, path: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
        let period = self.cpu_period.filter(|period| *period > 0);
        if !hierarchy.is_v2() {
            period.map_or(Ok(()), |period| set(path, "cpu.cfs_period_us", &period.to_string()))?;
            return self.cpu_quota.map_or(Ok(()), |quota| set(path, "cpu.cfs_quota_us", &quota.text("-1")));
        }
        match (self.cpu_quota, period) {
            // Without a period, the one of before stays.
            (Some(quota), None) => set(path, "cpu.max", &quota.text("max")),
            (Some(quota), Some(period)) => set(path, "cpu.max", &format!("{} {period}", quota.text("max"))),
            (None, Some(period)) => {
                // A quota cannot be left out: it is the one of before.
                let known = std::fs::read_to_string(path.join("cpu.max")).unwrap_or_default();
                let quota = known.split_whitespace().next().unwrap_or("max");
                set(path, "cpu.max", &format!("{quota} {period}"))
            }
            (None, None) => Ok(()),
        }
    }
}

fn set(path: &Path, file: &str, value: &str) -> io::Result<()> {
    match write(&path.join(file), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn texts(hierarchy: &Hierarchy, limits: &Limits, files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (file, before) in files {
            fs::write(folder.path().join(file), before).unwrap();
        }
        limits.write(folder.path(), hierarchy).unwrap();
        let written = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(written, files.len(), "nothing is made");
        files.iter().map(|(file, _)| fs::read_to_string(folder.path().join(file)).unwrap()).collect()
    }

    #[test]
    fn go_to_the_files_of_their_version() {
        let limits = Limits {
            memory: Some(Bound::AtMost(7)),
            pids: Some(9),
            cpu_shares: Some(1024),
            cpu_quota: Some(Bound::AtMost(50_000)),
            cpu_period: Some(PERIOD),
        };
        let v2 = [("memory.max", ""), ("pids.max", ""), ("cpu.weight", ""), ("cpu.max", "")];
        assert_eq!(texts(&Hierarchy::V2, &limits, &v2), ["7", "9", "39", "50000 100000"]);
        let cpu = [("cpu.shares", ""), ("cpu.cfs_quota_us", ""), ("cpu.cfs_period_us", ""), ("pids.max", "")];
        let v1 = Hierarchy::V1(vec!["cpu".into()]);
        assert_eq!(texts(&v1, &limits, &cpu), ["1024", "50000", "100000", ""]);
        let memory = Hierarchy::V1(vec!["memory".into()]);
        assert_eq!(texts(&memory, &limits, &[("memory.limit_in_bytes", "")]), ["7"]);
    }

    #[test]
    fn what_is_not_named_stays() {
        // As long as what is written over it, which no file of a cgroup has to be.
        let max = |limits| texts(&Hierarchy::V2, &limits, &[("cpu.max", "30000 5"), ("memory.max", "5")]);
        assert_eq!(max(Limits::default()), ["30000 5", "5"]);
        assert_eq!(max(Limits { cpu_period: Some(7), ..Limits::default() }), ["30000 7", "5"]);
        let none = Limits { cpu_quota: Bound::of(-1), memory: Bound::of(-1), ..Limits::default() };
        assert_eq!(texts(&Hierarchy::V2, &none, &[("cpu.max", ""), ("memory.max", "")]), ["max", "max"]);
        let v1 = Hierarchy::V1(vec!["cpu".into(), "memory".into()]);
        let files = [("cpu.cfs_quota_us", ""), ("memory.limit_in_bytes", "")];
        assert_eq!(texts(&v1, &none, &files), ["-1", "-1"]);
        assert_eq!(Bound::of(0), None);
    }
}
