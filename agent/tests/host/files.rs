//! Files of the guest's own: read, written, waited for; and signals to all that they name.

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use mote_protocol::{
    ErrorCode, ExitStatus, ReadFile, Request, SignalGroup, WaitFile, WriteFile,
    limits::{MAX_CONTENTS, MAX_WATCHES},
};

use crate::harness::{Command, Host, Said};

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn read(host: &mut Host, path: &Path, offset: u64) -> Said {
    let path = c_string(path);
    host.ask(&Request::ReadFile(ReadFile { path: path.as_c_str().into(), offset }))
}

fn write(host: &mut Host, path: &Path, content: &[u8]) -> Said {
    let path = c_string(path);
    host.ask(&Request::WriteFile(WriteFile { path: path.as_c_str().into(), content }))
}

fn begin_wait(host: &mut Host, path: &Path, known: &[u8]) -> u32 {
    let path = c_string(path);
    host.send(&Request::WaitFile(WaitFile { path: path.as_c_str().into(), known }))
}

#[test]
fn files_are_read_in_pieces_and_written_in_one() {
    let folder = tempfile_folder("files");
    let mut host = Host::start();
    let long = folder.join("long");
    let content: Vec<u8> = (0..MAX_CONTENTS + 10).map(|at| at.to_le_bytes()[0]).collect();
    fs::write(&long, &content).unwrap();
    assert_eq!(read(&mut host, &long, 0), Said::Contents(content[..MAX_CONTENTS].to_vec(), true));
    let offset = u64::try_from(MAX_CONTENTS).unwrap();
    assert_eq!(read(&mut host, &long, offset), Said::Contents(content[MAX_CONTENTS..].to_vec(), false));
    assert_eq!(read(&mut host, &long, offset * 2), Said::Contents(Vec::new(), false));
    assert_eq!(write(&mut host, &long, b"new"), Said::Done);
    assert_eq!(fs::read(&long).unwrap()[..4], [b'n', b'e', b'w', 3]);
    for said in [read(&mut host, &folder.join("none"), 0), write(&mut host, &folder.join("none"), b"x")] {
        assert!(matches!(said, Said::Failed { code: ErrorCode::System, errno: 2, .. }), "{said:?}");
    }
    let said = read(&mut host, &folder, 0);
    assert!(matches!(said, Said::Failed { code: ErrorCode::System, errno: 21, .. }), "{said:?}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_signal_reaches_everybody_that_a_file_names() {
    let folder = tempfile_folder("group");
    let mut host = Host::start();
    let children: Vec<_> =
        (1..4).map(|process| host.begin(process, &Command::new(&["sleep", "1000"]))).collect();
    let mut pids = String::new();
    for child in &children {
        match host.answer(child.request) {
            Said::Started(started) => pids.push_str(&format!("{}\n", started.pid)),
            other => panic!("{other:?}"),
        }
    }
    let list = folder.join("cgroup.procs");
    // Those that are gone, or cannot be named, are passed over.
    fs::write(&list, format!("0\n{pids}2147483647\n")).unwrap();
    let path = c_string(&list);
    let mut signal =
        |signal| host.ask(&Request::SignalGroup(SignalGroup { processes: path.as_c_str().into(), signal }));
    assert!(matches!(signal(65), Said::Failed { code: ErrorCode::InvalidArgument, .. }));
    assert_eq!(signal(15), Said::Done);
    for child in &children {
        assert_eq!(host.exit_of(child.process), ExitStatus::Signal(15));
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_known_already_is_no_news() {
    let group = Group::new();
    let mut host = Host::start();
    let events = group.0.join("cgroup.events");
    let now = fs::read(&events).unwrap();
    let at_once = begin_wait(&mut host, &events, b"something else");
    assert_eq!(host.answer(at_once), Said::Contents(now.clone(), false));
    let later: Vec<_> = (0..MAX_WATCHES).map(|_| begin_wait(&mut host, &events, &now)).collect();
    let one_more = begin_wait(&mut host, &events, &now);
    let said = host.answer(one_more);
    assert!(matches!(said, Said::Failed { code: ErrorCode::ResourceExhausted, .. }), "{said:?}");
    // Freezing an empty cgroup is quick, and is told.
    assert_eq!(write(&mut host, &group.0.join("cgroup.freeze"), b"1"), Said::Done);
    for request in later {
        let Said::Contents(content, false) = host.answer(request) else { panic!("no contents") };
        assert!(String::from_utf8(content).unwrap().contains("frozen 1"));
    }
}

/// A cgroup that is gone when this is.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts
            .lines()
            .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
            .expect("no cgroup2 is mounted");
        let group =
            Path::new(mount.split(' ').nth(1).unwrap()).join(format!("mote-agent-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn tempfile_folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mote-agent-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}
