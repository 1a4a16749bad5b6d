//! Images that lie: a clear error, and nothing of them left in the store.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error as _;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use mote_rootfs_builder::layer::Limits;
use mote_rootfs_builder::{Error, Job, Source};
use support::Scene;
use support::layout::{Layer, Layout, sha256};

/// Imports what has to fail, in a store that has an image already; says everything that the error says.
fn refused(scene: &Scene, path: &Path, job: &Job<'_>) -> String {
    let before = scene.stored();
    let error = scene.store().import(&Source::Path(path.into()), None, job).unwrap_err();
    assert_eq!(scene.stored(), before, "{error}");
    let mut text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn scene() -> Scene {
    let scene = Scene::new();
    let good = Layout::new(&scene.path().join("good"), &[Layer::new().file("x", b"x").bytes()]).finish();
    scene.store().import(&Source::Path(good), None, &Job::quiet()).unwrap();
    scene
}

/// A layout of which `bend` bends the documents before they are written, and `break_` the files after that.
fn bent(scene: &Scene, bend: impl FnOnce(&mut Layout), break_: impl FnOnce(&Path)) -> String {
    let path = scene.path().join("bent");
    let _ = fs::remove_dir_all(&path);
    let mut layout = Layout::new(&path, &[Layer::new().file("own", b"content").bytes()]);
    bend(&mut layout);
    break_(&layout.finish());
    refused(scene, &path, &Job::quiet())
}

fn layer_path(path: &Path) -> std::path::PathBuf {
    path.join("blobs/sha256").join(sha256(&Layer::new().file("own", b"content").bytes()))
}

#[test]
fn blobs_are_what_they_are_called_or_nothing() {
    let scene = scene();
    let none = |_: &Path| {};
    let text = bent(
        &scene,
        |_| {},
        |path| {
            let mut layer = fs::read(layer_path(path)).unwrap();
            layer[600] ^= 1;
            fs::write(layer_path(path), layer).unwrap();
        },
    );
    assert!(text.contains("has the digest"), "{text}");
    let text = bent(
        &scene,
        |_| {},
        |path| {
            let layer = fs::read(layer_path(path)).unwrap();
            fs::write(layer_path(path), &layer[..layer.len() - 1]).unwrap();
        },
    );
    assert!(text.contains("bytes"), "{text}");
    let text = bent(
        &scene,
        |_| {},
        |path| {
            fs::OpenOptions::new().append(true).open(layer_path(path)).unwrap().write_all(b"x").unwrap();
        },
    );
    assert!(text.contains("more bytes"), "{text}");
    let text = bent(&scene, |_| {}, |path| fs::remove_file(layer_path(path)).unwrap());
    assert!(text.contains("missing"), "{text}");
    let text = bent(&scene, |layout| layout.manifest["layers"][0]["size"] = 7.into(), none);
    assert!(text.contains("manifest says 7"), "{text}");
    let text = bent(&scene, |layout| layout.manifest["layers"][0]["size"] = u64::MAX.into(), none);
    assert!(text.contains("--max-size"), "{text}");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let text = bent(&scene, |layout| layout.config["rootfs"]["diff_ids"][0] = wrong.clone().into(), none);
    assert!(text.contains("unpacks to") && text.contains(&wrong), "{text}");
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let scene = scene();
    let none = |_: &Path| {};
    let bend = |word: &str, bend: fn(&mut Layout)| {
        let text = bent(&scene, bend, none);
        assert!(text.contains(word), "{text} says nothing of {word}");
    };
    bend("schema version", |layout| layout.manifest["schemaVersion"] = 1.into());
    bend("digest", |layout| layout.manifest["layers"][0]["digest"] = "sha512:abc".into());
    bend("digest", |layout| layout.manifest["layers"][0]["digest"] = "../../../etc/passwd".into());
    bend("expected a sequence", |layout| layout.manifest["layers"] = "none".into());
    bend("1 layers, and the manifest of 2", |layout| {
        let layer = layout.manifest["layers"][0].clone();
        layout.manifest["layers"] = [layer.clone(), layer].to_vec().into();
    });
    bend("linux/arm64", |layout| layout.config["architecture"] = "arm64".into());
    bend("windows/amd64", |layout| layout.config["os"] = "windows".into());
    bend("configuration", |layout| layout.config = "nothing".into());
    bend("no SHA-256", |layout| layout.config["rootfs"]["diff_ids"][0] = "x".into());
    bend("4 MiB", |layout| {
        layout.config["history"] = vec![serde_json::json!({ "comment": "x".repeat(1000) }); 5000].into();
    });
    let text = bent(&scene, |_| {}, |path| fs::write(path.join("index.json"), "{").unwrap());
    assert!(text.contains("index is damaged"), "{text}");
    let text = bent(
        &scene,
        |_| {},
        |path| {
            fs::write(path.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        },
    );
    assert!(text.contains("no images"), "{text}");
}

#[test]
fn layers_that_lie_are_refused() {
    let scene = scene();
    let layer = |layer: Vec<u8>, word: &str| {
        let path = scene.path().join("lying");
        let _ = fs::remove_dir_all(&path);
        let text = refused(&scene, &Layout::new(&path, &[layer]).finish(), &Job::quiet());
        assert!(
            text.contains("cannot unpack the layer") && text.contains(word),
            "{text} says nothing of {word}"
        );
    };
    layer(Layer::new().link("x", "no/such/file").bytes(), "not there");
    layer(Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", b"").bytes(), "symbolic links");
    layer(Layer::new().file("f", b"").file("f/x", b"").bytes(), "not a folder");
    let mut truncated = Layer::new().file("x", &[7; 5000]).bytes();
    truncated.truncate(3000);
    layer(truncated, "middle of an entry");
    layer(vec![7; 5000], "the layer is damaged");
    // Only the beginning of what gzip and zstd make.
    layer(vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1], "cannot read the layer");
    layer(vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0], "cannot read the layer");
    assert!(!Path::new("/x").exists());
}

#[test]
fn bombs_stop_at_the_limit() {
    let scene = scene();
    let limits = Limits { bytes: 10 << 20, files: 100, metadata: 1 << 20 };
    let job = Job { limits, ..Job::quiet() };
    let import = |bytes: Vec<u8>| {
        let path = scene.path().join("bomb.tar.gz");
        fs::write(&path, bytes).unwrap();
        refused(&scene, &path, &job)
    };
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let large = gzip(&Layer::new().file("zeros", &vec![0; 20 << 20]).bytes());
    assert!(large.len() < 1_000_000);
    assert!(import(large).contains("more than 10485760 bytes"));
    let many = (0..101).fold(Layer::new(), |layer, number| layer.file(&number.to_string(), b""));
    assert!(import(gzip(&many.bytes())).contains("more than 100 files"));
}

#[test]
fn what_is_no_image_is_named() {
    let scene = scene();
    let file = |name: &str, content: &[u8]| {
        let path = scene.path().join(name);
        fs::write(&path, content).unwrap();
        refused(&scene, &path, &Job::quiet())
    };
    assert!(file("empty", b"").contains("empty"));
    assert!(file("text", "no archive\n".repeat(100).as_bytes()).contains("text"));
    assert!(refused(&scene, &scene.path().join("missing"), &Job::quiet()).contains("missing"));
    assert!(refused(&scene, scene.path(), &Job::quiet()).contains("lies in the folder"));
    let no_layer =
        Layer::new().file("manifest.json", br#"[{"Config":"c.json","RepoTags":null,"Layers":["l.tar"]}]"#);
    assert!(file("docker.tar", &no_layer.bytes()).contains("there is no c.json"));
}

#[test]
fn whoever_wants_to_stop_stops() {
    let scene = scene();
    let (read, write) = nix::unistd::pipe().unwrap();
    nix::unistd::write(&write, b"\x02").unwrap();
    let layout =
        Layout::new(&scene.path().join("other"), &[Layer::new().file("y", &[1; 100_000]).bytes()]).finish();
    let job = Job { stop: Some(read.as_fd()), ..Job::quiet() };
    let before = scene.stored();
    let error = scene.store().import(&Source::Path(layout.clone()), None, &job).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert_eq!(scene.stored(), before);
    scene.store().import(&Source::Path(layout), None, &Job::quiet()).unwrap();
}
