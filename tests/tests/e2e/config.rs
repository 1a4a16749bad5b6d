//! What a bundle's `config.json` means, as the container itself sees it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use mote_tests::harness::{Leftovers, Output, hypervisor, program, run, temporary, text};

/// A root folder with busybox in it.
fn root(at: &Path) {
    for folder in ["bin", "etc", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", at.join("bin/busybox")).unwrap();
    fs::set_permissions(at.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in [
        "sh", "cat", "grep", "id", "ls", "hostname", "mkdir", "touch", "stat", "mknod", "chmod", "mount",
        "readlink", "head", "sleep", "tail", "wc", "true", "rm", "tty",
    ] {
        symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    fs::write(at.join("etc/kept"), "kept\n").unwrap();
}

const MOUNTS: &str = r#"
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "gid=5"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}"#;

/// A configuration: what its process does, and more fields of the process, of the mounts, of `linux`, and of the whole. Of two fields
/// of one name the later one counts.
#[derive(Default)]
struct Config<'a> {
    script: &'a str,
    process: &'a str,
    mounts: &'a str,
    linux: &'a str,
    more: &'a str,
}

impl Config<'_> {
    fn text(&self) -> String {
        let comma = |part: &str| if part.is_empty() { String::new() } else { format!(", {part}") };
        let script = self.script.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!(
            r#"{{"ociVersion": "1.2.0", "root": {{"path": "rootfs"}},
                "process": {{"user": {{"uid": 0, "gid": 0}}, "cwd": "/", "env": ["PATH=/bin"],
                    "args": ["sh", "-c", "{script}"]{}}},
                "mounts": [{MOUNTS}{}],
                "linux": {{"namespaces": [{{"type": "pid"}}, {{"type": "mount"}}, {{"type": "ipc"}}, {{"type": "uts"}},
                    {{"type": "cgroup"}}]{}}}{}}}"#,
            comma(self.process),
            comma(self.mounts),
            comma(self.linux),
            comma(self.more)
        )
    }
}

fn run_bundle(folder: &Path) -> Output {
    let before = Leftovers::before();
    let output = run(
        Command::new(program()).args(["run", "--hypervisor", &hypervisor(), "--bundle", &text(folder)]),
        b"",
    );
    before.check();
    output
}

fn bundle(folder: &Path, config: &Config<'_>) -> Output {
    root(&folder.join("rootfs"));
    fs::write(folder.join("config.json"), config.text()).unwrap();
    run_bundle(folder)
}

fn contained(config: &Config<'_>) -> Output {
    bundle(temporary().path(), config)
}

/// The line of the output that begins with `name`, without it.
fn line<'o>(output: &'o str, name: &str) -> &'o str {
    let line = output.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in\n{output}")).trim()
}

#[test]
fn the_process_is_who_it_should_be() {
    let output = contained(&Config {
        script: "cat /proc/self/status; echo nofile $(ulimit -n) $(ulimit -Hn); echo umask $(umask); echo cwd $(readlink /proc/self/cwd); \
                 echo adj $(cat /proc/self/oom_score_adj); echo me $$; echo host $(hostname); echo domain $(cat /proc/sys/kernel/domainname); \
                 echo forward $(cat /proc/sys/net/ipv4/ip_forward); echo lo $(cat /sys/class/net/lo/flags); touch /w; echo made $(stat -c %u:%g:%a /tmp/x)",
        process: r#""user": {"uid": 1000, "gid": 100, "umask": 63, "additionalGids": [7, 8]}, "cwd": "/made/here",
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}], "noNewPrivileges": true, "oomScoreAdj": 77"#,
        mounts: "",
        linux: r#""sysctl": {"net.ipv4.ip_forward": "1"}"#,
        more: r#""hostname": "box", "domainname": "realm""#,
    });
    assert_eq!(output.status, 0, "{output:?}");
    let text = output.text();
    assert_eq!(line(&text, "Uid:"), "1000\t1000\t1000\t1000");
    assert_eq!(line(&text, "Gid:"), "100\t100\t100\t100");
    assert_eq!(line(&text, "Groups:"), "7 8");
    // What a program without file capabilities gets is what is ambient.
    assert_eq!(line(&text, "CapInh:"), "0000000000000020");
    assert_eq!(line(&text, "CapPrm:"), "0000000000000020");
    assert_eq!(line(&text, "CapEff:"), "0000000000000020");
    assert_eq!(line(&text, "CapBnd:"), "0000000000000021");
    assert_eq!(line(&text, "CapAmb:"), "0000000000000020");
    assert_eq!(line(&text, "NoNewPrivs:"), "1");
    assert_eq!(line(&text, "nofile"), "100 200");
    assert_eq!(line(&text, "umask"), "0077");
    assert_eq!(line(&text, "cwd"), "/made/here");
    assert_eq!(line(&text, "adj"), "77");
    assert_eq!(line(&text, "me"), "1");
    assert_eq!((line(&text, "host"), line(&text, "domain")), ("box", "realm"));
    assert_eq!(line(&text, "forward"), "1");
    assert_eq!(line(&text, "lo"), "0x9", "the loopback is up");
    assert!(output.stderr.contains("/w: Permission denied"), "{output:?}");
}

#[test]
fn paths_are_hidden_and_protected_and_the_root_is_closed() {
    let output = contained(&Config {
        script: "echo keys $(cat /proc/keys | wc -c); echo fs $(ls /proc/fs | wc -l); echo 1 > /proc/sys/kernel/shmmax; echo sys $?; \
                 touch /x; echo root $?; touch /tmp/y; echo tmp $?; touch /sys/fs/cgroup/z; echo group $?; \
                 echo cgroup $(cat /proc/self/cgroup); echo dev $(ls /dev | head -c 1000); echo fd $(readlink /dev/fd); \
                 echo ptmx $(readlink /dev/ptmx); echo null $(stat -c %t:%T:%a /dev/null); echo x > /dev/null; echo dn $?; grep ' /tmp ' /proc/mounts",
        process: r#""capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]}"#,
        mounts: r#"{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=4m", "noexec"]}"#,
        linux: r#""maskedPaths": ["/proc/keys", "/proc/fs", "/proc/none"], "readonlyPaths": ["/proc/sys", "/no/where"]"#,
        more: r#""root": {"path": "rootfs", "readonly": true}"#,
    });
    let text = output.text();
    assert_eq!((line(&text, "keys"), line(&text, "fs")), ("0", "0"), "{output:?}");
    assert_ne!(line(&text, "sys"), "0");
    assert_ne!(line(&text, "root"), "0");
    assert_eq!(line(&text, "tmp "), "0");
    assert_ne!(line(&text, "group"), "0");
    assert_eq!(line(&text, "cgroup"), "0::/");
    for name in ["full", "mqueue", "null", "ptmx", "pts", "random", "stdin", "tty", "urandom", "zero"] {
        assert!(line(&text, "dev ").split(' ').any(|one| one == name), "{name} {text}");
    }
    assert_eq!(line(&text, "fd"), "/proc/self/fd");
    assert_eq!(line(&text, "ptmx"), "pts/ptmx");
    assert_eq!(line(&text, "null"), "1:3:666");
    assert_eq!(line(&text, "dn"), "0");
    let tmp = text.lines().last().unwrap();
    assert!(
        tmp.starts_with("tmpfs /tmp tmpfs rw,nosuid,nodev,noexec") && tmp.contains("size=4096k"),
        "{tmp}"
    );
}

#[test]
fn resources_are_in_the_guests_cgroup_and_devices_are_ruled() {
    let output = contained(&Config {
        script: "cd /sys/fs/cgroup; for f in memory.max pids.max cpu.max cpu.weight memory.high; do echo $f $(cat $f); done; echo cpus $(grep -c ^processor /proc/cpuinfo); \
                 mknod /dev/one c 1 1; echo made $?; cat /dev/one; echo read $?; head -c 3 /dev/zero | wc -c",
        process: r#""capabilities": {"bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"]}"#,
        linux: r#""resources": {"memory": {"limit": 67108864}, "pids": {"limit": 50}, "cpu": {"shares": 1024, "quota": 150000, "period": 100000},
            "unified": {"memory.high": "60000000"}, "devices": [{"allow": false, "access": "rwm"}]}"#,
        ..Config::default()
    });
    let text = output.text();
    assert_eq!(line(&text, "memory.max"), "67108864", "{output:?}");
    assert_eq!(line(&text, "pids.max"), "50");
    assert_eq!(line(&text, "cpu.max"), "150000 100000");
    assert_eq!(line(&text, "cpu.weight"), "39");
    assert_eq!(line(&text, "memory.high"), "59998208", "in whole pages");
    assert_eq!(line(&text, "cpus"), "2");
    assert_eq!(line(&text, "made"), "0");
    assert_ne!(line(&text, "read"), "0");
    assert!(
        output.stderr.contains("/dev/one: Operation not permitted")
            || output.stderr.contains("'/dev/one': Operation not permitted"),
        "{output:?}"
    );
    assert_eq!(text.lines().last(), Some("3"));
}

#[test]
fn seccomp_decides_with_and_without_new_privileges() {
    let profile = r#""seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
    for process in [r#""noNewPrivileges": true"#, r#""noNewPrivileges": false, "user": {"uid": 5, "gid": 5}"#]
    {
        let output = contained(&Config {
            script: "grep ^Seccomp: /proc/self/status; mkdir /tmp/x; chmod 1 /tmp; echo status $?",
            process,
            linux: profile,
            ..Config::default()
        });
        assert_eq!(line(&output.text(), "Seccomp:"), "2", "{output:?}");
        assert!(output.stderr.contains("No space left on device"), "{output:?}");
        assert_eq!(line(&output.text(), "status"), "159", "SIGSYS");
    }
}

#[test]
fn binds_are_what_their_options_say() {
    let folder = temporary();
    let volume = folder.path().join("volume");
    fs::create_dir_all(volume.join("inside")).unwrap();
    fs::write(volume.join("file"), "one\n").unwrap();
    let (source, file) = (text(&volume), text(&volume.join("file")));
    let mounts = format!(
        r#"{{"destination": "/ro", "type": "bind", "source": "{source}", "options": ["rbind", "ro", "nodev"]}},
           {{"destination": "/rw", "type": "none", "source": "{source}", "options": ["bind", "noexec"]}},
           {{"destination": "/etc/one", "type": "bind", "source": "{file}", "options": ["bind", "ro"]}},
           {{"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}},
           {{"destination": "/etc/again", "type": "bind", "source": "{file}"}}"#
    );
    let output = bundle(
        folder.path(),
        &Config {
            script: "cat /ro/file /rw/file /etc/again; cat /etc/kept; echo two > /ro/file; echo ro $?; echo two > /rw/file; echo rw $?; \
                     cat /ro/file; touch /etc/new; grep -E ' /(ro|rw|etc) ' /proc/mounts",
            mounts: &mounts,
            ..Config::default()
        },
    );
    let out = output.text();
    assert!(out.starts_with("one\none\none\nkept\nro 1\nrw 0\ntwo\n"), "{output:?}");
    let mount = |target: &str| out.lines().find(|line| line.contains(target)).unwrap().to_owned();
    assert!(mount(" /ro ").contains("ro,nodev") && mount(" /rw ").contains("rw,noexec"), "{out}");
    assert!(mount(" /etc ").starts_with("tmpfs"));
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "two\n");
    assert!(!folder.path().join("rootfs/etc/new").exists(), "the copy is the container's own");
    assert!(folder.path().join("rootfs/etc/one").exists(), "the place for a file was made");
}

/// Gives all that is in a folder to a user.
fn give(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), uid, gid);
        }
    }
}

#[test]
fn a_user_namespace_has_its_own_root() {
    let folder = temporary();
    root(&folder.path().join("rootfs"));
    give(&folder.path().join("rootfs"), 5000, 6000);
    let config = Config {
        script: "echo id $(id -u):$(id -g); echo map $(cat /proc/self/uid_map); echo kept $(stat -c %u:%g /etc/kept); \
                 echo x > /new; echo new $(stat -c %u:%g /new); hostname other; echo named $(hostname); mount -t tmpfs none /tmp; echo mounted $?; \
                 echo x > /dev/null; echo null $?; echo me $$; cat /proc/1/status | head -n 1",
        process: r#""user": {"uid": 0, "gid": 0}, "capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]}"#,
        linux: r#""namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"}],
            "uidMappings": [{"containerID": 0, "hostID": 5000, "size": 100}], "gidMappings": [{"containerID": 0, "hostID": 6000, "size": 100}]"#,
        ..Config::default()
    };
    fs::write(folder.path().join("config.json"), config.text()).unwrap();
    let output = run_bundle(folder.path());
    let out = output.text();
    assert_eq!(line(&out, "id"), "0:0", "{output:?}");
    assert_eq!(line(&out, "map"), "0 5000 100");
    assert_eq!((line(&out, "kept"), line(&out, "new")), ("0:0", "0:0"));
    assert_eq!(
        (line(&out, "named"), line(&out, "mounted"), line(&out, "null")),
        ("other", "0", "0"),
        "{output:?}"
    );
    assert_eq!(line(&out, "me"), "1");
    use std::os::unix::fs::MetadataExt;
    let new = fs::metadata(folder.path().join("rootfs/new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (5000, 6000));
}

#[test]
fn what_is_wrong_with_the_program_is_said_before_it_starts() {
    let failed = |process: &str, words: &str| {
        contained(&Config { process, ..Config::default() }).assert_refused(1, words);
    };
    failed(
        r#""args": ["no-such-program"]"#,
        "exec: \\\"no-such-program\\\": executable file not found in $PATH",
    );
    failed(r#""args": ["/no/such"]"#, "stat /no/such: no such file or directory");
    failed(r#""args": ["/etc/kept"]"#, "permission denied");
    failed(r#""args": ["/etc"]"#, "/etc");
    failed(r#""cwd": "/etc/kept""#, "/etc/kept");
    failed(r#""cwd": "relative""#, "Cwd must be an absolute path");
    let empty = temporary();
    run_bundle(empty.path()).assert_refused(1, "JSON specification file config.json not found");
}

#[test]
fn hooks_run_in_the_container_before_its_program() {
    let hook = |script: &str| {
        format!(
            r#""hooks": {{"startContainer": [{{"path": "/bin/sh", "args": ["sh", "-c", "{script}"], "timeout": 20}}]}}"#
        )
    };
    let config =
        |more: &str| contained(&Config { script: "cat /tmp/state; echo program", more, ..Config::default() });
    let output = config(&hook("cat > /tmp/state; echo >> /tmp/state"));
    let out = output.text();
    assert!(out.contains("\"status\":\"created\"") && out.ends_with("program\n"), "{output:?}");
    let output = config(&hook("echo this is why; exit 3"));
    output.assert_refused(1, "run hook /bin/sh");
    output.assert_refused(1, "this is why");
    assert!(!output.text().contains("program"));
}
