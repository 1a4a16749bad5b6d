//! `in-guest CHECK FOLDER`: what a program in a guest expects of a folder that the host shares.
//!
//! The end-to-end tests put this program into guests, whose own root has few tools. Each check says `ok` when all is as on any
//! other file system, and panics with what is not.

#![allow(clippy::unwrap_used)]

use std::{
    ffi::{CString, OsStr},
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, RenameFlags, renameat2},
    libc,
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::{Mode, SFlag, UtimensatFlags},
        time::TimeSpec,
    },
    unistd::{Gid, Uid},
};

type Check = fn(&Path);

const CHECKS: &[(&str, Check)] = &[
    ("attributes", attributes),
    ("names", names),
    ("renames", renames),
    ("removed", removed),
    ("contents", contents),
    ("sparse", sparse),
    ("mapped", mapped),
    ("locks", locks),
    ("extended", extended),
    ("special", special),
    ("watched", watched),
    ("permissions", permissions),
    ("unchangeable", unchangeable),
    ("crowd", crowd),
    ("speed", speed),
];

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [name, folder] = arguments.as_slice() else { panic!("usage: in-guest CHECK FOLDER") };
    if name == "try-lock" {
        return try_lock(Path::new(folder));
    }
    let check = CHECKS.iter().find(|(known, _)| name == known);
    let (_, check) = check.unwrap_or_else(|| panic!("no check is called {name:?}"));
    check(Path::new(folder));
    println!("ok");
}

/// The error number of what has to fail.
fn errno<T>(result: io::Result<T>) -> Errno {
    Errno::from_raw(result.err().unwrap_or_else(|| panic!("did not fail")).raw_os_error().unwrap_or(0))
}

fn attributes(folder: &Path) {
    let file = folder.join("file");
    fs::write(&file, "12345").unwrap();
    let before = fs::metadata(&file).unwrap();
    assert_eq!((before.len(), before.uid(), before.gid(), before.nlink()), (5, 0, 0, 1));
    assert_eq!(before.mode() & 0o7777, 0o644);

    fs::set_permissions(&file, Permissions::from_mode(0o6751)).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode(), 0o106_751);
    std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
    let owned = fs::metadata(&file).unwrap();
    assert_eq!((owned.uid(), owned.gid()), (1234, 4321));
    assert_eq!(owned.mode() & 0o7777, 0o751, "giving away takes set-user-id away");
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    assert_eq!((fs::metadata(&file).unwrap().uid(), fs::metadata(&file).unwrap().gid()), (0, 4321));

    let (accessed, modified) = (TimeSpec::new(1_000_000_007, 123_456_789), TimeSpec::new(-5, 999_999_999));
    nix::sys::stat::utimensat(AT_FDCWD, &file, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
        .unwrap();
    let times = fs::metadata(&file).unwrap();
    assert_eq!((times.atime(), times.atime_nsec()), (1_000_000_007, 123_456_789));
    assert_eq!((times.mtime(), times.mtime_nsec()), (-5, 999_999_999));

    let link = folder.join("second-name");
    fs::hard_link(&file, &link).unwrap();
    let (one, two) = (fs::metadata(&file).unwrap(), fs::metadata(&link).unwrap());
    assert_eq!((one.dev(), one.ino(), one.nlink()), (two.dev(), two.ino(), 2));
    fs::write(&link, "through the other name").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "through the other name");
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::metadata(&link).unwrap().nlink(), 1);
    assert_eq!(errno(fs::hard_link(folder, folder.join("x"))), Errno::EPERM);

    let symbolic = folder.join("symbolic");
    symlink("second-name", &symbolic).unwrap();
    assert_eq!(fs::read_link(&symbolic).unwrap(), Path::new("second-name"));
    assert_eq!(fs::read_to_string(&symbolic).unwrap(), "through the other name");
    assert!(fs::symlink_metadata(&symbolic).unwrap().is_symlink());
    std::os::unix::fs::lchown(&symbolic, Some(7), Some(8)).unwrap();
    assert_eq!(fs::symlink_metadata(&symbolic).unwrap().uid(), 7);
    assert_eq!(fs::metadata(&symbolic).unwrap().uid(), 0, "the link alone");
    fs::hard_link(&symbolic, folder.join("symbolic-too")).unwrap();
    assert!(fs::symlink_metadata(folder.join("symbolic-too")).unwrap().is_symlink());

    let status = nix::sys::statvfs::statvfs(folder).unwrap();
    assert!(status.blocks() > 0 && status.name_max() >= 255);
}

fn names(folder: &Path) {
    let longest = [b'n'; 255];
    let names: &[&[u8]] = &[
        b" ",
        b"-rf",
        b"...",
        b"a\nb",
        b"\xff\xfe",
        "ümläut".as_bytes(),
        b"*",
        b"back\\slash",
        b"0",
        &longest,
    ];
    for name in names {
        fs::write(folder.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut seen: Vec<Vec<u8>> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    let mut wanted: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    seen.sort();
    wanted.sort();
    assert_eq!(seen, wanted);
    for name in names {
        assert_eq!(&fs::read(folder.join(OsStr::from_bytes(name))).unwrap(), name);
    }
    let too_long = folder.join(OsStr::from_bytes(&[b'n'; 256]));
    assert_eq!(errno(fs::write(&too_long, "")), Errno::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(&too_long)), Errno::ENAMETOOLONG);
    assert_eq!(errno(fs::create_dir(folder.join("0"))), Errno::EEXIST);
    assert_eq!(errno(File::create_new(folder.join("0"))), Errno::EEXIST);
    assert_eq!(errno(fs::read(folder.join("0/x"))), Errno::ENOTDIR);
    assert_eq!(errno(fs::read(folder.join("missing/x"))), Errno::ENOENT);

    let deep = (0..100).fold(folder.to_owned(), |path, level| path.join(format!("level-{level}")));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "deep").unwrap();
    assert_eq!(fs::read_to_string(deep.join("../level-99/./bottom")).unwrap(), "deep");
    fs::remove_dir_all(folder.join("level-0")).unwrap();
    assert_eq!(fs::read_dir(folder).unwrap().count(), names.len());
}

fn renames(folder: &Path) {
    let at = |name: &str| folder.join(name);
    fs::write(at("a"), "a").unwrap();
    fs::write(at("b"), "b").unwrap();
    let mut open = File::open(at("a")).unwrap();
    let mut replaced = File::open(at("b")).unwrap();
    fs::rename(at("a"), at("b")).unwrap();
    assert_eq!(errno(fs::metadata(at("a"))), Errno::ENOENT);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    replaced.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ab", "open files stay what they are");
    assert_eq!((open.metadata().unwrap().nlink(), replaced.metadata().unwrap().nlink()), (1, 0));

    fs::create_dir_all(at("folder/inner")).unwrap();
    fs::write(at("folder/inner/file"), "moved along").unwrap();
    let inside = File::open(at("folder/inner/file")).unwrap();
    fs::rename(at("folder"), at("renamed")).unwrap();
    assert_eq!(fs::read_to_string(at("renamed/inner/file")).unwrap(), "moved along");
    assert_eq!(inside.metadata().unwrap().ino(), fs::metadata(at("renamed/inner/file")).unwrap().ino());
    assert_eq!(errno(fs::rename(at("renamed"), at("renamed/inner/x"))), Errno::EINVAL);
    fs::create_dir(at("empty")).unwrap();
    assert_eq!(errno(fs::rename(at("empty"), at("renamed"))), Errno::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(at("renamed"))), Errno::ENOTEMPTY);
    assert_eq!(
        fs::read_to_string(at("renamed/inner/file")).unwrap(),
        "moved along",
        "after a removal that failed"
    );
    assert_eq!(errno(fs::rename(at("b"), at("empty"))), Errno::EISDIR);
    fs::rename(at("renamed"), at("empty")).unwrap();

    fs::write(at("c"), "c").unwrap();
    let rename = |flags| renameat2(AT_FDCWD, &at("b"), AT_FDCWD, &at("c"), flags);
    assert_eq!(rename(RenameFlags::RENAME_NOREPLACE), Err(Errno::EEXIST));
    rename(RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(at("b")).unwrap() + &fs::read_to_string(at("c")).unwrap(), "ca");
    fs::hard_link(at("b"), at("same")).unwrap();
    fs::rename(at("b"), at("same")).unwrap();
    assert!(at("b").exists() && at("same").exists(), "two names of one file are left alone");
}

fn removed(folder: &Path) {
    let path = folder.join("removed");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(b"still ").unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b"here").unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    file.set_len(2).unwrap();
    assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().mode() & 0o777), (2, 0o600));
    fs::write(&path, "another").unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), file.metadata().unwrap().ino());

    let working = folder.join("working");
    fs::create_dir(&working).unwrap();
    std::env::set_current_dir(&working).unwrap();
    fs::remove_dir(&working).unwrap();
    assert_eq!(errno(fs::write("x", "")), Errno::ENOENT);
    std::env::set_current_dir("/").unwrap();

    let mut unnamed = OpenOptions::new();
    unnamed.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o640);
    let mut unnamed = unnamed.open(folder).unwrap();
    unnamed.write_all(b"no name yet").unwrap();
    assert_eq!(unnamed.metadata().unwrap().nlink(), 0);
    let link = format!("/proc/self/fd/{}", unnamed.as_raw_fd());
    nix::unistd::linkat(AT_FDCWD, link.as_str(), AT_FDCWD, &folder.join("named"), AtFlags::AT_SYMLINK_FOLLOW)
        .unwrap();
    assert_eq!(fs::read_to_string(folder.join("named")).unwrap(), "no name yet");
    drop(unnamed);
    assert_eq!(fs::metadata(folder.join("named")).unwrap().nlink(), 1);
}

fn contents(folder: &Path) {
    let path = folder.join("log");
    let append = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let (mut one, mut two) = (append(), append());
    for _ in 0..100 {
        one.write_all(b"one\n").unwrap();
        two.write_all(b"two\n").unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n".repeat(100));
    // O_APPEND, whatever the offset.
    one.write_at(b"end\n", 0).unwrap();
    assert!(fs::read_to_string(&path).unwrap().ends_with("two\nend\n"));
    let truncated = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    assert_eq!(truncated.metadata().unwrap().len(), 0);

    // More than one request, at odd offsets.
    let block: Vec<u8> = (0..3_000_017_u32).map(|index| index.to_le_bytes()[index as usize % 4]).collect();
    let big = folder.join("big");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&big).unwrap();
    file.write_all(b"x").unwrap();
    file.write_all(&block).unwrap();
    file.sync_all().unwrap();
    let mut back = vec![0; block.len()];
    file.read_exact_at(&mut back, 1).unwrap();
    assert!(back == block);
    let mut direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&big).unwrap();
    back.clear();
    direct.read_to_end(&mut back).unwrap();
    assert!(back[1..] == block[..]);
    assert_eq!(file.read_at(&mut [0; 10], 4_000_000).unwrap(), 0, "beyond the end");

    let copy = folder.join("copy");
    assert_eq!(fs::copy(&big, &copy).unwrap(), block.len() as u64 + 1);
    assert!(fs::read(&copy).unwrap()[1..] == block[..]);
    file.set_len(10).unwrap();
    file.set_len(20).unwrap();
    let start = fs::read(&big).unwrap();
    assert_eq!((&start[1..10], &start[10..]), (&block[..9], &[0; 10][..]));
}

fn sparse(folder: &Path) {
    const MIB: i64 = 1 << 20;
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(folder.join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&[7; 4096], 8 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 64 << 20);
    assert!(file.metadata().unwrap().blocks() < 2048, "{} blocks", file.metadata().unwrap().blocks());
    let seek = |offset, whence| {
        // SAFETY: touches no memory.
        Errno::result(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })
    };
    assert_eq!(seek(0, libc::SEEK_DATA), Ok(8 * MIB));
    let hole = seek(8 * MIB, libc::SEEK_HOLE).unwrap();
    assert!((8 * MIB + 4096..10 * MIB).contains(&hole), "{hole}");
    assert_eq!(seek(hole, libc::SEEK_DATA), Err(Errno::ENXIO));
    let allocate = |mode, offset, len| {
        // SAFETY: touches no memory.
        Errno::result(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }).map(drop)
    };
    allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 8 * MIB, 4096).unwrap();
    let mut bytes = [1; 4096];
    file.read_exact_at(&mut bytes, 8 << 20).unwrap();
    assert_eq!(bytes, [0; 4096]);
    allocate(libc::FALLOC_FL_KEEP_SIZE, 64 * MIB, MIB).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 64 << 20);
    assert!(file.metadata().unwrap().blocks() >= 2048);
    allocate(0, 64 * MIB, MIB).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 65 << 20);
}

fn mapped(folder: &Path) {
    let path = folder.join("mapped");
    fs::write(&path, vec![b'.'; 8192]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), 8192, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    // SAFETY: the mapping has 8192 bytes, and nothing else in this process uses it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), 8192) };
    assert_eq!(bytes[0], b'.');
    bytes[4096..4099].copy_from_slice(b"map");
    let mut read = [0; 3];
    file.read_exact_at(&mut read, 4096).unwrap();
    assert_eq!(&read, b"map", "a read sees what was written to the mapping");
    file.write_all_at(b"write", 0).unwrap();
    assert_eq!(&bytes[..5], b"write", "and the other way round");
    // SAFETY: as above; unmapped once.
    unsafe {
        assert_eq!(libc::msync(start, 8192, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(start, 8192), 0);
    }
    drop(file);
    let contents = fs::read(&path).unwrap();
    assert_eq!((&contents[..5], &contents[4096..4099]), (&b"write"[..], &b"map"[..]));
}

fn locks(folder: &Path) {
    let path = folder.join("lock");
    fs::write(&path, "0123456789").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let other = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.arg("try-lock").arg(&path).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(other(), "posix free, flock free\n");
    set_posix_lock(&file, libc::F_WRLCK).unwrap();
    assert_eq!(other(), "posix held, flock free\n");
    set_posix_lock(&file, libc::F_UNLCK).unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error).unwrap();
    assert_eq!(other(), "posix free, flock held\n");
    drop(held);
    assert_eq!(other(), "posix free, flock free\n");
}

fn set_posix_lock(file: &File, kind: i32) -> Result<(), Errno> {
    // SAFETY: all zeroes are a valid `flock`: the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap();
    // SAFETY: the call reads `lock`.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) }).map(drop)
}

/// Says which locks of a file could be taken.
fn try_lock(path: &Path) {
    let word = |free: bool| if free { "free" } else { "held" };
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let posix = set_posix_lock(&file, libc::F_WRLCK).is_ok();
    let flock = Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok();
    println!("posix {}, flock {}", word(posix), word(flock));
}

fn extended(folder: &Path) {
    let path = folder.join("file");
    fs::write(&path, "").unwrap();
    let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let set = |name: &str, value: &[u8], flags| {
        let name = CString::new(name).unwrap();
        // SAFETY: the names end in NUL, and the call reads `value.len()` bytes.
        Errno::result(unsafe {
            libc::setxattr(c_path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
        })
        .map(drop)
    };
    let get = |name: &str| {
        let name = CString::new(name).unwrap();
        let mut value = vec![0_u8; 65536];
        // SAFETY: the names end in NUL, and the call writes at most `value.len()` bytes.
        let len = Errno::result(unsafe {
            libc::getxattr(c_path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        })?;
        value.truncate(usize::try_from(len).unwrap());
        Ok::<_, Errno>(value)
    };
    // These take a privilege that the file server does not keep.
    assert_eq!(get("trusted.mote"), Err(Errno::ENODATA));
    assert_eq!(set("trusted.mote", b"value", 0), Err(Errno::EPERM));
    // Capabilities of programs may be set, labels of the host's security modules not.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("security.capability", &capability, 0).unwrap();
    assert_eq!(get("security.capability").unwrap(), capability);
    assert_eq!(set("security.selinux", b"label", 0), Err(Errno::EPERM));

    // An access list: the second user may write, though group and others may not.
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 6, 4711), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    set("system.posix_acl_access", &list, 0).unwrap();
    assert_eq!(get("system.posix_acl_access").unwrap(), list);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    become_user(4711);
    fs::write(&path, "allowed").unwrap();
}

/// Drops root's rights for good.
fn become_user(id: u32) {
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(Gid::from_raw(id)).unwrap();
    nix::unistd::setuid(Uid::from_raw(id)).unwrap();
}

fn special(folder: &Path) {
    let fifo = folder.join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, "through a pipe").unwrap()
    });
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "through a pipe");
    writer.join().unwrap();

    let socket = folder.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"s").unwrap();
    let mut byte = [0];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"s");

    let device = folder.join("null");
    let number = nix::sys::stat::makedev(1, 3);
    nix::sys::stat::mknod(&device, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), number).unwrap();
    let metadata = fs::metadata(&device).unwrap();
    assert!(metadata.file_type().is_char_device());
    assert_eq!(metadata.rdev(), number);
    assert_eq!(errno(fs::write(&device, "x")), Errno::EACCES, "no devices on a volume");
}

fn watched(folder: &Path) {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    inotify.add_watch(folder, AddWatchFlags::IN_ALL_EVENTS).unwrap();
    let next = |wanted: AddWatchFlags, name: &str| {
        let events = inotify.read_events().unwrap();
        let found = |event: &nix::sys::inotify::InotifyEvent| {
            event.mask.contains(wanted) && event.name.as_deref() == Some(OsStr::new(name))
        };
        assert!(events.iter().any(found), "{wanted:?} of {name}: {events:?}");
    };
    fs::write(folder.join("a"), "x").unwrap();
    next(AddWatchFlags::IN_CREATE, "a");
    fs::write(folder.join("a"), "y").unwrap();
    next(AddWatchFlags::IN_MODIFY, "a");
    fs::rename(folder.join("a"), folder.join("b")).unwrap();
    next(AddWatchFlags::IN_MOVED_TO, "b");
    fs::remove_file(folder.join("b")).unwrap();
    next(AddWatchFlags::IN_DELETE, "b");
}

/// As root: what others may do is set up, and what root's own creations look like.
fn permissions(folder: &Path) {
    nix::sys::stat::umask(Mode::from_bits_truncate(0o027));
    fs::write(folder.join("masked"), "").unwrap();
    fs::create_dir(folder.join("masked-folder")).unwrap();
    assert_eq!(fs::metadata(folder.join("masked")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(folder.join("masked-folder")).unwrap().mode() & 0o7777, 0o750);
    nix::sys::stat::umask(Mode::empty());

    fs::write(folder.join("secret"), "root's").unwrap();
    fs::set_permissions(folder.join("secret"), Permissions::from_mode(0o600)).unwrap();
    for (name, mode) in [("private", 0o700), ("readable", 0o755), ("sticky", 0o1777), ("group", 0o2777)] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(mode)).unwrap();
        fs::write(folder.join(name).join("file"), "").unwrap();
    }
    std::os::unix::fs::chown(folder.join("group"), None, Some(77)).unwrap();
    fs::set_permissions(folder.join("group"), Permissions::from_mode(0o2777)).unwrap();
    fs::write(folder.join("program"), "").unwrap();
    fs::set_permissions(folder.join("program"), Permissions::from_mode(0o6777)).unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    become_user(1000);
    unprivileged(folder);
}

/// As an ordinary user, after [`permissions`] has set the folder up.
fn unprivileged(folder: &Path) {
    let user = nix::unistd::getuid().as_raw();
    assert_ne!(user, 0);
    assert_eq!(errno(fs::read(folder.join("secret"))), Errno::EACCES);
    assert_eq!(errno(fs::write(folder.join("new"), "")), Errno::EACCES);
    assert_eq!(errno(fs::read(folder.join("private/file"))), Errno::EACCES);
    assert_eq!(errno(fs::remove_file(folder.join("readable/file"))), Errno::EACCES);
    assert_eq!(errno(fs::remove_file(folder.join("sticky/file"))), Errno::EPERM);
    assert_eq!(
        errno(fs::set_permissions(folder.join("program"), Permissions::from_mode(0o777))),
        Errno::EPERM
    );
    assert_eq!(errno(std::os::unix::fs::chown(folder.join("program"), Some(user), None)), Errno::EPERM);

    let mine = folder.join("sticky/mine");
    fs::write(&mine, "").unwrap();
    fs::create_dir(folder.join("sticky/folder")).unwrap();
    symlink("x", folder.join("sticky/link")).unwrap();
    nix::unistd::mkfifo(&folder.join("sticky/pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    for name in ["mine", "folder", "link", "pipe"] {
        let metadata = fs::symlink_metadata(folder.join("sticky").join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (user, user), "{name}");
    }
    assert_eq!(errno(std::os::unix::fs::chown(&mine, Some(0), None)), Errno::EPERM);
    fs::set_permissions(&mine, Permissions::from_mode(0o400)).unwrap();
    assert_eq!(errno(OpenOptions::new().write(true).open(&mine)), Errno::EACCES);

    let inherited = fs::metadata(folder.join("group")).unwrap().gid();
    fs::write(folder.join("group/file-of-group"), "").unwrap();
    fs::create_dir(folder.join("group/folder-of-group")).unwrap();
    assert_eq!(inherited, 77);
    assert_eq!(fs::metadata(folder.join("group/file-of-group")).unwrap().gid(), 77);
    let inner = fs::metadata(folder.join("group/folder-of-group")).unwrap();
    assert_eq!((inner.gid(), inner.mode() & 0o2000), (77, 0o2000));

    // Whoever changes a program takes its set-user-id away.
    fs::write(folder.join("program"), "changed").unwrap();
    assert_eq!(fs::metadata(folder.join("program")).unwrap().mode() & 0o7777, 0o777);
}

/// Root in the guest tries everything on a share that is read-only on the host: `folder` has the file `file` in it. The share is
/// also looked for behind the back of the mount that is read-only.
fn unchangeable(folder: &Path) {
    fs::create_dir("/tmp/again").unwrap();
    nix::mount::mount(
        Some("mote"),
        "/tmp/again",
        Some("virtiofs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let behind = fs::read_dir("/tmp/again").unwrap().count();
    assert_eq!(behind, 0, "the shares are not listed");
    for folder in [folder, Path::new("/tmp/again/0")] {
        let file = folder.join("file");
        assert_eq!(fs::read_to_string(&file).unwrap(), "as it was");
        let refused = |what: &str, result: io::Result<()>| assert_eq!(errno(result), Errno::EROFS, "{what}");
        refused("write", OpenOptions::new().write(true).open(&file).map(drop));
        refused("truncate", OpenOptions::new().write(true).truncate(true).open(&file).map(drop));
        refused("create", File::create_new(folder.join("new")).map(drop));
        refused("mkdir", fs::create_dir(folder.join("new")));
        refused("symlink", symlink("x", folder.join("new")));
        refused("link", fs::hard_link(&file, folder.join("new")));
        refused("rename", fs::rename(&file, folder.join("new")));
        refused("unlink", fs::remove_file(&file));
        refused("rmdir", fs::remove_dir(folder.join("inner")));
        refused("chmod", fs::set_permissions(&file, Permissions::from_mode(0o777)));
        refused("chown", std::os::unix::fs::chown(&file, Some(1), Some(1)));
        let fifo = nix::unistd::mkfifo(&folder.join("new"), Mode::empty());
        refused("mkfifo", fifo.map_err(io::Error::from));
        let now = TimeSpec::new(1, 1);
        let touched = nix::sys::stat::utimensat(AT_FDCWD, &file, &now, &now, UtimensatFlags::FollowSymlink);
        refused("utimes", touched.map_err(io::Error::from));
        let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder);
        refused("tmpfile", unnamed.map(drop));
        let path = CString::new(file.as_os_str().as_bytes()).unwrap();
        // SAFETY: both names end in NUL, and the value has one byte.
        let set = unsafe { libc::setxattr(path.as_ptr(), c"trusted.x".as_ptr(), c"x".as_ptr().cast(), 1, 0) };
        refused("setxattr", Errno::result(set).map(drop).map_err(io::Error::from));
    }
}

/// Makes and walks many files, and holds more open than the host has descriptors for.
fn crowd(folder: &Path) {
    let mut seen = 0_u32;
    for inner in fs::read_dir(folder).unwrap() {
        for entry in fs::read_dir(inner.unwrap().path()).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().is_file());
            seen += 1;
        }
    }
    println!("{seen} files");
    let first = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut open = Vec::new();
    let error = loop {
        match File::create(first.join(format!("open-{}", open.len()))) {
            Ok(file) => open.push(file),
            Err(error) => break Errno::from_raw(error.raw_os_error().unwrap()),
        }
    };
    assert_eq!(error, Errno::ENFILE, "after {} open files", open.len());
    // SAFETY: duplicates a descriptor of `open`, which is then owned.
    let copy = unsafe { File::from_raw_fd(libc::dup(open[0].as_raw_fd())) };
    drop(open);
    assert_eq!(copy.metadata().unwrap().len(), 0);
    fs::write(first.join("afterwards"), "works").unwrap();
    assert_eq!(fs::read_to_string(first.join("afterwards")).unwrap(), "works");
}

/// Not a check but a measurement, for a folder with the file `big` of 64 MiB and the folder `tree` in it, in a guest and on the host
/// alike.
fn speed(folder: &Path) {
    const BLOCK: usize = 4096;
    let big = folder.join("big");
    let timed = |what: &str, times: u32, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        let taken = start.elapsed();
        println!(
            "{what}: {:.3} ms, each {:.1} us",
            taken.as_secs_f64() * 1e3,
            taken.as_secs_f64() * 1e6 / f64::from(times)
        );
    };
    let mut buffer = vec![0; 1 << 20];
    let file = File::open(&big).unwrap();
    for what in ["64 reads of 1 MiB", "the same once more"] {
        timed(what, 64, &mut || {
            for block in 0..64 {
                file.read_exact_at(&mut buffer, block << 20).unwrap();
            }
        });
    }
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&big);
    // Not every file system has it.
    let file = direct.unwrap_or(file);
    let layout = std::alloc::Layout::from_size_align(BLOCK, BLOCK).unwrap();
    // SAFETY: the layout has a size, and what is allocated lives to the end of the process.
    let page = unsafe { std::slice::from_raw_parts_mut(std::alloc::alloc_zeroed(layout), BLOCK) };
    timed("1000 reads of 4 KiB, anywhere, past the cache", 1000, &mut || {
        let mut position = 1_u64;
        for _ in 0..1000 {
            position =
                position.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            file.read_exact_at(page, (position >> 33) % (64 << 8) * BLOCK as u64).unwrap();
        }
    });
    for what in ["a walk over the tree with names only", "a walk with attributes", "the same once more"] {
        let mut seen = 0;
        let with_attributes = what != "a walk over the tree with names only";
        timed(what, 20_000, &mut || seen = walk(&folder.join("tree"), with_attributes));
        assert_eq!(seen, 20_100);
    }
    timed("1000 small files made, written and closed", 1000, &mut || {
        fs::create_dir(folder.join("new")).unwrap();
        for index in 0..1000 {
            fs::write(folder.join(format!("new/{index}")), "small").unwrap();
        }
    });
    timed("and removed", 1000, &mut || fs::remove_dir_all(folder.join("new")).unwrap());
}

fn walk(folder: &Path, with_attributes: bool) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if with_attributes {
            entry.metadata().unwrap();
        }
        seen += 1;
        if entry.file_type().unwrap().is_dir() {
            seen += walk(&entry.path(), with_attributes);
        }
    }
    seen
}
