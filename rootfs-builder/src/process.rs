//! What an image says about the process that runs in it, and the users that it knows.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::image::Reader;
use crate::store::Image;

/// The longest `/etc/passwd` and `/etc/group` that are read, in bytes.
const LONGEST_LIST: u64 = 16 << 20;

/// What an image says about the process that runs in it. Everything may be overruled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessConfig {
    /// What is executed, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments; without an entrypoint, what is executed.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Where it starts; empty for the root.
    pub directory: String,
    /// User and group as [`users::find`] takes them; empty for root.
    pub user: String,
    /// The signal that asks it to end: a name or a number.
    pub stop_signal: Option<String>,
    /// Folders that it writes to, sorted.
    pub volumes: Vec<String>,
    /// Notes of whoever made the image.
    pub labels: BTreeMap<String, String>,
}

impl Image {
    /// What the image says about the process that runs in it.
    #[must_use]
    pub fn process(&self) -> ProcessConfig {
        let Some(config) = self.configuration().config() else { return ProcessConfig::default() };
        let mut volumes = config.volumes().clone().unwrap_or_default();
        volumes.sort();
        ProcessConfig {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            command: config.cmd().clone().unwrap_or_default(),
            environment: config.env().clone().unwrap_or_default(),
            directory: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone().filter(|signal| !signal.is_empty()),
            volumes,
            labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        }
    }
}

/// A user of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home folder, if the image has one for the user.
    pub home: Option<String>,
}

/// Looking up users.
pub mod users {
    use super::{LONGEST_LIST, Path, Reader, User, io};

    /// Finds `text`, a user with or without a group (`USER[:GROUP]`, each a name or a number), in the EROFS image `rootfs`. A user
    /// without a group has those that the image says. Numbers need not be known to the image; without an image, there are only numbers.
    ///
    /// # Errors
    /// A line that says what is not there, or why it cannot be looked up.
    pub fn find(rootfs: Option<&Path>, text: &str) -> Result<User, String> {
        let cannot = |error: io::Error| format!("cannot look up the user {text:?} in the image: {error}");
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let numbers = (number(user), group.map(number));
        let no_image = || io::Error::new(io::ErrorKind::Unsupported, "names are looked up in images only");
        let lists = rootfs.ok_or_else(no_image).and_then(Reader::open).and_then(|image| {
            let list = |path: &[u8]| Ok::<_, io::Error>(image.read(path, LONGEST_LIST)?.unwrap_or_default());
            Ok((list(b"/etc/passwd")?, list(b"/etc/group")?))
        });
        let (passwd, groups) = match (lists, numbers) {
            (Ok(lists), _) => lists,
            // Without the lists, numbers are still numbers.
            (Err(_), (Some(_), None | Some(Some(_)))) => Default::default(),
            (Err(error), _) => return Err(cannot(error)),
        };
        look_up(&String::from_utf8_lossy(&passwd), &String::from_utf8_lossy(&groups), user, group)
    }

    pub(super) fn look_up(
        passwd: &str,
        groups: &str,
        user: &str,
        group: Option<&str>,
    ) -> Result<User, String> {
        let user = if user.is_empty() { "0" } else { user };
        let by_number = number(user);
        let lines = passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
            Some((name, number(uid)?, number(gid)?, home))
        });
        let mut lines = lines.filter(|(name, uid, ..)| *name == user || Some(*uid) == by_number);
        let line = lines.next();
        let uid = line.map(|(_, uid, ..)| uid).or(by_number);
        let uid = uid.ok_or_else(|| format!("the image has no user {user:?}"))?;
        let home = line.map(|(.., home)| home.to_owned()).filter(|home| !home.is_empty());
        let known = || {
            groups.lines().filter_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let [name, _, gid, members] = fields[..] else { return None };
                Some((name, number(gid)?, members))
            })
        };
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            let by_number = number(group);
            let line = known().find(|(name, gid, _)| *name == group || Some(*gid) == by_number);
            let gid = line.map(|(_, gid, _)| gid).or(by_number);
            let gid = gid.ok_or_else(|| format!("the image has no group {group:?}"))?;
            return Ok(User { uid, gid, groups: Vec::new(), home });
        }
        let gid = line.map_or(0, |(_, _, gid, _)| gid);
        let name = line.map(|(name, ..)| name);
        let is_member = |members: &str| members.split(',').any(|member| Some(member) == name);
        let groups = known().filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid);
        Ok(User { uid, gid, groups: groups.collect(), home })
    }

    fn number(text: &str) -> Option<u32> {
        // Neither signs nor spaces; the last number means "unchanged" to the kernel.
        let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|&number| is_digits && number != u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:w:/var/www:/bin/sh\n1000:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:other,web\nadm:x:41:web\n";

    fn find(user: &str, group: Option<&str>) -> Result<User, String> {
        users::look_up(PASSWD, GROUP, user, group)
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let web = User { uid: 33, gid: 34, groups: vec![40, 41], home: Some("/var/www".into()) };
        assert_eq!(find("web", None), Ok(web.clone()));
        assert_eq!(find("33", None), Ok(web.clone()));
        assert_eq!(find("web", Some("log")), Ok(User { gid: 40, groups: vec![], ..web.clone() }));
        assert_eq!(find("web", Some("77")), Ok(User { gid: 77, groups: vec![], ..web }));
        assert_eq!(find("55", None), Ok(User { uid: 55, ..User::default() }));
        assert_eq!(find("", None).map(|user| (user.uid, user.home)), Ok((0, Some("/root".into()))));
        assert_eq!(find("1000", None).map(|user| user.uid), Ok(7), "a name of digits is a name");
    }

    #[test]
    fn who_is_not_there_is_named() {
        assert!(find("nobody", None).unwrap_err().contains("\"nobody\""));
        assert!(find("web", Some("none")).unwrap_err().contains("\"none\""));
        assert!(find("-1", None).is_err());
        assert!(find("4294967295", None).is_err());
        assert!(find("4294967296", None).is_err());
    }
}
