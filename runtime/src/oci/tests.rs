//! Bundles and the programs they become.

use std::{fs, path::Path};

use mote_protocol::{IdList, Operation};
use serde_json::{Value, json};

use super::*;
use crate::program::Program;

/// A bundle in a folder of its own.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn new(config: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("rootfs")).unwrap();
        fs::write(folder.path().join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn load(&self) -> Result<Bundle, crate::Error> {
        Bundle::load(self.path())
    }
}

fn minimal() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
    })
}

/// The minimal configuration with one field, named by its path, set to something else.
fn with(path: &str, value: Value) -> Value {
    let mut config = minimal();
    let mut place = &mut config;
    for part in path.split('.') {
        place = &mut place[part];
    }
    *place = value;
    config
}

fn load(config: &Value) -> Result<Program, String> {
    let bundle = Made::new(config);
    bundle.load().and_then(|bundle| compile::container(&bundle, b"{}")).map_err(|error| error.to_string())
}

fn refused(config: &Value) -> String {
    load(config).unwrap_err()
}

/// The operations of a program, one line each.
fn lines(program: &Program) -> Vec<String> {
    program.operations().map(|operation| format!("{:?}", operation.unwrap())).collect()
}

fn has(config: &Value, line: &str) {
    let lines = lines(&load(config).unwrap());
    assert!(lines.iter().any(|one| one.contains(line)), "{line} is not among\n{}", lines.join("\n"));
}

fn position(lines: &[String], start: &str) -> usize {
    lines.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}"))
}

#[test]
fn wrong_bundles_are_refused_in_the_words_that_engines_know() {
    let folder = tempfile::tempdir().unwrap();
    let error = Bundle::load(folder.path()).unwrap_err().to_string();
    assert_eq!(error, "JSON specification file config.json not found");
    let error = Bundle::load(Path::new("/no/such/bundle")).unwrap_err().to_string();
    assert_eq!(error, "JSON specification file config.json not found");
    fs::write(folder.path().join("config.json"), "{ no json").unwrap();
    assert!(Bundle::load(folder.path()).unwrap_err().to_string().contains("config.json is not JSON"));

    let made = Made::new(&minimal());
    fs::remove_dir(made.path().join("rootfs")).unwrap();
    let error = made.load().unwrap_err().to_string();
    assert!(
        error.starts_with("invalid rootfs: stat /") && error.ends_with("no such file or directory"),
        "{error}"
    );

    for (path, value, wanted) in [
        ("process", Value::Null, "process property must not be empty"),
        ("process.cwd", json!("here"), "Cwd must be an absolute path"),
        ("process.cwd", json!(""), "Cwd property must not be empty"),
        ("process.args", json!([]), "args must not be empty"),
        ("root", Value::Null, "root must be specified"),
        ("ociVersion", json!("2.0.0"), "unsupported ociVersion \"2.0.0\""),
        ("ociVersion", json!("one"), "unsupported ociVersion"),
        ("ociVersion", json!(""), "unsupported ociVersion"),
        ("process.rlimits", json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), "soft is above hard"),
        ("process.args", json!(["a\u{0}b"]), "NUL"),
        ("process.env", json!(vec!["A=1"; 5000]), "more than 4096"),
        ("hostname", json!("x".repeat(65)), "at most 64 bytes"),
        ("linux.rootfsPropagation", json!("sometimes"), "rootfsPropagation"),
        ("linux.sysctl", json!({"../../etc/passwd": "1"}), "no name of a kernel parameter"),
        ("linux.namespaces", json!([{"type": "pid"}, {"type": "pid"}]), "duplicated"),
        ("linux.uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}]), "no user namespace"),
        ("linux.namespaces", json!([{"type": "user"}]), "needs uidMappings"),
        ("linux.timeOffsets", json!({"monotonic": {"secs": 1}}), "no time namespace"),
        ("linux.resources", json!({"unified": {"cgroup.procs": "1"}}), "no file of a cgroup's controller"),
        ("linux.resources", json!({"unified": {"memory.x/../y": "1"}}), "no file of a cgroup's controller"),
        ("mounts", json!([{"destination": "/x"}]), "type must be specified"),
        ("mounts", json!([{"destination": "/x", "type": "bind"}]), "source must be specified"),
        (
            "mounts",
            json!([{"destination": "/x", "type": "bind", "source": "/no/such"}]),
            "no such file or directory",
        ),
    ] {
        let error = refused(&with(path, value));
        assert!(error.contains(wanted), "{path}: {error}");
    }
}

#[test]
fn what_nobody_knows_is_passed_over() {
    let mut config = with("process.capabilities", json!({"bounding": ["CAP_KILL", "CAP_FUTURE"]}));
    config["surprise"] = json!({"a": 1});
    config["linux"]["surprise"] = json!([1]);
    has(&config, "BoundCapabilities { keep: 32 }");
}

#[test]
fn large_configurations_are_no_trouble() {
    let mut config = minimal();
    let mounts = (0..1000)
        .map(|number| json!({"destination": format!("/m/{number}"), "type": "tmpfs", "source": "tmpfs"}));
    config["mounts"] = mounts.collect();
    config["process"]["env"] = json!(["BIG=".to_owned() + &"x".repeat(128 << 10)]);
    config["annotations"] = json!({"big": "y".repeat(10 << 20)});
    let program = load(&config).unwrap();
    assert_eq!(program.operations().filter(|one| matches!(one, Ok(Operation::Mount { .. }))).count(), 1003);
    config["process"]["env"] = json!(["BIG=".to_owned() + &"x".repeat(600 << 10)]);
    assert!(refused(&config).contains("512 KiB"));
}

#[test]
fn a_container_is_made_in_an_order_that_leads_somewhere() {
    let mut config = minimal();
    config["process"]["user"] = json!({"uid": 5, "gid": 6, "umask": 63, "additionalGids": [7, 8]});
    config["process"]["oomScoreAdj"] = json!(100);
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]);
    config["hostname"] = json!("box");
    config["root"]["readonly"] = json!(true);
    config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
    config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    config["linux"]["resources"] =
        json!({"pids": {"limit": 10}, "devices": [{"allow": false, "access": "rwm"}]});
    config["mounts"] =
        json!([{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "ro"]}]);
    config["hooks"] = json!({"startContainer": [{"path": "/bin/hook", "timeout": 3}]});
    let lines = lines(&load(&config).unwrap());
    let order = [
        "MakeDirectory { path: WireStr(\"/proc\")",
        "Mount { fs_type: WireStr(\"proc\")",
        "MakeDirectory { path: WireStr(\"/sys/fs/cgroup/container\")",
        "WriteFile { path: WireStr(\"/sys/fs/cgroup/cgroup.subtree_control\")",
        "WriteFile { path: WireStr(\"/sys/fs/cgroup/container/pids.max\")",
        "FilterDevices",
        "WriteFile { path: WireStr(\"/sys/fs/cgroup/container/cgroup.procs\")",
        "WriteProc { path: WireStr(\"self/oom_score_adj\")",
        "Unshare",
        "BindMount",
        "SetRoot",
        "MakeDevice { path: WireStr(\"/dev/null\")",
        "BindTerminal",
        "WriteProc { path: WireStr(\"sys/net/ipv4/ip_forward\")",
        "ProtectPath",
        "MaskPath",
        "ChangeMount { target: WireStr(\"/\")",
        "EnterRoot",
        "SetHostname { name: WireStr(\"box\") }",
        "RaiseLoopback",
        "SetLimit { resource: 7, soft: 1, hard: 2 }",
        "ChangeDirectory",
        "BoundCapabilities",
        "KeepCapabilities",
        "SetIds { uid: 5, gid: 6",
        "SetSeccomp",
        "SetUmask { mask: 63 }",
        "CheckExecutable { name: WireStr(\"sh\"), path: WireStr(\"/bin\") }",
        "Await",
        "RunHook",
        "Exec",
    ];
    let positions: Vec<_> = order.iter().map(|start| position(&lines, start)).collect();
    assert!(positions.is_sorted(), "{positions:?}\n{}", lines.join("\n"));
    assert_eq!(positions.last(), Some(&(lines.len() - 1)));
    // Its last capabilities come after the filter, which took some to load.
    let sets: Vec<_> = lines.iter().filter(|line| line.starts_with("SetCapabilities")).collect();
    assert_eq!(sets[1], "SetCapabilities { effective: 0, permitted: 0, inheritable: 0, ambient: 0 }");
}

#[test]
fn a_filter_comes_last_for_who_may_gain_nothing() {
    let mut config = with("process.noNewPrivileges", json!(true));
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let lines = lines(&load(&config).unwrap());
    let positions = ["SetNoNewPrivileges", "SetCapabilities", "Await", "SetSeccomp", "Exec"];
    assert!(positions.map(|start| position(&lines, start)).is_sorted(), "{}", lines.join("\n"));
}

#[test]
fn a_further_process_joins_what_the_first_one_has() {
    let made = Made::new(&with("linux.seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"})));
    let bundle = made.load().unwrap();
    let process = Bundle::process(br#"{"args": ["id"], "cwd": "/tmp", "oomScoreAdj": 3}"#).unwrap();
    let lines = lines(&compile::exec(&bundle, &process).unwrap());
    assert!(lines[0].contains("container/cgroup.procs"), "{lines:?}");
    assert!(lines[1].starts_with("WriteProc"), "{lines:?}");
    assert_eq!(lines[2], format!("Join {{ process: ProcessId(1), namespaces: {} }}", 0x2e02_0000));
    assert!(!lines.iter().any(|line| line == "Await" || line.starts_with("MakeDirectory")));
    assert!(lines.iter().any(|line| line.starts_with("SetSeccomp")));
    for (text, wanted) in [
        ("", "process.json is not JSON"),
        ("{}", "Cwd property"),
        (r#"{"args": [], "cwd": "/"}"#, "args must not be empty"),
        (r#"{"args": ["x"], "cwd": "x"}"#, "absolute"),
    ] {
        let error = Bundle::process(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn a_user_namespace_is_entered_after_what_only_the_guests_root_may_do() {
    let maps = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let mut config = with("linux.namespaces", json!([{"type": "user"}]));
    config["linux"]["uidMappings"] = maps.clone();
    config["linux"]["gidMappings"] = maps;
    config["process"]["user"] = json!({"uid": 3, "gid": 4});
    let made = lines(&load(&config).unwrap());
    let order = [
        "FilterDevices",
        "Unshare",
        "BindMount",
        "GiveStreams { uid: 1003, gid: 1004 }",
        "EnterUserNamespace",
    ];
    let positions: Vec<_> = order[1..].iter().map(|start| position(&made, start)).collect();
    assert!(positions.is_sorted(), "{}", made.join("\n"));
    assert!(made.iter().any(|line| line.contains("0 1000 10\\n")), "{}", made.join("\n"));
    // No devices can be made in it.
    assert!(!made.iter().any(|line| line.starts_with("MakeDevice")));
    config["process"]["user"]["uid"] = json!(10);
    assert!(refused(&config).contains("10:4 is not in the mappings"));
}

#[test]
fn mounts_are_what_their_options_say() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "x").unwrap();
    let source = folder.path().to_str().unwrap();
    let mount = |value: Value| with("mounts", json!([value]));
    let bind = |options: Value| {
        mount(json!({"destination": "/d", "type": "none", "source": source, "options": options}))
    };
    has(
        &bind(json!(["bind"])),
        "Bind { source: WireStr(\"/shares/1\"), target: WireStr(\"/d\"), recursive: false",
    );
    has(
        &bind(json!(["rbind", "ro", "nosuid"])),
        "target: WireStr(\"/d\"), recursive: false, set: 3, clear: 0, propagation: 0 }",
    );
    has(
        &bind(json!(["rbind", "rro"])),
        "target: WireStr(\"/d\"), recursive: true, set: 1, clear: 0, propagation: 0 }",
    );
    has(&bind(json!(["bind", "rslave"])), "recursive: true, set: 0, clear: 0, propagation: 524288 }");
    has(&bind(json!(["bind", "noatime"])), "recursive: false, set: 16, clear: 112, propagation: 0 }");
    has(&bind(json!(["bind", "ro", "rw"])), "recursive: false, set: 0, clear: 1, propagation: 0 }");
    assert!(refused(&bind(json!(["bind", "idmap"]))).contains("idmap needs"));
    let tmpfs = |options: Value| {
        mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options}))
    };
    has(
        &tmpfs(json!(["nosuid", "size=64k", "mode=1777"])),
        "target: WireStr(\"/t\"), attributes: 2, options: StrList",
    );
    has(&tmpfs(json!(["tmpcopyup", "ro"])), "MountCopy { target: WireStr(\"/t\"), attributes: 1");
    has(
        &mount(json!({"destination": "/c", "type": "cgroup", "options": ["ro", "nsdelegate"]})),
        "Mount { fs_type: WireStr(\"cgroup2\"), source: WireStr(\"\"), target: WireStr(\"/c\"), attributes: 1",
    );
    has(
        &mount(json!({"destination": "/dev/pts", "type": "devpts", "options": ["newinstance"]})),
        "Bind { source: WireStr(\"/dev/pts\")",
    );
    has(
        &mount(json!({"destination": "/n", "type": "bind", "source": "/dev/null"})),
        "MakeDevice { path: WireStr(\"/n\"), mode: 8630, major: 1, minor: 3",
    );
    has(
        &mount(json!({"destination": "/s", "type": "bind", "source": "/sys/fs/cgroup"})),
        "Mount { fs_type: WireStr(\"cgroup2\")",
    );
    assert!(
        refused(&mount(json!({"destination": "/p", "type": "bind", "source": "/proc/1/ns"})))
            .contains("host's kernel")
    );
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error =
        refused(&mount(json!({"destination": "/s", "type": "bind", "source": socket.to_str().unwrap()})));
    assert!(error.contains("cannot be reached from within a VM"), "{error}");
}

#[test]
fn shares_are_the_root_and_the_sources_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().to_str().unwrap();
    let made = Made::new(&with(
        "mounts",
        json!([
            {"destination": "/a", "type": "bind", "source": source, "options": ["ro"]},
            {"destination": "/proc", "type": "proc"},
            {"destination": "/n", "type": "bind", "source": "/dev/null"},
            {"destination": "/b", "source": "rootfs", "options": ["rbind"]},
        ]),
    ));
    let bundle = made.load().unwrap();
    let shares = bundle.shares().unwrap();
    let seen: Vec<_> = shares.iter().map(|share| (share.source.clone(), share.read_only)).collect();
    let root = made.path().join("rootfs");
    assert_eq!(seen, [(root.clone(), false), (source.into(), true), (root, false)]);
    let lines = lines(&compile::container(&bundle, b"").unwrap());
    assert!(lines.iter().any(|line| line.contains("\"/shares/1\"), target: WireStr(\"/a\")")));
    assert!(lines.iter().any(|line| line.contains("\"/shares/2\"), target: WireStr(\"/b\")")));
}

#[test]
fn a_machine_is_as_large_as_its_container() {
    let size = |resources: Value| {
        let size = Made::new(&with("linux.resources", resources)).load().unwrap().size();
        (size.vcpus, size.memory >> 20)
    };
    assert_eq!(size(json!({})), (1, 512));
    assert_eq!(size(json!({"memory": {"limit": 100_000_000}})), (1, 160));
    assert_eq!(size(json!({"memory": {"limit": -1}})), (1, 512));
    assert_eq!(size(json!({"cpu": {"quota": 150_000, "period": 100_000}})), (2, 512));
    assert_eq!(size(json!({"cpu": {"quota": -1, "cpus": "0-2,7"}})), (4, 512));
    assert_eq!(size(json!({"cpu": {"quota": 1_000_000, "cpus": "3"}})), (1, 512));
    assert_eq!(size(json!({"cpu": {"quota": 100_000_000}})), (32, 512));
    assert_eq!(size(json!({"cpu": {"cpus": "nonsense"}})), (1, 512));
}

#[test]
fn resources_become_files_of_the_cgroup() {
    let settings = |resources: Value| {
        let resources = serde_json::from_value(resources).unwrap();
        let settings = cgroup::settings(&resources).unwrap();
        settings.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        settings(json!({"memory": {"limit": 1000, "reservation": 500, "swap": -1}, "pids": {"limit": -1}})),
        "memory.max=1000 memory.low=500 pids.max=max"
    );
    assert_eq!(
        settings(json!({"cpu": {"shares": 1024, "quota": 5000, "period": 10_000, "burst": 7, "idle": 1}})),
        "cpu.weight=39 cpu.idle=1 cpu.max=5000 10000 cpu.max.burst=7"
    );
    assert_eq!(settings(json!({"cpu": {"quota": -1, "shares": 2}})), "cpu.weight=1 cpu.max=max");
    assert_eq!(
        settings(json!({"cpu": {"period": 1000, "shares": 262_144}})),
        "cpu.weight=10000 cpu.max=max 1000"
    );
    assert_eq!(
        settings(json!({"blockIO": {"weight": 10}, "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
            "unified": {"memory.high": "9", "cpu.max": "1 2"}})),
        "io.weight=default 1 hugetlb.2MB.max=4096 cpu.max=1 2 memory.high=9"
    );
}

#[test]
fn groups_are_limited() {
    let groups: Vec<_> = (0..1025).collect();
    assert!(refused(&with("process.user.additionalGids", json!(groups))).contains("1024"));
    let program = load(&with("process.user.additionalGids", json!([1, 2]))).unwrap();
    let wanted = IdList::from_bytes(&[1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
    assert!(program.operations().any(|one| one == Ok(Operation::SetIds { uid: 0, gid: 0, groups: wanted })));
}

/// Something to write for each field of the table in `docs/oci.md`, and a word of what comes of it: of the operation that applies it,
/// or of the refusal.
fn samples() -> Vec<(&'static str, Value, &'static str)> {
    let profile = |action: &str| json!({"defaultAction": action});
    let maps = json!([{"containerID": 0, "hostID": 1, "size": 5}]);
    let throttle = json!([{"major": 8, "minor": 0, "rate": 9}]);
    vec![
        ("process.user.uid", json!(77), "uid: 77"),
        ("process.user.gid", json!(78), "gid: 78"),
        ("process.user.umask", json!(7), "SetUmask { mask: 7 }"),
        ("process.user.additionalGids", json!([79]), "groups: IdList([79, 0, 0, 0])"),
        ("process.args", json!(["other"]), "CheckExecutable { name: WireStr(\"other\")"),
        ("process.env", json!(["PATH=/elsewhere"]), "path: WireStr(\"/elsewhere\")"),
        ("process.cwd", json!("/work"), "ChangeDirectory { path: WireStr(\"/work\") }"),
        ("process.capabilities", json!({"effective": ["CAP_CHOWN"]}), "effective: 1,"),
        ("process.rlimits", json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]), "SetLimit { resource: 4"),
        ("process.noNewPrivileges", json!(true), "SetNoNewPrivileges"),
        ("process.oomScoreAdj", json!(5), "self/oom_score_adj"),
        (
            "process.ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 4}),
            "SetIoPriority { priority: 16388 }",
        ),
        (
            "process.scheduler",
            json!({"policy": "SCHED_BATCH", "nice": 3}),
            "SetScheduler { policy: 3, flags: 0, nice: 3",
        ),
        ("process.execCPUAffinity", json!({"initial": "0"}), ""),
        ("process.apparmorProfile", json!("docker-default"), ""),
        ("process.selinuxLabel", json!("a:b:c"), ""),
        ("root.readonly", json!(true), "ChangeMount { target: WireStr(\"/\"), recursive: false, set: 1"),
        ("hostname", json!("box"), "SetHostname { name: WireStr(\"box\") }"),
        ("domainname", json!("realm"), "SetDomainname { name: WireStr(\"realm\") }"),
        ("mounts", json!([{"destination": "/q", "type": "mqueue"}]), "fs_type: WireStr(\"mqueue\")"),
        ("hooks.startContainer", json!([{"path": "/h"}]), "RunHook { path: WireStr(\"/h\")"),
        ("linux.namespaces.path", json!([{"type": "pid", "path": "/proc/1/ns/pid"}]), "cannot join"),
        ("linux.namespaces.time", json!([{"type": "time"}]), "Unshare { namespaces: 128 }"),
        ("linux.sysctl", json!({"kernel/shmmax": "9"}), "sys/kernel/shmmax"),
        (
            "linux.devices",
            json!([{"path": "/dev/x", "type": "c", "major": 9, "minor": 8}]),
            "WireStr(\"/dev/x\"), mode: 8630, major: 9, minor: 8",
        ),
        ("linux.resources.memory.limit", json!(1 << 30), "memory.max"),
        ("linux.resources.memory.reservation", json!(1 << 20), "memory.low"),
        ("linux.resources.memory.swap", json!(5), ""),
        ("linux.resources.memory.swappiness", json!(5), ""),
        ("linux.resources.memory.kernel", json!(5), ""),
        ("linux.resources.memory.kernelTCP", json!(5), ""),
        ("linux.resources.memory.disableOOMKiller", json!(true), ""),
        ("linux.resources.cpu.shares", json!(512), "cpu.weight"),
        ("linux.resources.cpu.quota", json!(5000), "cpu.max"),
        ("linux.resources.cpu.period", json!(5000), "cpu.max"),
        ("linux.resources.cpu.burst", json!(5), "cpu.max.burst"),
        ("linux.resources.cpu.idle", json!(1), "cpu.idle"),
        ("linux.resources.cpu.mems", json!("0"), ""),
        ("linux.resources.cpu.realtimeRuntime", json!(5), ""),
        ("linux.resources.cpu.realtimePeriod", json!(5), ""),
        ("linux.resources.pids.limit", json!(5), "pids.max"),
        ("linux.resources.blockIO.weight", json!(100), "io.weight"),
        ("linux.resources.blockIO.weightDevice", json!([{"major": 8, "minor": 0, "weight": 9}]), ""),
        ("linux.resources.blockIO.throttleReadBpsDevice", throttle, ""),
        ("linux.resources.hugepageLimits", json!([{"pageSize": "2MB", "limit": 1}]), "hugetlb.2MB.max"),
        ("linux.resources.network", json!({"classID": 1}), ""),
        ("linux.resources.rdma", json!({"mlx": {"hcaHandles": 1}}), ""),
        ("linux.resources.unified", json!({"memory.high": "5"}), "memory.high"),
        ("linux.resources.devices", json!([{"allow": false, "access": "rwm"}]), "FilterDevices"),
        ("linux.seccomp", profile("SCMP_ACT_LOG"), "SetSeccomp"),
        ("linux.seccomp.SCMP_ACT_NOTIFY", profile("SCMP_ACT_NOTIFY"), "SCMP_ACT_NOTIFY"),
        ("linux.rootfsPropagation", json!("shared"), "propagation: 1048576"),
        ("linux.maskedPaths", json!(["/proc/keys"]), "MaskPath { path: WireStr(\"/proc/keys\") }"),
        ("linux.readonlyPaths", json!(["/proc/sys"]), "ProtectPath { path: WireStr(\"/proc/sys\") }"),
        ("linux.mountLabel", json!("a:b:c"), ""),
        ("linux.personality", json!({"domain": "LINUX32"}), "SetPersonality { persona: 8 }"),
        ("linux.intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        ("linux.netDevices", json!({"eth0": {}}), "linux.netDevices"),
        ("linux.memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}), "linux.memoryPolicy"),
        ("linux.uidMappings", maps, "no user namespace"),
    ]
}

/// The rows of the table: field and verdict.
fn table() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/oci.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows = rows.filter_map(|(field, rest)| Some((field.to_owned(), rest.split_once(" |")?.0.to_owned())));
    rows.filter(|(_, verdict)| ["applied", "host", "ignored", "refused"].contains(&verdict.as_str()))
        .collect()
}

#[test]
fn the_table_of_fields_is_true() {
    let table = table();
    assert!(table.len() > 70, "{table:?}");
    let verdict_of = |field: &str| {
        let row = table.iter().find(|(name, _)| name == field);
        row.map(|(_, verdict)| verdict.as_str()).unwrap_or_else(|| panic!("{field} is not in the table"))
    };
    let before = lines(&load(&minimal()).unwrap());
    for (field, value, word) in samples() {
        // Some rows are about a value of the field above.
        let place = match field {
            "linux.namespaces.path" | "linux.namespaces.time" => "linux.namespaces",
            "linux.seccomp.SCMP_ACT_NOTIFY" => "linux.seccomp",
            other => other,
        };
        let outcome = load(&with(place, value));
        match (verdict_of(field), outcome) {
            // These need more than one field to have an effect; alone they are refused.
            ("applied", Err(error)) if field == "linux.uidMappings" => {
                assert!(error.contains(word), "{error}")
            }
            ("applied", Ok(program)) => {
                let after = lines(&program);
                assert!(
                    after.iter().any(|line| line.contains(word)),
                    "{field}: no {word} in\n{}",
                    after.join("\n")
                );
                assert!(!before.iter().any(|line| line.contains(word)), "{field}: {word} is there anyway");
            }
            ("ignored", Ok(program)) => assert_eq!(lines(&program), before, "{field} has an effect"),
            ("refused", Err(error)) => assert!(error.contains(word), "{field}: {error}"),
            (verdict, outcome) => panic!("{field} is said to be {verdict}, but: {outcome:?}"),
        }
    }
    // Every row that says that something is applied, ignored or refused is looked at here, or by a test of its own.
    let elsewhere = [
        "ociVersion",
        "process.terminal",
        "process.consoleSize",
        "root.path",
        "mounts.uidMappings",
        "mounts.gidMappings",
        "linux.namespaces",
        "linux.namespaces.user",
        "linux.gidMappings",
        "linux.timeOffsets",
        "linux.resources.cpu.cpus",
    ];
    for (field, verdict) in &table {
        let seen = samples().iter().any(|(name, ..)| name == field);
        assert!(seen || verdict == "host" || elsewhere.contains(&field.as_str()), "{field} is not tested");
    }
}
