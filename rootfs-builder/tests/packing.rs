//! What is in an image, that equal folders give equal images, and that nothing is packed twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use mote_rootfs_builder::image;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use support::erofs::{self, Node};
use support::{Scene, is_root, run, set_attribute};

/// Fills `root` with everything that a root folder may have. What only root can make is added if this is root.
fn furnish(root: &Path) {
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..1000_usize {
        fs::write(root.join(format!("many/{number}")), vec![b'x'; number * 13]).unwrap();
    }
    fs::create_dir_all(root.join("deep/er/and")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("deep/er/program"), "setuid").unwrap();
    fs::set_permissions(root.join("deep/er/program"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::hard_link(root.join("deep/er/program"), root.join("link")).unwrap();
    fs::hard_link(root.join("deep/er/program"), root.join("deep/link")).unwrap();
    symlink("/absolute/target", root.join("absolute")).unwrap();
    symlink("t".repeat(4000), root.join("long")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"\xff\xfe\n not UTF-8")), "name").unwrap();
    fs::write(root.join("n".repeat(255)), "").unwrap();
    let mut sparse = File::create(root.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(3 << 20)).unwrap();
    sparse.write_all(b"end").unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o620)).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    File::open(root.join("many/7"))
        .unwrap()
        .set_modified(UNIX_EPOCH + Duration::new(1, 987_654_321))
        .unwrap();
    File::open(root.join("many/8")).unwrap().set_modified(UNIX_EPOCH).unwrap();
    set_attribute(&root.join("many/1"), "user.one", b"1");
    for number in 2..50 {
        set_attribute(&root.join(format!("many/{number}")), "user.shared", b"the same in many files");
    }
    set_attribute(&root.join("empty"), "user.folder", &[0, 255, 3]);
    if is_root() {
        set_attribute(&root.join("many/1"), "trusted.two", b"");
        set_attribute(&root.join("long"), "trusted.of-a-link", b"link");
        std::os::unix::fs::chown(root.join("many/9"), Some(70_000), Some(4_000_000_000)).unwrap();
        for (name, kind, major, minor) in
            [("null", SFlag::S_IFCHR, 1, 3), ("disk", SFlag::S_IFBLK, 4095, 1_048_575)]
        {
            mknod(&root.join(name), kind, Mode::from_bits_truncate(0o600), makedev(major, minor)).unwrap();
        }
    }
}

/// The tree at `folder` as an image of it has to be, but for attributes and the inodes' numbers.
fn expected(root: &Path, folder: &Path, nodes: &mut BTreeMap<Vec<u8>, Node>) {
    let metadata = fs::symlink_metadata(folder).unwrap();
    let node = Node {
        inode: 0,
        mode: metadata.mode(),
        links: if metadata.is_dir() { 0 } else { u32::try_from(metadata.nlink()).unwrap() },
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        device: metadata.rdev(),
        content: if metadata.is_file() {
            fs::read(folder).unwrap()
        } else if metadata.is_symlink() {
            fs::read_link(folder).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        },
        attributes: BTreeMap::new(),
    };
    nodes.insert(folder.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), node);
    if metadata.is_dir() {
        for entry in fs::read_dir(folder).unwrap() {
            expected(root, &entry.unwrap().path(), nodes);
        }
    }
}

#[test]
fn an_image_has_everything_that_the_folder_has() {
    let scene = Scene::new();
    furnish(&scene.folder());
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    image::check(&image).unwrap();
    run("erofs-utils", Command::new("fsck.erofs").arg(&image));

    let mut packed = erofs::read(&image);
    let attribute = |path: &str, name: &str| packed[path.as_bytes()].attributes.get(name).cloned();
    assert_eq!(attribute("many/1", "user.one").as_deref(), Some(&b"1"[..]));
    assert_eq!(attribute("empty", "user.folder").as_deref(), Some(&[0, 255, 3][..]));
    assert_eq!((2..50).filter(|n| attribute(&format!("many/{n}"), "user.shared").is_some()).count(), 48);
    assert_eq!(attribute("many/50", "user.shared"), None);
    if is_root() {
        assert_eq!(attribute("many/1", "trusted.two").as_deref(), Some(&b""[..]));
        assert_eq!(attribute("long", "trusted.of-a-link").as_deref(), Some(&b"link"[..]));
        assert_eq!(packed[&b"disk"[..]].mode, 0o060_600);
    }
    let linked = ["link", "deep/link", "deep/er/program"].map(|path| packed[path.as_bytes()].inode);
    assert!(linked.iter().all(|&inode| inode == linked[0]));

    for node in packed.values_mut() {
        node.inode = 0;
        node.attributes.clear();
        if node.mode & 0o170_000 == 0o040_000 {
            node.links = 0;
        }
    }
    let mut wanted = BTreeMap::new();
    expected(&scene.folder(), &scene.folder(), &mut wanted);
    assert_eq!(wanted.len(), packed.len());
    for (path, node) in &wanted {
        assert_eq!(Some(node), packed.get(path), "{}", String::from_utf8_lossy(path));
    }
}

#[test]
fn a_copy_elsewhere_gives_the_same_image() {
    let scene = Scene::new();
    furnish(&scene.folder());
    let copy = scene.path().join("copy");
    run("coreutils", Command::new("cp").arg("-a").args([scene.folder(), copy.clone()]));
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    let inode = fs::metadata(&image).unwrap().ino();
    assert_eq!(scene.store().folder_image(&copy).unwrap(), image);
    assert_eq!(fs::metadata(&image).unwrap().ino(), inode);

    let other = mote_rootfs_builder::Store::open(scene.path().join("other")).unwrap();
    let again = other.folder_image(&copy).unwrap();
    assert_eq!(again.file_name(), image.file_name());
    assert_eq!(fs::read(&again).unwrap(), fs::read(&image).unwrap());
    let digest = run("coreutils", Command::new("sha256sum").arg(&image));
    let name = format!("sha256-{}.erofs", digest.split(' ').next().unwrap());
    assert_eq!(image.file_name(), Some(OsStr::new(&name)));
}

#[test]
fn an_unchanged_folder_is_not_packed_again() {
    let scene = Scene::new();
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    let before = fs::metadata(&image).unwrap();
    let link = scene.path().join("a-link-to-the-folder");
    symlink(scene.folder(), &link).unwrap();
    for folder in [scene.folder(), link] {
        assert_eq!(scene.store().folder_image(&folder).unwrap(), image);
    }
    let after = fs::metadata(&image).unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));
}

#[test]
fn a_changed_folder_is_packed_again() {
    let scene = Scene::new();
    let first = scene.store().folder_image(&scene.folder()).unwrap();
    fs::write(scene.folder().join("file"), "CONTENT").unwrap();
    let second = scene.store().folder_image(&scene.folder()).unwrap();
    assert_ne!(first, second);
    assert_eq!(erofs::read(&first)[&b"file"[..]].content, b"content");
    assert_eq!(erofs::read(&second)[&b"file"[..]].content, b"CONTENT");
}

#[test]
fn a_broken_store_is_repaired() {
    let scene = Scene::new();
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    let whole = fs::read(&image).unwrap();
    let (entry, _) =
        scene.stored().into_iter().find(|(path, _)| path.parent().unwrap().ends_with("folders")).unwrap();

    fs::remove_file(&image).unwrap();
    assert_eq!(scene.store().folder_image(&scene.folder()).unwrap(), image);
    for damage in [&whole[..whole.len() - 1], &[], b"not an image"] {
        fs::remove_file(&image).unwrap();
        fs::write(&image, damage).unwrap();
        assert_eq!(scene.store().folder_image(&scene.folder()).unwrap(), image);
        assert_eq!(fs::read(&image).unwrap(), whole);
    }
    for damage in [&b""[..], b"\xff", b"sha256:../../../etc/passwd\n"] {
        fs::remove_file(&entry).unwrap();
        fs::write(&entry, damage).unwrap();
        assert_eq!(scene.store().folder_image(&scene.folder()).unwrap(), image);
    }
    assert_eq!(fs::read(&entry).unwrap().len(), "sha256:".len() + 64 + 1);
}

#[test]
fn many_at_a_time_pack_once() {
    let scene = Scene::new();
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    let digest = image.file_name().unwrap().to_owned();
    fs::remove_dir_all(scene.store_path()).unwrap();
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let store = scene.store();
                    barrier.wait();
                    let image = store.folder_image(&scene.folder()).unwrap();
                    // Made once: nobody replaces what another one has.
                    (image.clone(), fs::metadata(image).unwrap().ino())
                })
            })
            .collect();
        let images: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(images.iter().all(|image| *image == images[0]));
        assert_eq!(images[0].0.file_name(), Some(&*digest));
    });
    assert_eq!(scene.stored().len(), 2, "an image and its entry");
}

#[test]
fn the_store_is_its_owners_alone() {
    let scene = Scene::new();
    let image = scene.store().folder_image(&scene.folder()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&scene.store_path()), 0o700);
    assert_eq!(mode(&image), 0o400);
}
