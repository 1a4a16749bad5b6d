//! Requests about files that are nobody's business. Share 0 can be written to; share 1 is read-only, and like the first one.

use crate::{
    fs::*,
    machine::{Machine, Random, pause},
};

/// Opcodes that a body of any kind is sent to: all that exist, and some that do not.
const OPCODES: u32 = 64;

/// Requests that are longer or shorter than they say, cut anywhere, and answers without room.
pub fn lengths(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    for opcode in 1..OPCODES {
        // The last one may have been the end of everything.
        fs.hello().expect("hello");
        let root = fs.share(0);
        for said in [0, 1, 39, 40, 41, 4096, 0x7fff_ffff, u32::MAX] {
            for len in [1, 39, 40, 41, 60, 80, 4096] {
                FileSystem::header(said, opcode, root);
                fs.send(len, if said % 2 == 0 { 15 } else { 16 });
            }
        }
        // Right about its length, but cut in the middle, and with no room at all or too little.
        for (len, room) in [(40, 0), (44, 1), (56, 15), (60, 16), (80, 17), (40, 16), (104, 64)] {
            FileSystem::header(len, opcode, root);
            fs.send(len, room);
        }
    }
    // Longer than any request may be.
    for opcode in [LOOKUP, SETXATTR, WRITE_FILE, BATCH_FORGET] {
        FileSystem::header(0x10_0000, opcode, fs.share(0));
        fs.send(0x10_0000, 4096);
    }
    // More to forget than there is.
    fs.device.reset();
    let fs = FileSystem::begin(machine);
    let _ = fs.ask(BATCH_FORGET, 0, Body::new().u32(u32::MAX).u32(0).u64(2).u64(u64::MAX));
    fs.assert_works();
}

/// Requests before hello; hello again, with files open, and of versions that are none.
pub fn before_hello(machine: &Machine) {
    let fs = FileSystem::start(machine);
    for opcode in (1..OPCODES).filter(|opcode| ![INIT, FORGET, BATCH_FORGET, 36].contains(opcode)) {
        for node in [0, 2, 3, u64::MAX] {
            let answer = fs.ask(opcode, node, Body::new().zeros(64));
            assert!(answer.is_err() || opcode == 38, "opcode {opcode} before hello: {answer:?}");
        }
    }
    fs.hello().expect("hello");
    let file = fs.look_up(fs.share(0), b"file").expect("a file");
    let handle = fs.open(file, 0).expect("a handle");
    for _ in 0..50 {
        fs.hello().expect("hello once more");
        assert!(fs.ask(READ, file, Body::new().u64(handle).u64(0).u32(64).zeros(20)).is_err());
        assert!(fs.ask(GETATTR, file, Body::new().zeros(16)).is_err(), "nodes of before");
    }
    for (major, minor) in [(0, 0), (6, 99), (7, 0), (7, 35)] {
        assert!(fs.ask(INIT, 0, Body::new().u32(major).u32(minor).zeros(56)).is_err());
    }
    fs.hello().expect("hello after nonsense");
    fs.assert_works();
}

/// Opcodes, nodes and handles that do not exist.
pub fn nobody(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    let root = fs.share(0);
    let file = fs.look_up(root, b"file").expect("a file");
    let mut random = Random(0x5eed);
    for opcode in (64..200).chain([1 << 16, 1 << 31, u32::MAX]) {
        assert!(fs.ask(opcode, root, Body::new().zeros(64)).is_err(), "opcode {opcode}");
    }
    let nodes = (1..OPCODES).filter(|opcode| ![FORGET, INIT, 36, 38, BATCH_FORGET].contains(opcode));
    for opcode in nodes.clone() {
        for node in [0, file + 1, 1 << 32, u64::MAX, random.next() | 1 << 40] {
            let answer = fs.ask(opcode, node, Body::new().zeros(64));
            assert!(
                answer.is_err() || [18, 29].contains(&opcode),
                "opcode {opcode}, node {node}: {answer:?}"
            );
        }
    }
    // Handles that are none, of another node, or closed.
    let handle = fs.open(file, 0).expect("a handle");
    for handle in [0, handle + 1, u64::MAX, random.next()] {
        for opcode in [READ, WRITE_FILE, READDIR, READDIRPLUS, FALLOCATE, LSEEK, COPY_FILE_RANGE, 20, 30] {
            let body = Body::new().u64(handle).u64(0).u32(64).zeros(20);
            assert!(fs.ask(opcode, file, body).is_err(), "opcode {opcode}, handle {handle}");
        }
    }
    assert!(fs.ask(READ, root, Body::new().u64(handle).u64(0).u32(64).zeros(20)).is_err());
    for _ in 0..3 {
        let _ = fs.ask(18, file, Body::new().u64(handle).zeros(16));
        assert!(fs.ask(READ, file, Body::new().u64(handle).u64(0).u32(64).zeros(20)).is_err());
    }
    // Bodies that are noise, for every opcode that does not make anything.
    for opcode in nodes
        .filter(|opcode| ![MKNOD, MKDIR, SYMLINK, CREATE, UNLINK, RENAME, RENAME2, LINK].contains(opcode))
    {
        for _ in 0..20 {
            let noise = (0..12).fold(Body::new(), |body, _| body.u64(random.next()));
            let _ = fs.ask(opcode, if random.below(2) == 0 { root } else { ROOT }, noise);
        }
    }
    fs.assert_works();
}

/// Asks for everything that takes a name.
fn with_name(
    fs: &FileSystem,
    folder: u64,
    file: u64,
    name: &[u8],
    mut each: impl FnMut(u32, Result<u64, i32>),
) {
    each(LOOKUP, fs.look_up(folder, name));
    each(UNLINK, fs.ask(UNLINK, folder, Body::new().name(name)));
    each(RMDIR, fs.ask(RMDIR, folder, Body::new().name(name)));
    each(SYMLINK, fs.ask(SYMLINK, folder, Body::new().name(name).name(b"../outside")));
    each(MKDIR, fs.ask(MKDIR, folder, Body::new().u32(0o755).u32(0).name(name)));
    each(MKNOD, fs.ask(MKNOD, folder, Body::new().u32(0o10_0644).zeros(12).name(name)));
    each(CREATE, fs.ask(CREATE, folder, Body::new().u32(0o102).u32(0o644).zeros(8).name(name)));
    each(RENAME, fs.ask(RENAME, folder, Body::new().u64(folder).name(name).name(b"stolen")));
    each(RENAME, fs.ask(RENAME, folder, Body::new().u64(folder).name(b"file").name(name)));
    each(RENAME2, fs.ask(RENAME2, folder, Body::new().u64(folder).zeros(8).name(b"file").name(name)));
    each(LINK, fs.ask(LINK, folder, Body::new().u64(file).name(name)));
}

/// Names that lead elsewhere, or are none.
pub fn names(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    let root = fs.share(0);
    let file = fs.look_up(root, b"file").expect("a file");
    let long = [b'x'; 5000];
    let names: [&[u8]; 13] = [
        b"",
        b".",
        b"..",
        b"/",
        b"../outside",
        b"../outside/secret",
        b"/etc/passwd",
        b"folder/",
        b"folder/../../outside/secret",
        b"\0file",
        b"\0../outside/secret",
        &long[..256],
        &long,
    ];
    for name in names {
        with_name(&fs, root, file, name, |opcode, answer| {
            assert!(answer.is_err(), "opcode {opcode}, name of {} bytes: {answer:?}", name.len());
        });
    }
    // Without an end.
    for len in [1, 4, 255, 4096] {
        for opcode in [LOOKUP, UNLINK, RMDIR, READLINK] {
            assert!(fs.ask(opcode, root, Body::new().bytes(&long[..len])).is_err());
        }
    }
    // Shares that do not exist.
    for name in [&b"2"[..], b"00", b"-1", b"99999999999999999999", b"0/..", b".."] {
        assert!(fs.look_up(ROOT, name).is_err());
    }
    fs.assert_works();
}

/// Changes of what cannot be changed.
pub fn read_only(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    let (ours, root) = (fs.share(0), fs.share(1));
    let file = fs.look_up(root, b"file").expect("a file");
    with_name(&fs, root, file, b"new", |opcode, answer| {
        let expected = if opcode == LOOKUP { ENOENT } else { EROFS };
        assert_eq!(answer, Err(expected), "opcode {opcode}");
    });
    // Out of it and into it.
    for (from, to) in [(root, ours), (ours, root)] {
        assert!(fs.ask(RENAME, from, Body::new().u64(to).name(b"file").name(b"stolen")).is_err());
    }
    assert!(fs.ask(LINK, ours, Body::new().u64(file).name(b"linked")).is_err());
    // Write only, both, and shortened.
    for flags in [1, 2, 3, 0o1000, 0o1001, 0o2001] {
        assert_eq!(fs.open(file, flags), Err(EROFS), "flags {flags:o}");
    }
    assert_eq!(fs.ask(TMPFILE, root, Body::new().u32(2).u32(0o644).zeros(8)), Err(EROFS));
    let handle = fs.open(file, 0).expect("a handle");
    let writes = Body::new().u64(handle).u64(0).u32(4).zeros(20).bytes(b"evil");
    assert!(fs.ask(WRITE_FILE, file, writes).is_err());
    assert!(fs.ask(FALLOCATE, file, Body::new().u64(handle).u64(0).u64(1 << 20).zeros(8)).is_err());
    for valid in [1, 2, 4, 8, 16, 32, 0x3f, u32::MAX] {
        assert_eq!(
            fs.ask(SETATTR, file, Body::new().u32(valid).zeros(84)),
            Err(EROFS),
            "attributes {valid:#x}"
        );
    }
    // A copy from the one that can be written into this one.
    let source = fs.look_up(ours, b"file").expect("a file");
    let from = fs.open(source, 2).expect("a handle");
    let copy = Body::new().u64(from).u64(0).u64(file).u64(handle).u64(0).u64(7).u64(0);
    assert!(fs.ask(COPY_FILE_RANGE, source, copy).is_err());
    fs.assert_works();
}

/// Symbolic links as folders and files, also where there was a folder a moment ago.
pub fn links(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    let root = fs.share(0);
    let link = fs.look_up(root, b"link").expect("a link that leads out");
    assert!(fs.ask(READLINK, link, Body::new()).is_ok(), "links are for us to read");
    assert!(fs.open(link, 0).is_err() && fs.open(link, 2).is_err());
    assert!(fs.ask(OPENDIR, link, Body::new().zeros(8)).is_err());
    assert!(fs.look_up(link, b"secret").is_err());
    assert!(fs.ask(CREATE, root, Body::new().u32(0o102).u32(0o644).zeros(8).name(b"link")).is_err());
    for round in 0..100 {
        let made = fs.ask(MKDIR, root, Body::new().u32(0o755).u32(0).name(b"swapped")).expect("a folder");
        assert!(fs.look_up(made, b"secret").is_err());
        // The folder goes, a link out takes its name.
        if round % 2 == 0 {
            fs.ask(RENAME, root, Body::new().u64(root).name(b"swapped").name(b"moved")).expect("a new name");
        } else {
            fs.ask(RMDIR, root, Body::new().name(b"swapped")).expect("no folder");
        }
        fs.ask(SYMLINK, root, Body::new().name(b"swapped").name(b"../outside")).expect("a link");
        for name in [&b"secret"[..], b"new"] {
            assert!(fs.look_up(made, name).is_err());
            assert!(fs.ask(UNLINK, made, Body::new().name(name)).is_err());
        }
        let created = fs.ask(CREATE, made, Body::new().u32(0o102).u32(0o644).zeros(8).name(b"new"));
        assert!(round % 2 == 0 || created.is_err(), "in a folder that is gone");
        fs.ask(UNLINK, root, Body::new().name(b"swapped")).expect("no link");
        if round % 2 == 0 {
            let _ = fs.ask(UNLINK, made, Body::new().name(b"new"));
            fs.ask(RMDIR, root, Body::new().name(b"moved")).expect("no folder");
        }
    }
    fs.assert_works();
}

/// Positions and sizes that cannot be.
pub fn positions(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    let root = fs.share(0);
    let file = fs.look_up(root, b"file").expect("a file");
    let folder = fs.ask(OPENDIR, root, Body::new().zeros(8)).expect("a handle");
    let handle = fs.open(file, 2).expect("a handle");
    let wild = [1, 7, 1 << 31, 1 << 32, i64::MAX as u64 - 1, i64::MAX as u64, 1 << 63, u64::MAX];
    for position in wild {
        for size in [0, 1, 24, 4096, 0x10_0000, u32::MAX] {
            for opcode in [READDIR, READDIRPLUS] {
                let _ = fs.ask(opcode, root, Body::new().u64(folder).u64(position).u32(size).zeros(20));
                assert!(fs.answered() <= size.min(0x10_0000), "no more than was asked for");
            }
            let read = fs.ask(READ, file, Body::new().u64(handle).u64(position).u32(size).zeros(20));
            assert!(read.is_err() || fs.answered() <= 6, "{} bytes at {position:#x}", fs.answered());
            // What a write says that it brings, and what it does not.
            let lies = Body::new().u64(handle).u64(position).u32(size.max(5)).zeros(20).bytes(b"evil");
            assert!(fs.ask(WRITE_FILE, file, lies).is_err());
        }
        for whence in [0, 1, 2, 3, 4, 5, u32::MAX] {
            let _ = fs.ask(LSEEK, file, Body::new().u64(handle).u64(position).u32(whence).zeros(4));
        }
        let _ = fs.ask(
            COPY_FILE_RANGE,
            file,
            Body::new().u64(handle).u64(0).u64(file).u64(handle).u64(position).u64(u64::MAX).u64(0),
        );
        let shortened = fs.ask(SETATTR, file, Body::new().u32(8).u32(0).u64(0).u64(7).zeros(64));
        shortened.expect("the file as it was");
    }
    // A file that ends where no file can.
    for size in [1 << 63, u64::MAX, i64::MAX as u64] {
        let _ = fs.ask(SETATTR, file, Body::new().u32(8).u32(0).u64(0).u64(size).zeros(64));
        let _ = fs.ask(FALLOCATE, file, Body::new().u64(handle).u64(size - 1).u64(size).zeros(8));
    }
    let shortened = fs.ask(SETATTR, file, Body::new().u32(8).u32(0).u64(0).u64(7).zeros(64));
    shortened.expect("the file as it was");
    fs.assert_works();
}

/// Files and folders are opened and never closed.
pub fn open_for_ever(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    let root = fs.share(0);
    let file = fs.look_up(root, b"file").expect("a file");
    let mut full = false;
    for round in 0..1500 {
        let opened = match round % 3 {
            0 => fs.open(file, 0),
            1 => fs.ask(TMPFILE, root, Body::new().u32(2).u32(0o644).zeros(8)),
            _ => fs.ask(OPENDIR, root, Body::new().zeros(8)),
        };
        if round % 3 == 2
            && let Ok(folder) = opened
        {
            let _ = fs.ask(READDIR, root, Body::new().u64(folder).u64(0).u32(24).zeros(20));
        }
        full |= opened == Err(ENFILE);
    }
    // A reset closes everything.
    fs.device.reset();
    pause(20_000);
    let fs = FileSystem::begin(machine);
    fs.assert_works();
    assert!(full, "not everything can be open");
}

/// Forgets what it knows, often and more often than it knew it, while it uses it.
pub fn forgets(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    let root = fs.share(0);
    let file = fs.look_up(root, b"file").expect("a file");
    let handle = fs.open(file, 0).expect("a handle");
    let forget = |node: u64, count: u64| {
        let _ = Body::new().u64(count);
        FileSystem::header(48, FORGET, node);
        fs.send(48, 0);
    };
    for round in 0..1000_u64 {
        forget(file, if round % 2 == 0 { 1 } else { u64::MAX });
        forget(root, u64::MAX);
        forget(round, u64::MAX);
    }
    assert!(fs.ask(READ, file, Body::new().u64(handle).u64(0).u32(64).zeros(20)).is_ok(), "it is still open");
    let _ = fs.ask(18, file, Body::new().u64(handle).zeros(16));
    assert!(fs.ask(GETATTR, file, Body::new().zeros(16)).is_err(), "it is forgotten");
    // As many at once as a request has room for.
    let many = 0x1_0000 / 16;
    let body = (0..many).fold(Body::new().u32(many).u32(0), |body, node| body.u64(node.into()).u64(u64::MAX));
    let _ = fs.ask(BATCH_FORGET, 0, body);
    // What is looked up and never forgotten.
    for _ in 0..1000 {
        fs.look_up(root, b"file").expect("a file");
    }
    fs.assert_works();
}
