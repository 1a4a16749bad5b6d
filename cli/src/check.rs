//! `mote check`: what this host can do, a line each, with what to do about what is missing.

use std::{
    fmt::Display,
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use mote_runtime::LayerState;
use mote_vmm::kvm::probe;

/// How a check came out.
enum Verdict {
    /// Usable.
    Good(String),
    /// Not there; Mote works without it, but loses something.
    Lacking(String),
    /// Not there, and nothing replaces it.
    Missing(String),
}

use Verdict::{Good, Lacking, Missing};

pub(crate) fn check() -> ExitCode {
    let kvm = probe::probe();
    let qemu = mote_runtime::qemu_available();
    let any_hypervisor = kvm.is_ok() || qemu.is_some();
    let checks = [
        ("KVM", verdict_of_kvm(kvm, qemu.is_some())),
        ("QEMU", verdict_of_qemu(qemu.as_deref(), any_hypervisor)),
        ("guest kernel", found(mote_runtime::kernel(None))),
        ("default root", found(mote_runtime::default_rootfs())),
        ("initial ramdisk", Good(format!("built in, {} bytes", mote_runtime::initrd().len()))),
        ("vsock", Good("served by mote itself; the host needs no module".into())),
        ("mkfs.erofs", mkfs()),
        ("cgroups", cgroups()),
        ("moves of cgroups", moves()),
        ("user namespaces", user_namespaces()),
        ("landlock", landlock()),
    ];
    let walls = jail();
    let checks = checks.into_iter().map(|(name, verdict)| (name.to_owned(), verdict)).chain(walls);
    let mut usable = true;
    for (name, verdict) in checks {
        let (sign, text) = match verdict {
            Good(text) => ("ok  ", text),
            Lacking(text) => ("-   ", text),
            Missing(text) => {
                usable = false;
                ("FAIL", text)
            }
        };
        println!("{sign} {name:<24} {text}");
    }
    if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn found<E: Display>(path: Result<std::path::PathBuf, E>) -> Verdict {
    match path {
        Ok(path) => Good(path.display().to_string()),
        Err(error) => Missing(error.to_string()),
    }
}

fn verdict_of_kvm<E: Display>(kvm: Result<(), E>, qemu: bool) -> Verdict {
    match kvm {
        Ok(()) => Good("runs real guests".into()),
        Err(why) if qemu => {
            Lacking(format!("{why}; QEMU's software emulation is used instead, which is slower"))
        }
        Err(why) => Missing(format!("{why}; turn on virtualisation in the firmware, or install QEMU")),
    }
}

fn verdict_of_qemu(program: Option<&Path>, any_hypervisor: bool) -> Verdict {
    let advice = "qemu-system-x86_64 is not installed; apt-get install qemu-system-x86";
    match program {
        Some(program) => match first_line(Command::new(program).arg("--version")) {
            Some(line) => Good(format!("{line} ({})", program.display())),
            None => Missing(format!("{} does not start", program.display())),
        },
        None if any_hypervisor => Lacking(format!("{advice}, if KVM is ever not usable")),
        None => Missing(advice.into()),
    }
}

fn mkfs() -> Verdict {
    match first_line(Command::new("mkfs.erofs").arg("-V")) {
        Some(line) => Good(line),
        None => Lacking("not installed, needed for --rootfs FOLDER; apt-get install erofs-utils".into()),
    }
}

/// The walls around a sandbox, as this user gets them: tried out.
fn jail() -> Vec<(String, Verdict)> {
    let layers = match mote_runtime::jail_layers() {
        Ok(layers) => layers,
        Err(error) => return vec![("jail".into(), Missing(error.to_string()))],
    };
    let verdict = |state| match state {
        LayerState::InForce(form) => Good(form),
        LayerState::NotGranted(why) => Lacking(why),
    };
    layers.into_iter().map(|layer| (format!("jail: {}", layer.name), verdict(layer.state))).collect()
}

/// The first line that a program prints, on either stream; `None` if it cannot be started.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
}

fn cgroups() -> Verdict {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let types: Vec<_> =
        mounts.lines().filter_map(|line| line.split_once(" - ")?.1.split(' ').next()).collect();
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    match (types.contains(&"cgroup2"), types.contains(&"cgroup")) {
        (true, false) => Good(format!("v2, controllers: {}", controllers.trim())),
        (true, true) => Good("hybrid: v1 controllers, v2 mounted beside them".into()),
        (false, true) => Good("v1".into()),
        (false, false) => Lacking("not mounted; mount -t cgroup2 none /sys/fs/cgroup".into()),
    }
}

/// Whether a process changes its cgroup at once (cgroups(7), `favordynmods`). To make a VM, KVM's helper has to.
fn moves() -> Verdict {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let options = |line: &str| line.split_once(" - ")?.1.split(' ').nth(2).map(str::to_owned);
    let mut options = mounts.lines().filter_map(options);
    if options.any(|options| options.split(',').any(|option| option == "favordynmods")) {
        return Good("at once (favordynmods)".into());
    }
    Lacking(
        "slow, which makes starts some ms longer; mount -o remount,favordynmods /sys/fs/cgroup (Linux 6.0)"
            .into(),
    )
}

fn user_namespaces() -> Verdict {
    let read = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    match read("/proc/sys/user/max_user_namespaces") {
        None => Lacking("not in this kernel".into()),
        Some(0) => Lacking("turned off; sysctl user.max_user_namespaces=15000".into()),
        Some(_) if read("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) => {
            Lacking("for root only; sysctl kernel.unprivileged_userns_clone=1".into())
        }
        Some(max) => Good(format!("up to {max}")),
    }
}

fn landlock() -> Verdict {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no pointer, and only returns the version of the interface.
    let version = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    match version {
        1.. => Good(format!("version {version}")),
        _ => Lacking("not in this kernel, or not turned on (boot with lsm=landlock,…)".into()),
    }
}
