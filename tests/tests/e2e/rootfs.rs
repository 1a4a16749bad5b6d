//! The root file system: folders and images, and what may be changed.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use mote_tests::harness::{Output, installed, mote_run, run, sh, temporary, text};

/// A root folder with a shell in it.
fn folder(at: &Path) {
    fs::create_dir_all(at.join("bin")).unwrap();
    fs::copy("/bin/busybox", at.join("bin/busybox")).unwrap();
    fs::set_permissions(at.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["sh", "cat", "ls", "touch", "mount"] {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    fs::write(at.join("greeting"), "hello from a folder\n").unwrap();
}

fn with_root(root: &Path, options: &[&str], script: &str) -> Output {
    let store = root.parent().unwrap().join("store");
    run(
        mote_run(&["--rootfs", &text(root)])
            .env("MOTE_STORE", store)
            .args(options)
            .args(["--", "sh", "-c", script]),
        b"",
    )
}

#[test]
fn the_root_can_be_written_and_forgets() {
    assert_eq!(
        sh("echo new > /etc/hostname && rm /etc/passwd && mkdir /x && cat /etc/hostname").text(),
        "new\n"
    );
    assert_eq!(sh("ls -d /etc/passwd /x 2>/dev/null").text(), "/etc/passwd\n");
}

#[test]
fn read_only_is_read_only() {
    let output = run(
        mote_run(&["--read-only"]).args([
            "--",
            "sh",
            "-c",
            "echo x > /x; echo $?; mkdir /etc/y; echo $?; echo ok > /tmp/z && cat /tmp/z",
        ]),
        b"",
    );
    assert_eq!(output.text(), "1\n1\nok\n", "{output:?}");
    assert!(output.stderr.contains("Read-only file system"));
}

#[test]
fn not_even_root_in_the_guest_can_write_to_the_image() {
    let output = sh(
        "mount -o remount,rw / 2>/dev/null; dd if=/dev/zero of=/dev/vda bs=512 count=1 2>&1 | tail -n 1; \
                     cat /sys/block/vda/ro; blockdev --setrw /dev/vda; dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync; echo $?",
    );
    assert!(output.text().contains("\n1\n"), "{output:?}");
    assert_ne!(output.text().lines().last(), Some("0"), "{output:?}");
    assert_eq!(sh("echo fine").text(), "fine\n", "the image is as it was");
}

#[test]
fn a_folder_is_packed_and_never_changed() {
    let temporary = temporary();
    let root = temporary.path().join("root");
    folder(&root);
    let output = with_root(&root, &[], "cat /greeting; echo changed > /greeting; touch /new");
    assert_eq!(output.text(), "hello from a folder\n", "{output:?}");
    assert_eq!(fs::read_to_string(root.join("greeting")).unwrap(), "hello from a folder\n");
    assert!(!root.join("new").exists());
    // A change of the folder is noticed.
    fs::write(root.join("greeting"), "another\n").unwrap();
    assert_eq!(with_root(&root, &[], "cat /greeting").text(), "another\n");
}

#[test]
fn an_image_file_is_used_as_it_is() {
    let output =
        run(mote_run(&["--rootfs", &text(&installed("rootfs.erofs"))]).args(["--", "echo", "image"]), b"");
    assert_eq!(output.text(), "image\n", "{output:?}");
}

#[test]
fn what_is_no_root_is_refused() {
    let temporary = temporary();
    let at = |name: &str| temporary.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("nothing"), "").unwrap();
    fs::write(at("text"), "x".repeat(8192)).unwrap();
    let image = fs::read(installed("rootfs.erofs")).unwrap();
    fs::write(at("truncated"), &image[..image.len() / 2]).unwrap();
    let call = |path: &Path| with_root(path, &[], "true");
    call(&at("missing")).assert_failed(125, &["missing", "--rootfs"]);
    call(&at("empty")).assert_failed(125, &["empty"]);
    call(&at("nothing")).assert_failed(125, &["nothing", "empty"]);
    call(&at("text")).assert_failed(125, &["text", "EROFS"]);
    call(&at("truncated")).assert_failed(125, &["truncated"]);
    call(Path::new("/dev/null")).assert_failed(125, &["/dev/null"]);
}
