//! What is remembered and what is believed; and that the probe comes to a verdict on the machine that runs the tests.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    time::{Duration, Instant},
};

use super::{cache::Cache, *};

#[test]
fn comes_to_a_verdict_quickly() {
    let Ok(kvm) = open() else { return };
    let start = Instant::now();
    let verdict = run_with_deadline(kvm);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    match verdict {
        Ok(()) => {}
        Err(ProbeFailure::NotExecuted(what)) => assert!(!what.contains('\n')),
        Err(other) => panic!("no verdict: {other}"),
    }
}

#[test]
fn remembers_the_first_verdict_of_a_boot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mote");
    let cache = Cache::open_in(&path, "boot-1").unwrap();
    assert_eq!(cache.read(), None);
    cache.write(Err("it stopped"));
    cache.write(Ok(()));
    assert_eq!(cache.read(), Some(Err("it stopped".into())));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);

    let next_boot = Cache::open_in(&path, "boot-2").unwrap();
    assert_eq!(next_boot.read(), None);
    next_boot.write(Ok(()));
    assert_eq!(next_boot.read(), Some(Ok(())));
}

#[test]
fn believes_only_what_nobody_else_could_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mote");
    let cache = Cache::open_in(&path, "boot").unwrap();
    let file = path.join("kvm-probe-boot");

    fs::write(&file, "usable\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(cache.read(), None, "writable by all");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(cache.read(), Some(Ok(())));

    fs::rename(&file, path.join("elsewhere")).unwrap();
    symlink("elsewhere", &file).unwrap();
    assert_eq!(cache.read(), None, "a symlink");
    fs::remove_file(&file).unwrap();

    for nonsense in ["", "usable", "usable\nx", "unusable: \x1b[2J\n", "unusable: no end"] {
        fs::write(&file, nonsense).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(cache.read(), None, "{nonsense:?}");
    }

    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Cache::open_in(&path, "boot").is_err(), "a folder that all can write to");
    symlink(&path, folder.path().join("link")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(Cache::open_in(&folder.path().join("link"), "boot").is_err(), "a symlink to a folder");
}
