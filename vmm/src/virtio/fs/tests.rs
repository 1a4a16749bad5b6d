//! The file system device and guests that mean harm. What well-meaning ones see is tested end to end.

use std::{fs, os::unix::fs::symlink, path::Path};

use nix::{errno::Errno, libc};
use proptest::prelude::*;

use self::guest::{Body, ROOM, share, u32_at, u64_at, with_shares};
use super::{
    Cache, Error, Fs, Share,
    abi::{IN_HEADER, OUT_HEADER, ROOT, opcode},
};
use crate::virtio::Device;

mod guest;

/// A folder `shared`, and next to it what must stay as it is.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Self { folder };
        fs::create_dir_all(host.shared().join("folder")).unwrap();
        fs::write(host.shared().join("file"), "contents").unwrap();
        fs::write(host.path("secret"), "secret").unwrap();
        symlink(host.path("secret"), host.shared().join("link")).unwrap();
        symlink(host.folder.path(), host.shared().join("up")).unwrap();
        host
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn shared(&self) -> std::path::PathBuf {
        self.path("shared")
    }

    fn check(&self) {
        assert_eq!(fs::read_to_string(self.path("secret")).unwrap(), "secret");
        let names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}

/// Requests with a name, as a function of it.
fn with_name(name: &str, node: u64) -> Vec<(u32, Body)> {
    let body = Body::default;
    vec![
        (opcode::LOOKUP, body().name(name)),
        (opcode::UNLINK, body().name(name)),
        (opcode::RMDIR, body().name(name)),
        (opcode::SYMLINK, body().name(name).name("content")),
        (opcode::MKDIR, body().u32(0o755).u32(0).name(name)),
        (opcode::MKNOD, body().u32(libc::S_IFREG | 0o644).zeros(12).name(name)),
        (opcode::CREATE, body().u32(2).u32(0o644).zeros(8).name(name)),
        (opcode::RENAME, body().u64(node).name(name).name("fine")),
        (opcode::RENAME, body().u64(node).name("file").name(name)),
        (opcode::RENAME2, body().u64(node).zeros(8).name("file").name(name)),
    ]
}

#[test]
fn a_name_is_one_component() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        let root = guest.look_up(ROOT, "0").unwrap();
        let file = guest.look_up(root, "file").unwrap();
        for name in ["", ".", "..", "/", "../secret", "folder/../../secret", "/etc/passwd", "folder/", "a/b"]
        {
            for (opcode, body) in with_name(name, root) {
                assert_eq!(guest.ask(opcode, root, &body), Err(Errno::EINVAL), "{opcode} {name:?}");
            }
            let link = Body::default().u64(file).name(name);
            assert_eq!(guest.ask(opcode::LINK, root, &link), Err(Errno::EINVAL), "{name:?}");
        }
        // Neither is one without its NUL.
        assert_eq!(guest.ask(opcode::LOOKUP, root, &Body::default().bytes(b"file")), Err(Errno::EINVAL));
        for name in ["1", "00", "+0", "-1", "18446744073709551616"] {
            assert_eq!(guest.look_up(ROOT, name), Err(Errno::ENOENT), "{name}");
        }
    });
    host.check();
}

#[test]
fn links_are_never_followed() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        let root = guest.look_up(ROOT, "0").unwrap();
        let (link, up) = (guest.look_up(root, "link").unwrap(), guest.look_up(root, "up").unwrap());
        assert_eq!(
            guest.ask(opcode::READLINK, link, &Body::default()).unwrap(),
            host.path("secret").as_os_str().as_encoded_bytes()
        );
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_TRUNC] {
            assert_eq!(guest.open(link, flags), Err(Errno::EACCES));
        }
        assert_eq!(guest.look_up(up, "secret"), Err(Errno::ENOTDIR));
        assert_eq!(guest.ask(opcode::OPENDIR, up, &Body::default().zeros(8)), Err(Errno::ENOTDIR));
        for (opcode, body) in with_name("secret", root) {
            assert_eq!(guest.ask(opcode, up, &body), Err(Errno::ENOTDIR), "{opcode}");
        }
        let create = Body::default().u32(libc::O_RDWR.cast_unsigned()).u32(0o644).zeros(8).name("link");
        assert_eq!(guest.ask(opcode::CREATE, root, &create), Err(Errno::EACCES));
        // Truncation, permissions and times of the link are not those of what it leads to.
        let truncate = Body::default().u32(1 << 3).zeros(84);
        assert_eq!(guest.ask(opcode::SETATTR, link, &truncate), Err(Errno::EINVAL));
        let mode = Body::default().u32(1).zeros(64).u32(0o777).zeros(16);
        let before = fs::metadata(host.path("secret")).unwrap().permissions();
        let _ = guest.ask(opcode::SETATTR, link, &mode);
        assert_eq!(fs::metadata(host.path("secret")).unwrap().permissions(), before);
        // A second name of the link is a link.
        guest.ask(opcode::LINK, root, &Body::default().u64(link).name("too")).unwrap();
        assert!(fs::symlink_metadata(host.shared().join("too")).unwrap().is_symlink());
    });
    host.check();
}

#[test]
fn a_folder_that_the_host_swaps_for_a_link_is_stale() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        let root = guest.look_up(ROOT, "0").unwrap();
        // Not looked into yet, so its name is all that is known of it.
        let folder = guest.look_up(root, "folder").unwrap();
        fs::remove_dir(host.shared().join("folder")).unwrap();
        symlink(host.folder.path(), host.shared().join("folder")).unwrap();
        assert_eq!(guest.look_up(folder, "secret"), Err(Errno::ESTALE));
        assert_eq!(guest.ask(opcode::GETATTR, folder, &Body::default().zeros(16)), Err(Errno::ESTALE));
        let file = guest.look_up(root, "file").unwrap();
        fs::rename(host.shared().join("file"), host.shared().join("moved")).unwrap();
        fs::hard_link(host.path("secret"), host.shared().join("file")).unwrap();
        assert_eq!(guest.open(file, libc::O_RDWR), Err(Errno::ESTALE));
        // Found under its new name, it is the same file.
        assert_eq!(guest.look_up(root, "moved"), Ok(file));
        assert!(guest.open(file, libc::O_RDWR).is_ok());
    });
    host.check();
}

#[test]
fn read_only_is_decided_here() {
    let host = Host::new();
    let shares = [share(&host.shared(), true), share(&host.shared(), false)];
    with_shares(&shares, |guest| {
        let (fixed, free) = (guest.look_up(ROOT, "0").unwrap(), guest.look_up(ROOT, "1").unwrap());
        let (file, other) = (guest.look_up(fixed, "file").unwrap(), guest.look_up(free, "file").unwrap());
        assert_ne!((fixed, file), (free, other), "one file, but two shares");
        for (opcode, body) in with_name("new", fixed).into_iter().skip(1) {
            assert_eq!(guest.ask(opcode, fixed, &body), Err(Errno::EROFS), "{opcode}");
        }
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_ACCMODE] {
            assert_eq!(guest.open(file, flags), Err(Errno::EROFS));
        }
        let handle = guest.open(file, libc::O_RDONLY).unwrap();
        assert_eq!(guest.write(file, handle, b"changed"), Err(Errno::EROFS));
        let fallocate = Body::default().u64(handle).u64(0).u64(100).zeros(8);
        assert_eq!(guest.ask(opcode::FALLOCATE, file, &fallocate), Err(Errno::EROFS));
        for opcode in [opcode::SETATTR, opcode::SETXATTR, opcode::REMOVEXATTR, opcode::TMPFILE] {
            assert_eq!(guest.ask(opcode, file, &Body::default().zeros(88)), Err(Errno::EROFS), "{opcode}");
        }
        // Nor through the other share: by another node's handle, a rename, a link, or a copy.
        assert_eq!(guest.write(other, handle, b"changed"), Err(Errno::EBADF));
        let rename = Body::default().u64(fixed).name("file").name("new");
        assert_eq!(guest.ask(opcode::RENAME, free, &rename), Err(Errno::EXDEV));
        let link = Body::default().u64(file).name("new");
        assert_eq!(guest.ask(opcode::LINK, free, &link), Err(Errno::EXDEV));
        let writable = guest.open(other, libc::O_RDWR).unwrap();
        let copy = Body::default().u64(writable).u64(0).u64(file).u64(handle).u64(0).u64(8).u64(0);
        assert_eq!(guest.ask(opcode::COPY_FILE_RANGE, other, &copy), Err(Errno::EBADF));
        assert_eq!(guest.read(file, handle, 0).unwrap(), b"contents");
        guest.write(other, writable, b"CHANGED!").unwrap();
        assert_eq!(guest.read(file, handle, 0).unwrap(), b"CHANGED!");
        // The folder that the shares are in does not change either.
        for (opcode, body) in with_name("0", ROOT).into_iter().skip(1) {
            assert_eq!(guest.ask(opcode, ROOT, &body), Err(Errno::EROFS), "{opcode}");
        }
    });
    host.check();
}

#[test]
fn a_file_is_shared_without_its_folder() {
    let host = Host::new();
    with_shares(&[share(&host.shared().join("file"), false)], |guest| {
        let file = guest.look_up(ROOT, "0").unwrap();
        let handle = guest.open(file, libc::O_RDWR).unwrap();
        assert_eq!(guest.read(file, handle, 3).unwrap(), b"tents");
        assert_eq!(guest.look_up(file, "link"), Err(Errno::ENOTDIR));
        for (opcode, body) in with_name("new", file) {
            assert_eq!(guest.ask(opcode, file, &body), Err(Errno::ENOTDIR), "{opcode}");
        }
        guest.forget(file, u64::MAX);
        assert_eq!(guest.read(file, handle, 0).unwrap(), b"contents", "it is not the guest's to forget");
    });
}

#[test]
fn numbers_that_were_not_given_out_are_refused() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        let root = guest.look_up(ROOT, "0").unwrap();
        let file = guest.look_up(root, "file").unwrap();
        let handle = guest.open(file, libc::O_RDONLY).unwrap();
        for node in [0, 77, u64::MAX] {
            assert_eq!(guest.look_up(node, "file"), Err(Errno::ESTALE));
            assert_eq!(guest.open(node, 0), Err(Errno::ESTALE));
        }
        assert_eq!(guest.read(file, handle + 1, 0), Err(Errno::EBADF));
        assert_eq!(guest.read(root, handle, 0), Err(Errno::EBADF));
        let folder = Body::default().u64(handle).u64(0).u32(4096).zeros(20);
        assert_eq!(guest.ask(opcode::READDIR, file, &folder), Err(Errno::EBADF));
        guest.ask(opcode::RELEASE, file, &Body::default().u64(handle).zeros(16)).unwrap();
        assert_eq!(guest.read(file, handle, 0), Err(Errno::EBADF));
        guest.forget(file, 1);
        assert_eq!(guest.open(file, 0), Err(Errno::ESTALE));
        // Forgetting more than was given out, or what never was, is nothing.
        for node in [ROOT, root, file, u64::MAX] {
            guest.forget(node, u64::MAX);
        }
        assert!(guest.look_up(root, "file").is_ok());
    });
}

#[test]
fn lengths_that_lie_are_seen() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        let root = guest.look_up(ROOT, "0").unwrap();
        let proper = Body::default().name("file");
        let request = guest.header(opcode::LOOKUP, root, proper.0.len()).bytes(&proper.0).0;
        let error = |reply: &[u8]| -u32_at(reply, 4).cast_signed();
        for len in [0, 1, 39, 44, 46, u32::MAX] {
            let mut lying = request.clone();
            lying[..4].copy_from_slice(&len.to_le_bytes());
            assert_eq!(error(&guest.send(&lying, ROOM)), Errno::EIO as i32, "{len}");
        }
        // Not even a header; no room for a reply, or not enough.
        for len in 1..IN_HEADER {
            assert!(guest.send(&request[..len], ROOM).is_empty());
        }
        for room in 0..u32::try_from(OUT_HEADER).unwrap() {
            assert!(guest.send(&request, room).is_empty());
        }
        assert_eq!(error(&guest.send(&request, 143)), Errno::EIO as i32);
        assert_eq!(u64_at(&guest.send(&request, 144), 0) & 0xffff_ffff, 144);
        // Data that is not there, and more than was asked for.
        let file = guest.look_up(root, "file").unwrap();
        let handle = guest.open(file, libc::O_RDWR).unwrap();
        for size in [0_u32, 3, 5, u32::MAX] {
            let body = Body::default().u64(handle).u64(0).u32(size).zeros(20).bytes(b"1234");
            assert_eq!(guest.ask(opcode::WRITE, file, &body), Err(Errno::EIO), "{size}");
        }
        let body = Body::default().u64(handle).u64(0).u32(u32::MAX).zeros(20);
        let read = guest.header(opcode::READ, file, body.0.len()).bytes(&body.0);
        assert_eq!(guest.send(&read.0, 20)[16..], *b"cont");
        // A longer request than any.
        let long = Body::default().bytes(&vec![b'x'; 80 << 10]);
        assert_eq!(guest.ask(opcode::LOOKUP, root, &long), Err(Errno::EIO));
        let many = Body::default().u32(u32::MAX).u32(0).u64(file).u64(1);
        assert!(guest.ask(opcode::BATCH_FORGET, root, &many).is_err());
    });
    assert_eq!(fs::read_to_string(host.shared().join("file")).unwrap(), "contents");
}

#[test]
fn a_guest_knows_only_so_many_files() {
    let host = Host::new();
    let many = super::MIN_NODES + 100;
    let folder = host.shared().join("folder");
    for index in 0..many {
        fs::write(folder.join(index.to_string()), "").unwrap();
    }
    with_shares(&[share(&host.shared(), false)], |guest| {
        let descriptors = || fs::read_dir("/proc/thread-self/fd").unwrap().count();
        let root = guest.look_up(ROOT, "0").unwrap();
        let folder = guest.look_up(root, "folder").unwrap();
        let before = descriptors();
        let looked_up: Vec<_> = (0..many).map(|index| guest.look_up(folder, &index.to_string())).collect();
        // Other tests open some meanwhile.
        assert!(descriptors() <= before + many / 2, "nodes cost no descriptors");
        let known: Vec<u64> = looked_up.iter().filter_map(|node| node.as_ref().ok().copied()).collect();
        // The share and the folder count as well.
        assert_eq!(known.len(), super::MIN_NODES - 2);
        assert_eq!(*looked_up.last().unwrap(), Err(Errno::ENFILE));
        for node in &known {
            guest.forget(*node, 1);
        }
        assert!(guest.look_up(folder, &(many - 1).to_string()).is_ok());
    });
}

#[test]
fn a_guest_opens_only_so_many_files() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        guest.fs.server.handles = super::handles::Handles::new(10, 2);
        let root = guest.look_up(ROOT, "0").unwrap();
        let file = guest.look_up(root, "file").unwrap();
        let opened: Vec<_> = (0..11).map(|_| guest.open(file, 0)).collect();
        assert!(opened[..10].iter().all(Result::is_ok));
        assert_eq!(opened[10], Err(Errno::ENFILE));
        assert_eq!(guest.ask(opcode::OPENDIR, root, &Body::default().zeros(8)), Err(Errno::ENFILE));
        assert_eq!(guest.ask(opcode::OPENDIR, ROOT, &Body::default().zeros(8)), Err(Errno::ENFILE));
        let create = Body::default().u32(2).u32(0o644).zeros(8).name("new");
        assert_eq!(guest.ask(opcode::CREATE, root, &create), Err(Errno::ENFILE));
        assert!(!host.shared().join("new").exists());
        // After a reset, nothing is open any more.
        guest.fs.reset();
        guest.begin();
        let root = guest.look_up(ROOT, "0").unwrap();
        let file = guest.look_up(root, "file").unwrap();
        assert!(guest.open(file, 0).is_ok());
        assert_eq!(guest.read(file, *opened[0].as_ref().unwrap(), 0), Err(Errno::EBADF));
    });
}

#[test]
fn a_guest_opens_even_fewer_folders() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        guest.fs.server.handles = super::handles::Handles::new(10, 2);
        let root = guest.look_up(ROOT, "0").unwrap();
        let mut open = || guest.ask(opcode::OPENDIR, root, &Body::default().zeros(8));
        let opened: Vec<_> = (0..3).map(|_| open()).collect();
        assert_eq!(opened[2], Err(Errno::ENFILE));
        let first = u64_at(opened[0].as_ref().unwrap(), 0);
        // Closed twice, it makes room for one.
        for _ in 0..2 {
            guest.ask(opcode::RELEASEDIR, root, &Body::default().u64(first).zeros(16)).unwrap();
        }
        let opened: Vec<_> =
            (0..2).map(|_| guest.ask(opcode::OPENDIR, root, &Body::default().zeros(8))).collect();
        assert!(opened[0].is_ok());
        assert_eq!(opened[1], Err(Errno::ENFILE));
    });
}

#[test]
fn no_position_is_beyond_what_files_have() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        let root = guest.look_up(ROOT, "0").unwrap();
        let file = guest.look_up(root, "file").unwrap();
        let handle = guest.open(file, libc::O_RDWR).unwrap();
        let append = libc::O_APPEND.cast_unsigned();
        let mut write = |position: u64| {
            let body = Body::default().u64(handle).u64(position).u32(4).zeros(12).u32(append).zeros(4);
            guest.ask(opcode::WRITE, file, &body.bytes(b"more")).map(|reply| u32_at(&reply, 0))
        };
        // Where is not asked of what is appended, but counted from.
        assert_eq!(write(i64::MAX as u64), Ok(4));
        assert_eq!([write(u64::MAX), write(1 << 63)], [Err(Errno::EINVAL); 2]);
        assert_eq!(guest.read(file, handle, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(fs::read_to_string(host.shared().join("file")).unwrap(), "contentsmore");
    });
    host.check();
}

#[test]
fn a_guest_keeps_what_has_not_changed_since_it_opened_it() {
    const KEEP_CACHE: u32 = 1 << 1;
    let host = Host::new();
    let at_rest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let uncached = Share { cache: Cache::None, ..share(at_rest, true) };
    with_shares(&[share(&host.shared(), false), share(at_rest, true), uncached], |guest| {
        let mut opened = |share: &str, name: &str| {
            let folder = guest.look_up(ROOT, share).unwrap();
            let file = guest.look_up(folder, name).unwrap();
            let reply = guest.ask(opcode::OPEN, file, &Body::default().zeros(8)).unwrap();
            u32_at(&reply, 8) & KEEP_CACHE != 0
        };
        let manifest = [opened("1", "Cargo.toml"), opened("1", "Cargo.toml"), opened("1", "Cargo.toml")];
        assert_eq!(manifest, [false, true, true]);
        // Its next change might not show.
        assert_eq!([opened("0", "file"), opened("0", "file")], [false, false], "it was just made");
        assert_eq!([opened("2", "Cargo.toml"), opened("2", "Cargo.toml")], [false, false]);
    });
    host.check();
}

#[test]
fn labels_of_the_host_are_not_the_guests() {
    let host = Host::new();
    with_shares(&[share(&host.shared(), false)], |guest| {
        let root = guest.look_up(ROOT, "0").unwrap();
        for name in
            ["security.selinux", "security.ima", "security.capabilityx", "system.nfs4_acl", "none", ""]
        {
            let set = Body::default().u32(1).zeros(12).name(name).bytes(b"x");
            assert_eq!(guest.ask(opcode::SETXATTR, root, &set), Err(Errno::EPERM), "{name}");
            assert_eq!(guest.ask(opcode::REMOVEXATTR, root, &Body::default().name(name)), Err(Errno::EPERM));
        }
        let lying = Body::default().u32(100).zeros(12).name("user.x").bytes(b"x");
        assert_eq!(guest.ask(opcode::SETXATTR, root, &lying), Err(Errno::EINVAL));
    });
}

#[test]
fn without_root_all_is_the_servers_own() {
    const USER: u32 = 4711;
    if !nix::unistd::geteuid().is_root() {
        // Then every other test here is this one.
        return;
    }
    let host = Host::new();
    std::os::unix::fs::chown(host.shared(), Some(USER), Some(USER)).unwrap();
    std::fs::set_permissions(host.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The system calls themselves, which are about this thread alone.
            // SAFETY: they touch no memory.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setresgid, USER, USER, USER), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, USER, USER, USER), 0);
            }
            guest::converse(&[share(&host.shared(), false)], |guest| {
                let owner = |entry: &[u8], at: usize| (u32_at(entry, at + 68), u32_at(entry, at + 72));
                let root = guest.look_up(ROOT, "0").unwrap();
                let file = guest.ask(opcode::LOOKUP, root, &Body::default().name("file")).unwrap();
                assert_eq!(owner(&file, 40), (65534, 65534), "root's is nobody's");
                for uid in [0, 1000] {
                    guest.uid = uid;
                    let make = Body::default().u32(0o700).u32(0).name(&format!("of-{uid}"));
                    let made = guest.ask(opcode::MKDIR, root, &make).unwrap();
                    assert_eq!(owner(&made, 40), (0, 0), "its own is root's");
                    let node = u64_at(&made, 0);
                    let change = |uid| Body::default().u32(0b110).zeros(72).u32(uid).u32(0).zeros(4);
                    assert!(guest.ask(opcode::SETATTR, node, &change(0)).is_ok());
                    assert_eq!(guest.ask(opcode::SETATTR, node, &change(1000)), Err(Errno::EPERM));
                }
            });
        });
    });
    let made = std::os::unix::fs::MetadataExt::uid(&fs::metadata(host.shared().join("of-1000")).unwrap());
    assert_eq!(made, USER);
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let missing = share(Path::new("/no/such/folder"), false);
    assert!(matches!(Fs::new("mote", &[missing], 0), Err(Error::Source { .. })));
    assert!(matches!(Fs::new("mote", &[share(Path::new("/dev/null"), false)], 0), Err(Error::Kind(_))));
    for tag in ["", "a,b", "with space", &"x".repeat(37)] {
        assert!(matches!(Fs::new(tag, &[], 0), Err(Error::Tag(_))), "{tag}");
    }
    assert!(Fs::new(&"x".repeat(36), &[], 0).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest says: it gets an answer, or none, and what is not shared stays as it is.
    #[test]
    fn any_request_is_survived(
        requests in prop::collection::vec(
            (0_u32..56, 0_u64..8, prop::collection::vec(any_byte(), 0..120)), 1..60),
    ) {
        let host = Host::new();
        with_shares(&[share(&host.shared(), false), share(&host.shared(), true)], |guest| {
            let root = guest.look_up(ROOT, "0").unwrap();
            for name in ["file", "folder", "link", "up"] {
                guest.look_up(root, name).unwrap();
            }
            for (opcode, node, body) in requests {
                let request = guest.header(opcode, node, body.len()).bytes(&body);
                guest.send(&request.0, ROOM);
            }
        });
        host.check();
    }
}

/// Bytes that make small numbers, names and ends of names likely.
fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0), 2 => 0_u8..8, 1 => any::<u8>(), 1 => prop::sample::select(&b"./fileup"[..])]
}
