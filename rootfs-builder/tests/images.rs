//! Images of every kind, compared with what other tools make of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use mote_rootfs_builder::{Image, Job, Name, Source, Store};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use support::layout::{Layer, Layout};
use support::{Scene, erofs, is_root, run, set_attribute, tree};

fn umoci(arguments: &[&str]) -> String {
    run("umoci", Command::new("umoci").args(arguments))
}

fn skopeo(arguments: &[&str]) -> String {
    run("skopeo", Command::new("skopeo").args(["--insecure-policy"]).args(arguments))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Makes a layer of whatever `change` does to the image's root file system.
fn add_layer(layout: &Path, change: impl FnOnce(&Path)) {
    let image = format!("{}:latest", layout.display());
    let work = tempfile::tempdir().unwrap();
    let bundle = work.path().join("bundle");
    let rootless = if is_root() { vec![] } else { vec!["--rootless"] };
    umoci(&[&["unpack", "--image", &image][..], &rootless, &[&text(&bundle)]].concat());
    change(&bundle.join("rootfs"));
    umoci(&["repack", "--image", &image, &text(&bundle)]);
}

/// What umoci makes of the image.
fn unpacked(layout: &Path, to: &Path) -> PathBuf {
    let image = format!("{}:latest", layout.display());
    let rootless = if is_root() { vec![] } else { vec!["--rootless"] };
    umoci(&[&["unpack", "--image", &image][..], &rootless, &[&text(to)]].concat());
    to.join("rootfs")
}

fn import(store: &Store, path: &Path) -> Image {
    let mut images = store.import(&Source::Path(path.into()), None, &Job::quiet()).unwrap();
    assert_eq!(images.len(), 1);
    images.remove(0)
}

fn rootfs(store: &Store, image: &Image) -> PathBuf {
    store.rootfs(image, &Job::quiet()).unwrap().path().to_owned()
}

fn set_times(root: &Path, path: &str, time: Duration) {
    File::open(root.join(path)).unwrap().set_modified(UNIX_EPOCH + time).unwrap();
}

/// An image of three layers with everything that an image can have.
fn rich_image(layout: &Path) {
    umoci(&["init", "--layout", &text(layout)]);
    umoci(&["new", "--image", &format!("{}:latest", layout.display())]);
    add_layer(layout, |root| {
        for number in 0..300_usize {
            let folder = root.join(format!("many/{}", number % 7));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("file-{number}")), vec![b'x'; number * 97]).unwrap();
        }
        fs::write(root.join("program"), "setuid").unwrap();
        fs::set_permissions(root.join("program"), fs::Permissions::from_mode(0o6755)).unwrap();
        fs::hard_link(root.join("program"), root.join("many/0/linked")).unwrap();
        fs::create_dir(root.join("tmp")).unwrap();
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("../../../etc/passwd", root.join("leads-out")).unwrap();
        symlink("many/1", root.join("to-folder")).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"\xff not UTF-8 \n")), "odd").unwrap();
        fs::create_dir_all(root.join("d".repeat(200)).join("e".repeat(200))).unwrap();
        fs::write(root.join("d".repeat(200)).join("e".repeat(200)).join("f".repeat(255)), "long").unwrap();
        let mut sparse = File::create(root.join("sparse")).unwrap();
        sparse.seek(SeekFrom::Start(5 << 20)).unwrap();
        sparse.write_all(b"end").unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
        set_times(root, "program", Duration::new(1_234_567_890, 987_654_321));
        set_attribute(&root.join("many/1"), "user.of-a-folder", &[0, 255]);
        if is_root() {
            // cap_net_raw+ep, version 2.
            let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            set_attribute(&root.join("many/2/file-2"), "security.capability", &capability);
            chown(root.join("many/3/file-3"), Some(70_000), Some(3_000_000_000)).unwrap();
            for (name, kind, major, minor) in
                [("null", SFlag::S_IFCHR, 1, 3), ("disk", SFlag::S_IFBLK, 259, 70_000)]
            {
                mknod(&root.join(name), kind, Mode::from_bits_truncate(0o660), makedev(major, minor))
                    .unwrap();
            }
        }
    });
    add_layer(layout, |root| {
        fs::remove_dir_all(root.join("many/4")).unwrap();
        fs::remove_file(root.join("many/5/file-5")).unwrap();
        fs::remove_file(root.join("many/6/file-6")).unwrap();
        fs::create_dir(root.join("many/6/file-6")).unwrap();
        fs::write(root.join("many/6/file-6/inside"), "was a file").unwrap();
        fs::remove_dir_all(root.join("many/0")).unwrap();
        fs::write(root.join("many/0"), "was a folder").unwrap();
        fs::write(root.join("many/1/file-1"), "changed").unwrap();
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o755)).unwrap();
    });
    add_layer(layout, |root| {
        fs::remove_file(root.join("many/0")).unwrap();
        fs::create_dir(root.join("many/0")).unwrap();
        fs::write(root.join("many/0/again"), "a folder again").unwrap();
        fs::hard_link(root.join("many/1/file-8"), root.join("linked-across-layers")).unwrap();
    });
}

#[test]
fn an_image_is_what_umoci_unpacks() {
    let scene = Scene::new();
    let layout = scene.path().join("layout");
    rich_image(&layout);
    let image = import(&scene.store(), &layout);
    let rootfs = rootfs(&scene.store(), &image);
    run("erofs-utils", Command::new("fsck.erofs").arg(&rootfs));
    let unpacked = unpacked(&layout, &scene.path().join("unpacked"));
    let mut actual = tree::with_small_numbers(erofs::read(&rootfs));
    let mut expected = tree::read(&unpacked);
    if !is_root() {
        // umoci cannot give files to others then.
        for node in actual.values_mut().chain(expected.values_mut()) {
            node.owner = (0, 0);
        }
    }
    tree::assert_same(&actual, &expected);
}

#[test]
fn layers_by_hand_are_what_umoci_unpacks() {
    let below = Layer::new()
        .folder("usr/lib", 0o755)
        .folder("./etc/", 0o755)
        .file("usr/lib/a", b"a")
        .symlink("lib", "usr/lib")
        .symlink("opt", "/srv/./here/..")
        .folder("srv/here", 0o711)
        .file("etc/passwd", b"root")
        .folder("data", 0o700)
        .file("data/one", b"1")
        .file("data/sub/two", b"2")
        .file("twice", b"first")
        .file("twice", b"second");
    let above = Layer::new()
        .file("lib/b", b"b")
        .file("opt/c", b"c")
        .link("hard", "lib/a")
        .file("data/new", b"new")
        .file("data/.wh..wh..opq", b"")
        .file("etc/.wh.passwd", b"")
        .file("etc/group", b"group")
        .file("implied/deep/file", b"x");
    let again = Layer::new().file(".wh.lib", b"").file("lib/d", b"d").folder("twice", 0o700);
    let scene = Scene::new();
    let layout =
        Layout::new(&scene.path().join("layout"), &[below.bytes(), above.bytes(), again.bytes()]).finish();
    let image = import(&scene.store(), &layout);
    let unpacked = unpacked(&layout, &scene.path().join("unpacked"));
    let mut actual = tree::with_small_numbers(erofs::read(&rootfs(&scene.store(), &image)));
    let mut expected = tree::read(&unpacked);
    for path in ["", "data", "etc", "implied", "implied/deep", "srv", "usr", "lib"] {
        // Nobody says when a folder was made that has no entry of its own: umoci takes the time of unpacking, as for folders in
        // which it removes something.
        for nodes in [&mut actual, &mut expected] {
            if let Some(node) = nodes.get_mut(path.as_bytes()) {
                node.modified = (0, 0);
                node.mode |= 0o755;
            }
        }
    }
    if !is_root() {
        for node in actual.values_mut().chain(expected.values_mut()) {
            node.owner = (0, 0);
        }
    }
    tree::assert_same(&actual, &expected);
}

#[test]
fn all_roads_lead_to_the_same_bytes() {
    let scene = Scene::new();
    let layout = scene.path().join("layout");
    rich_image(&layout);
    let from = format!("oci:{}:latest", layout.display());
    let at = |name: &str| scene.path().join(name);
    let first = import(&scene.store(), &layout);
    let expected = fs::read(rootfs(&scene.store(), &first)).unwrap();
    let to = |kind: &str, name: &str, options: &[&str]| {
        let target = format!("{kind}:{}", at(name).display());
        skopeo(&[&["copy", "-q"][..], options, &[&from, &target]].concat());
    };
    to("oci-archive", "oci.tar", &[]);
    to("docker-archive", "docker.tar", &[]);
    to("oci", "zstd:latest", &["--dest-compress-format", "zstd", "--dest-compress"]);
    run("gzip", Command::new("gzip").arg("--keep").arg(at("docker.tar")));
    for name in ["oci.tar", "docker.tar", "docker.tar.gz", "zstd"] {
        let store = Store::open(at(&format!("store-{name}"))).unwrap();
        let image = import(&store, &at(name));
        assert_eq!(image.id(), first.id(), "{name}");
        let path = rootfs(&store, &image);
        assert_eq!(path.file_name(), rootfs(&scene.store(), &first).file_name(), "{name}");
        assert_eq!(fs::read(path).unwrap(), expected, "{name}");
        // And in the first store nothing is made again.
        let before = scene.stored().len();
        let image = import(&scene.store(), &at(name));
        assert_eq!(image.id(), first.id());
        assert!(scene.stored().len() >= before);
    }
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let scene = Scene::new();
    let root = scene.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/hostname"), "box").unwrap();
    fs::hard_link(root.join("etc/hostname"), root.join("linked")).unwrap();
    symlink("etc/hostname", root.join("soft")).unwrap();
    fs::write(root.join("n".repeat(255)), vec![1; 5000]).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"\xfe")), "").unwrap();
    fs::create_dir(root.join("d".repeat(150))).unwrap();
    fs::write(root.join("d".repeat(150)).join("e".repeat(150)), "").unwrap();
    symlink("t".repeat(300), root.join("long-link")).unwrap();
    set_attribute(&root.join("etc"), "user.a", b"\n=\0");
    set_times(&root, "etc/hostname", Duration::new(1_700_000_000, 123_456_789));
    let tar = scene.path().join("root.tar");
    let pack = |options: &[&str], to: &Path| {
        let mut command = Command::new("tar");
        command.args([
            "--create",
            "--sort=name",
            "--xattrs",
            "--format=posix",
            "--pax-option=delete=atime,delete=ctime",
        ]);
        run("tar", command.args(options).arg("--file").arg(to).arg("-C").arg(&root).arg("."));
    };
    pack(&[], &tar);
    let packed = scene.path().join("root.tar.gz");
    pack(&["--gzip"], &packed);
    let pipe = scene.path().join("fifo");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let (bytes, to) = (fs::read(&tar).unwrap(), pipe.clone());
    let writer = std::thread::spawn(move || fs::write(to, bytes).unwrap());
    let expected = tree::read(&root);
    let mut made = Vec::new();
    for source in [&root, &tar, &packed, &pipe] {
        let image = import(&scene.store(), source);
        assert_eq!(image.names(), [] as [&str; 0]);
        assert!(image.process().command.is_empty());
        let path = rootfs(&scene.store(), &image);
        run("erofs-utils", Command::new("fsck.erofs").arg(&path));
        tree::assert_same(&tree::with_small_numbers(erofs::read(&path)), &expected);
        made.push(path);
    }
    writer.join().unwrap();
    assert_eq!(made[1], made[2], "compressed or not");
    assert_eq!(made[1], made[3], "file or pipe");
    let name = Name::parse_local("mine:1").unwrap();
    let job = Job::quiet();
    let image = scene.store().import(&Source::Path(tar), Some(&name), &job).unwrap().remove(0);
    assert_eq!(image.names(), ["localhost/mine:1"]);
    assert_eq!(scene.store().find("mine:1").unwrap().id(), image.id());
    assert_eq!(scene.store().find(&image.id().short()).unwrap().id(), image.id());
}

#[test]
fn what_is_exported_can_be_imported() {
    let scene = Scene::new();
    let layout = scene.path().join("layout");
    rich_image(&layout);
    let name = Name::parse("docker.io/library/rich:1").unwrap();
    let image = scene.store().import(&Source::Path(layout), Some(&name), &Job::quiet()).unwrap().remove(0);
    let archive = scene.path().join("exported.tar");
    scene.store().export(&image, File::create(&archive).unwrap(), &Job::quiet()).unwrap();
    let inspected = skopeo(&["inspect", "--raw", &format!("oci-archive:{}", archive.display())]);
    assert_eq!(support::layout::sha256(inspected.as_bytes()), image.digest().hex());
    let other = Store::open(scene.path().join("other")).unwrap();
    let again = import(&other, &archive);
    assert_eq!((again.digest(), again.names()), (image.digest(), image.names()));
    // The store is a layout itself.
    let store = format!("oci:{}:{name}", scene.store_path().display());
    assert!(skopeo(&["inspect", "--raw", &store]).contains(&image.id().hex()));
}

#[test]
fn images_share_layers_and_garbage_goes_when_nothing_uses_it() {
    let scene = Scene::new();
    let store = scene.store();
    let base = Layer::new().file("base", &[1; 50_000]).bytes();
    let image = |tag: &str, content: &[u8]| {
        let own = Layer::new().file("own", content).bytes();
        let layout = Layout::new(&scene.path().join(tag), &[base.clone(), own]).finish();
        let name = Name::parse_local(&format!("x:{tag}")).unwrap();
        store.import(&Source::Path(layout), Some(&name), &Job::quiet()).unwrap().remove(0)
    };
    let one = image("one", b"1");
    assert_eq!(scene.stored().len(), 4 + 1, "manifest, configuration, two layers; a root file system");
    let two = image("two", b"2");
    assert_eq!(scene.stored().len(), 7 + 2, "one layer is shared");
    assert_eq!(one.layers()[0], two.layers()[0]);

    let held = store.rootfs(&one, &Job::quiet()).unwrap();
    let error = store.remove("x:one", false).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(store.images().unwrap().len(), 2);
    let removed = store.remove("x:one", true).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (1, vec![one.id()]));
    assert!(held.path().exists(), "it runs still");
    assert_eq!(scene.stored().len(), 4 + 2);
    drop(held);
    store.prune(false).unwrap();
    assert_eq!(scene.stored().len(), 4 + 1);
    assert!(store.find("x:one").unwrap_err().to_string().contains("x:one"));

    // A name that moves on leaves an image without a name.
    let again = image("two", b"3");
    let images = store.images().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(
        images.iter().filter(|image| image.names().is_empty()).map(Image::id).collect::<Vec<_>>(),
        [two.id()]
    );
    assert_eq!(store.prune(false).unwrap().deleted, [two.id()]);
    assert_eq!(store.find("x:two").unwrap().id(), again.id());
    // Removing a name of several keeps the image.
    let other = Name::parse_local("y").unwrap();
    store.import(&Source::Path(scene.path().join("two")), Some(&other), &Job::quiet()).unwrap();
    assert!(store.remove(&again.id().short(), false).is_err(), "several names");
    assert_eq!(store.remove("y", false).unwrap().deleted, []);
    assert_eq!(store.remove(&again.id().hex(), false).unwrap().deleted, [again.id()]);
    assert_eq!(scene.stored(), []);
}

#[test]
fn many_processes_import_at_once() {
    const SCENE: &str = "MOTE_TEST_IMPORT_SCENE";
    if let Some(path) = std::env::var_os(SCENE) {
        let path = PathBuf::from(path);
        let store = Store::open(path.join("store")).unwrap();
        let image = import(&store, &path.join("layout"));
        fs::metadata(rootfs(&store, &image)).unwrap();
        store.prune(false).unwrap();
        return;
    }
    let scene = Scene::new();
    let layer = (0..200).fold(Layer::new(), |layer, number| layer.file(&number.to_string(), &[7; 3000]));
    Layout::new(&scene.path().join("layout"), &[layer.bytes()]).finish();
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "many_processes_import_at_once"])
                .env(SCENE, scene.path())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(scene.store().images().unwrap().len(), 1);
    assert_eq!(scene.stored().len(), 3 + 1);
}
