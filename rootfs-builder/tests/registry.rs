//! Pulling from a real registry.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_rootfs_builder::{Access, Error, Image, Job, Name, Source, Store};
use support::layout::{Layer, Layout};
use support::registry::{Front, Mischief, Registry};
use support::{Scene, run};

/// Speaks without TLS.
fn plain() -> Access {
    Access { verify_tls: false, credentials: None }
}

fn pull(store: &Store, name: &str, access: &Access) -> Result<Image, Error> {
    store.pull(&Name::parse(name).unwrap(), access, &Job::quiet())
}

/// A layout with an image whose one layer does not compress well.
fn layout(scene: &Scene) -> PathBuf {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(300_000)
    .collect();
    let layers = [Layer::new().file("noise", &noise).bytes(), Layer::new().file("small", b"x").bytes()];
    Layout::new(&scene.path().join("layout"), &layers).finish()
}

/// The root file system that the layout's image gives when it is imported.
fn expected(scene: &Scene, layout: &Path) -> Vec<u8> {
    let store = Store::open(scene.path().join("expected")).unwrap();
    let image = store.import(&Source::Path(layout.into()), None, &Job::quiet()).unwrap().remove(0);
    bytes(&store, &image)
}

fn bytes(store: &Store, image: &Image) -> Vec<u8> {
    fs::read(store.rootfs(image, &Job::quiet()).unwrap().path()).unwrap()
}

#[test]
fn by_tag_and_by_digest() {
    let scene = Scene::new();
    let layout = layout(&scene);
    let registry = Registry::start();
    registry.fill(&layout, "team/app:1", &[]);
    let name = format!("{}/team/app", registry.address);
    let image = pull(&scene.store(), &format!("{name}:1"), &plain()).unwrap();
    assert_eq!(image.names(), [format!("{name}:1")]);
    assert_eq!(bytes(&scene.store(), &image), expected(&scene, &layout));
    let by_digest = format!("{name}@{}", image.digest());
    let again = pull(&scene.store(), &by_digest, &plain()).unwrap();
    assert_eq!(again.names(), [format!("{name}:1"), by_digest.clone()]);
    assert_eq!(scene.store().find(&by_digest).unwrap().id(), image.id());

    let error = pull(&scene.store(), &format!("{name}:2"), &plain()).unwrap_err().to_string();
    assert!(error.contains("app:2") && error.contains("does not exist"), "{error}");
    let error =
        pull(&scene.store(), &format!("{}/none", registry.address), &plain()).unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
    let wrong = format!("{name}@sha256:{}", "0".repeat(64));
    assert!(pull(&scene.store(), &wrong, &plain()).is_err());
    let address = registry.address.clone();
    drop(registry);
    let error = pull(&scene.store(), &format!("{address}/team/app"), &plain()).unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn of_an_index_the_image_for_this_machine() {
    let scene = Scene::new();
    let path = scene.path().join("index");
    let mut manifests = Vec::new();
    for (architecture, content) in [("arm64", b"arm"), ("amd64", b"amd")] {
        let mut layout = Layout::new(&path, &[Layer::new().file("which", content).bytes()]);
        layout.config["architecture"] = architecture.into();
        let config =
            layout.blob("application/vnd.oci.image.config.v1+json", layout.config.to_string().as_bytes());
        layout.manifest["config"] = config;
        let manifest = layout.manifest.to_string();
        let mut descriptor = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        descriptor["platform"] = serde_json::json!({ "architecture": architecture, "os": "linux" });
        manifests.push(descriptor);
    }
    let layout = Layout::new(&path, &[]);
    let index = |manifests: &[serde_json::Value]| {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index =
            serde_json::json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        let mut inner = layout.blob(media_type, index.to_string().as_bytes());
        inner["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "latest" });
        let outer = serde_json::json!({ "schemaVersion": 2, "manifests": [inner] });
        fs::write(path.join("index.json"), outer.to_string()).unwrap();
    };
    let registry = Registry::start();
    let name = format!("{}/multi", registry.address);
    index(&manifests);
    registry.fill(&path, "multi", &[]);
    // On its way the index may be written in another form.
    let raw = ["--insecure-policy", "inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")];
    let raw = run("skopeo", Command::new("skopeo").args(raw));
    assert!(raw.contains("manifests"), "{raw}");
    let digest = format!("sha256:{}", support::layout::sha256(raw.as_bytes()));
    let which = |image: &Image| {
        let path = scene.store().rootfs(image, &Job::quiet()).unwrap().path().to_owned();
        support::erofs::read(&path)[&b"which"[..]].content.clone()
    };
    assert_eq!(which(&pull(&scene.store(), &name, &plain()).unwrap()), b"amd");
    assert_eq!(which(&pull(&scene.store(), &format!("{name}@{digest}"), &plain()).unwrap()), b"amd");
    let imported = scene.store().import(&Source::Path(path.clone()), None, &Job::quiet()).unwrap();
    assert_eq!(which(&imported[0]), b"amd");

    index(&manifests[..1]);
    registry.fill(&path, "multi:arm", &[]);
    let error = pull(&scene.store(), &format!("{name}:arm"), &plain()).unwrap_err().to_string();
    assert!(error.contains("linux/arm64") && error.contains("linux/amd64"), "{error}");
}

#[test]
fn an_interrupted_pull_goes_on_where_it_was() {
    let scene = Scene::new();
    let layout = layout(&scene);
    let registry = Registry::start();
    registry.fill(&layout, "app", &[]);
    for after in [Mischief::None, Mischief::NoParts] {
        let store = Store::open(scene.path().join(format!("store-{after:?}"))).unwrap();
        let front = Front::new(&registry, Mischief::CutOnce);
        let name = format!("{}/app", front.address);
        let error = pull(&store, &name, &plain()).unwrap_err();
        assert!(matches!(error, Error::Registry { .. }), "{error}");
        assert!(store.images().unwrap().is_empty());
        *front.mischief.lock().unwrap() = after;
        let before = front.blobs.lock().unwrap().len();
        let image = pull(&store, &name, &plain()).unwrap();
        assert_eq!(bytes(&store, &image), expected(&scene, &layout));
        let asked = front.blobs.lock().unwrap()[before..].to_vec();
        let parts = asked.iter().filter(|request| request.contains("range: bytes=")).count();
        assert_eq!(parts, 1, "{asked:?}");
        // Another image with the same layers: nothing is asked for.
        let before = front.blobs.lock().unwrap().len();
        pull(&store, &name, &plain()).unwrap();
        assert_eq!(front.blobs.lock().unwrap().len(), before);
        assert_eq!(fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn what_is_damaged_on_the_way_is_refused() {
    let scene = Scene::new();
    let registry = Registry::start();
    registry.fill(&layout(&scene), "app", &[]);
    let front = Front::new(&registry, Mischief::Damage);
    let name = format!("{}/app", front.address);
    let error = pull(&scene.store(), &name, &plain()).unwrap_err().to_string();
    assert!(error.to_lowercase().contains("digest"), "{error}");
    assert!(scene.store().images().unwrap().is_empty());
    *front.mischief.lock().unwrap() = Mischief::None;
    pull(&scene.store(), &name, &plain()).unwrap();
}

#[test]
fn with_a_token() {
    let scene = Scene::new();
    let layout = layout(&scene);
    let registry = Registry::start();
    registry.fill(&layout, "app", &[]);
    let front = Front::new(&registry, Mischief::Bearer);
    let image = pull(&scene.store(), &format!("{}/app", front.address), &plain()).unwrap();
    assert_eq!(bytes(&scene.store(), &image), expected(&scene, &layout));
}

#[test]
fn with_a_password() {
    let scene = Scene::new();
    let registry = Registry::with(|folder| {
        // The password is `secret`.
        fs::write(
            folder.join("htpasswd"),
            "user:$2y$04$ODKEXbsVhGviqjDsR6IZsuwS.FBgb7igmnhlt5hFo0Q52MX1weVIK\n",
        )
        .unwrap();
        format!("auth:\n>htpasswd:\n>>realm: test\n>>path: {}/htpasswd", folder.display())
    });
    registry.fill(&layout(&scene), "app", &["--dest-creds", "user:secret"]);
    let name = format!("{}/app", registry.address);
    let with = |auth: Option<&str>| {
        let file = scene.path().join("auth.json");
        let auths = auth
            .map_or(serde_json::json!({}), |auth| serde_json::json!({ &registry.address: { "auth": auth } }));
        fs::write(&file, serde_json::json!({ "auths": auths }).to_string()).unwrap();
        pull(&scene.store(), &name, &Access { verify_tls: false, credentials: Some(file) })
    };
    // Base64 of user:wrong and user:secret.
    for wrong in [None, Some("dXNlcjp3cm9uZw==")] {
        let error = with(wrong).unwrap_err().to_string();
        assert!(error.contains("podman login"), "{error}");
    }
    with(Some("dXNlcjpzZWNyZXQ=")).unwrap();
    let missing = Access { verify_tls: false, credentials: Some(scene.path().join("none.json")) };
    let error = pull(&scene.store(), &name, &missing).unwrap_err().to_string();
    assert!(error.contains("none.json"), "{error}");
}

#[test]
fn tls_is_insisted_on_unless_told_otherwise() {
    const NAME: &str = "MOTE_TEST_TLS_NAME";
    if let Some(name) = std::env::var_os(NAME) {
        // With the certificate among those that the system trusts.
        let scene = Scene::new();
        pull(&scene.store(), name.to_str().unwrap(), &Access::default()).unwrap();
        return;
    }
    let scene = Scene::new();
    let registry = Registry::with(|folder| {
        let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ]);
        openssl.args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        run("openssl", openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        format!("  tls:\n    certificate: {}\n    key: {}", certificate.display(), key.display())
    });
    registry.fill(&layout(&scene), "app", &[]);
    let name = format!("{}/app", registry.address);
    let error = pull(&scene.store(), &name, &Access::default()).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    pull(&scene.store(), &name, &plain()).unwrap();
    let trusting = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls_is_insisted_on_unless_told_otherwise", "--nocapture"])
        .env(NAME, &name)
        .env("SSL_CERT_FILE", registry.folder().join("cert.pem"))
        .status()
        .unwrap();
    assert!(trusting.success());
    // Without TLS, nothing is sent in the clear unless that is allowed.
    let open = Registry::start();
    let error = pull(&scene.store(), &format!("{}/app", open.address), &Access::default()).unwrap_err();
    assert!(matches!(error, Error::Registry { .. }), "{error}");
}
