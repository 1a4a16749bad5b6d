//! The bytes of an archive, and everything that is refused.

use crate::archive::body_length;
use crate::{Archive, DeviceKind, Error, Fault, pack_agent};

fn path_fault(path: &[u8]) -> Option<Fault> {
    match Archive::new().directory(path, 0o755) {
        Ok(_) => None,
        Err(Error::Path { fault, .. }) => Some(fault),
        Err(other) => panic!("{path:?}: {other}"),
    }
}

#[test]
fn the_agent_is_packed_as_init() {
    let expected = concat!(
        "070701",
        "00000001000081ed00000000000000000000000100000000",
        "0000000600000000000000000000000000000000",
        "0000000500000000",
        "init\0\0", // 110 + 5 bytes, and one more to a multiple of four
        "agent!\0\0",
        "070701",
        "00000000000000000000000000000000000000010000000000000000",
        "00000000000000000000000000000000",
        "0000000b00000000",
        "TRAILER!!!\0\0\0\0",
    );
    let packed = pack_agent(b"agent!").unwrap();
    assert_eq!(String::from_utf8(packed).unwrap(), expected);
}

#[test]
fn paths_that_the_kernel_would_misread_are_refused() {
    for (path, fault) in [
        (&b""[..], Fault::Empty),
        (b"/", Fault::Absolute),
        (b"/init", Fault::Absolute),
        (b".", Fault::Component),
        (b"..", Fault::Component),
        (b"a/../b", Fault::Component),
        (b"a//b", Fault::Component),
        (b"a/", Fault::Component),
        (b"./a", Fault::Component),
        (b"a\0b", Fault::Nul),
        (b"TRAILER!!!", Fault::Trailer),
        (&[b'a'; 256], Fault::ComponentTooLong),
        (&[b'a'; 4096], Fault::TooLong),
    ] {
        assert_eq!(path_fault(path), Some(fault), "{}", String::from_utf8_lossy(path));
    }
    assert_eq!(path_fault(&[b'a'; 255]), None);
    assert_eq!(path_fault(b"...").or(path_fault(b"..a")).or(path_fault(b"trailer!!!")), None);
    assert_eq!(path_fault(b"caf\xe9 \n"), None);
}

#[test]
fn the_longest_path_is_4095_bytes() {
    let mut archive = Archive::new();
    let mut path = String::new();
    for _ in 0..15 {
        path.push_str(&"d".repeat(255));
        archive.directory(&path, 0o755).unwrap();
        path.push('/');
    }
    let longest = format!("{path}{}", "f".repeat(4095 - path.len()));
    archive.file(&longest, 0o644, b"").unwrap();
    let longer = format!("{longest}f");
    let refused = archive.file(longer, 0o644, b"").unwrap_err();
    assert!(matches!(refused, Error::Path { fault: Fault::TooLong, .. }), "{refused}");
}

#[test]
fn a_folder_comes_before_what_lies_in_it() {
    let mut archive = Archive::new();
    archive.file("file", 0o644, b"").unwrap().symlink("link", "dir").unwrap();
    archive.device("disk", 0o600, DeviceKind::Block, 8, 0).unwrap();
    for path in ["dir/a", "file/a", "link/a", "disk/a"] {
        assert_eq!(archive.file(path, 0o644, b"").unwrap_err(), Error::NoParent { path: path.into() });
    }
    archive.directory("dir", 0o755).unwrap().file("dir/a", 0o644, b"").unwrap();
}

#[test]
fn a_path_is_added_once() {
    let mut archive = Archive::new();
    archive.directory("a", 0o755).unwrap();
    assert_eq!(archive.symlink("a", "b").unwrap_err(), Error::Duplicate { path: "a".into() });
}

#[test]
fn modes_targets_and_device_numbers_are_checked() {
    let mut archive = Archive::new();
    let mode = archive.file("f", 0o100_644, b"").unwrap_err();
    assert_eq!(mode, Error::Mode { path: "f".into(), mode: 0o100_644 });
    for (target, fault) in [(&b""[..], Fault::Empty), (b"a\0", Fault::Nul), (&[b'a'; 4096], Fault::TooLong)] {
        assert_eq!(archive.symlink("l", target).unwrap_err(), Error::Target { path: "l".into(), fault });
    }
    for (major, minor) in [(4096, 0), (0, 1 << 20)] {
        let refused = archive.device("d", 0o600, DeviceKind::Char, major, minor).unwrap_err();
        assert_eq!(refused, Error::DeviceNumber { path: "d".into(), major, minor });
    }
    archive.device("d", 0o7777, DeviceKind::Block, 4095, (1 << 20) - 1).unwrap();
}

#[test]
fn a_file_ends_below_four_gibibytes() {
    assert_eq!(body_length(b"f", 0xffff_ffff), Ok(u32::MAX));
    let refused = body_length(b"f", 0x1_0000_0000).unwrap_err();
    assert_eq!(refused, Error::FileTooLarge { path: "f".into(), length: 0x1_0000_0000 });
}

#[test]
fn a_refused_entry_leaves_no_trace() {
    let mut archive = Archive::new();
    archive.directory("a", 0o755).unwrap();
    let before = archive.clone().finish();
    assert!(archive.file("b/c", 0o644, b"x").is_err());
    assert!(archive.symlink("d", "").is_err());
    assert_eq!(archive.finish(), before);
}
