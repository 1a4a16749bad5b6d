//! The command line, the ends, and real QEMU processes with guests of a few bytes. Those need QEMU, and do nothing where it is not
//! installed.

mod guest;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{ending::Ending, *};
use crate::{KernelLog, Milestone, Milestones, virtio::DeviceType};

/// How long QEMU may take for anything, in milliseconds.
const PATIENCE: u16 = 60_000;

fn machine(accel: Accel, devices: Vec<Attachment>) -> Machine {
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    Machine {
        accel,
        vcpus: 3,
        memory: 130 << 20,
        kernel: null(),
        initrd: null(),
        cmdline: "first,second=third quiet".into(),
        serial: null(),
        monitor: null(),
        complaints: null(),
        devices,
    }
}

fn attachment(device_type: DeviceType, queues: &'static [u16]) -> Attachment {
    Attachment { device_type, tag: None, queues, socket: File::open("/dev/null").unwrap().into() }
}

/// The values of all options with this name, in order.
fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
    arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
}

#[test]
fn the_command_line_has_everything() {
    let machine = machine(Accel::Tcg, Vec::new());
    let arguments = machine.arguments();
    assert_eq!(values(&arguments, "-accel"), ["tcg"]);
    assert_eq!(values(&arguments, "-smp"), ["3"]);
    assert_eq!(values(&arguments, "-m"), ["130M"]);
    assert_eq!(values(&arguments, "-object"), ["memory-backend-memfd,id=ram,share=on,size=136314880"]);
    assert_eq!(values(&arguments, "-append"), ["first,second=third quiet"]);
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        assert!(arguments.contains(&flag.to_owned()), "{flag}");
    }
    let inherited: Vec<_> = machine.inherited().collect();
    assert_eq!(inherited.len(), 4, "kernel, initrd, serial, monitor");
}

#[test]
fn devices_keep_their_order() {
    let devices = vec![
        attachment(DeviceType::Vsock, &[256, 256, 16]),
        attachment(DeviceType::Block, &[128]),
        attachment(DeviceType::Block, &[64, 32]),
    ];
    let machine = machine(Accel::Kvm, devices);
    let arguments = machine.arguments();
    assert_eq!(values(&arguments, "-cpu"), ["host"]);
    assert_eq!(
        values(&arguments, "-device"),
        [
            "vhost-user-vsock-device,chardev=device0",
            "vhost-user-blk,chardev=device1,num-queues=1,queue-size=128",
            "vhost-user-blk,chardev=device2,num-queues=2,queue-size=32",
        ]
    );
    assert_eq!(machine.inherited().count(), 7);
}

#[test]
fn ends_are_told_apart() {
    let success = ExitStatus::from_raw(0);
    let failure = ExitStatus::from_raw(1 << 8);
    let killed = ExitStatus::from_raw(libc::SIGKILL);
    let end = |status, killed, halted, last_words| {
        Ending { status, killed, halted, last_words, complaint: None }.exit()
    };
    assert_eq!(end(success, false, false, Some(Exit::Reboot)), Exit::Reboot);
    assert_eq!(end(success, false, false, Some(Exit::Panic)), Exit::Panic);
    assert_eq!(end(success, false, false, None), Exit::TripleFault);
    // It ended by itself before the signal came.
    assert_eq!(end(success, true, false, Some(Exit::Reboot)), Exit::Reboot);
    assert_eq!(end(killed, true, true, Some(Exit::PowerOff)), Exit::PowerOff);
    assert_eq!(end(killed, true, false, None), Exit::Stopped);
    // Somebody else's signal, say for want of memory.
    assert!(matches!(end(killed, false, false, None), Exit::Failed(why) if why.contains("signal: 9")));
    assert!(matches!(end(failure, true, false, None), Exit::Failed(why) if why.contains("exit status: 1")));
}

#[test]
fn the_last_complaint_is_found() {
    let last = |text: &[u8]| {
        let (mut qemu, ours) = UnixStream::pair().unwrap();
        let mut streams = Streams::new(vec![(Stream::Complaints, ours)], KernelLog::new().sink());
        qemu.write_all(text).unwrap();
        drop(qemu);
        streams.drain();
        streams.last_complaint()
    };
    assert_eq!(last(b""), None);
    assert_eq!(last(b"one\nqemu-system-x86_64: -m: too much\n\n"), Some("-m: too much".into()));
    assert_eq!(last(b"error: \xff qemu: that"), Some("error: \u{fffd} qemu: that".into()));
    let long = [vec![b'x'; 100_000], b"\nend".to_vec()].concat();
    assert_eq!(last(&long), Some("end".into()));
}

/// A VM that is to run `code`, and is found by `marker` among the processes.
fn config(code: &[u8], marker: &str, log: &KernelLog) -> Config {
    let mut kernel = tempfile::tempfile().unwrap();
    kernel.write_all(&guest::elf(code, true)).unwrap();
    Config {
        vcpus: 1,
        memory: 32 << 20,
        kernel,
        kernel_path: PathBuf::from("kernel"),
        initrd: b"initrd",
        cmdline: marker.to_owned(),
        devices: Vec::new(),
        log: log.clone(),
        verbose_log: false,
        milestones: Milestones::ignored(),
        seccomp: seccomp::Mode::Enforce,
        before_entry: Box::new(|| Ok(())),
    }
}

fn installed() -> bool {
    let installed =
        Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !installed {
        eprintln!("QEMU is not installed: not tested");
    }
    installed
}

/// The processes that have `marker` in an argument.
fn processes(marker: &str) -> Vec<u32> {
    let ids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| contains(&line, marker)))
        .collect()
}

fn contains(line: &[u8], marker: &str) -> bool {
    line.windows(marker.len()).any(|window| window == marker.as_bytes())
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(PATIENCE)) == Ok(1)
}

#[test]
fn guests_end_in_their_ways() {
    if !installed() {
        return;
    }
    let cases = [
        (guest::halting_after("[    0.1] reboot: System halted\n"), Exit::PowerOff),
        (guest::resetting_after("reboot: Restarting system\n"), Exit::Reboot),
        (guest::resetting_after("Kernel panic - not syncing: x\n"), Exit::Panic),
        (guest::resetting_after(""), Exit::TripleFault),
    ];
    for (index, (code, expected)) in cases.into_iter().enumerate() {
        let log = KernelLog::new();
        let marker = format!("guests-end-{index}-{}", std::process::id());
        let mut vm = Box::new(Qemu::default()).start(config(&code, &marker, &log)).unwrap();
        assert!(readable(vm.ended_fd()), "{expected}");
        assert_eq!(vm.wait(), expected, "{:?}", log.last_lines(5));
        assert_eq!(vm.wait(), expected, "twice");
        assert_eq!(processes(&marker), [0; 0]);
    }
}

#[test]
fn stopping_and_dropping_leave_nothing() {
    if !installed() {
        return;
    }
    let marker = format!("stopping-{}", std::process::id());
    let (sender, receiver) = mpsc::channel();
    let mut first = config(&guest::halting_after(""), &marker, &KernelLog::new());
    first.milestones = Milestones::new(move |milestone, _| sender.send(milestone).unwrap());
    let mut vm = Box::new(Qemu::default()).start(first).unwrap();
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [Milestone::VmCreated, Milestone::FirstEntry]);
    assert_eq!(processes(&marker).len(), 1);
    vm.stop();
    assert_eq!(vm.wait(), Exit::Stopped);
    assert_eq!(processes(&marker), [0; 0]);

    let vm = Box::new(Qemu::default())
        .start(config(&guest::halting_after(""), &marker, &KernelLog::new()))
        .unwrap();
    assert_eq!(processes(&marker).len(), 1);
    drop(vm);
    assert_eq!(processes(&marker), [0; 0]);
}

#[test]
fn errors_are_clear_and_leave_nothing() {
    let marker = format!("errors-{}", std::process::id());
    let start =
        |qemu: Qemu, config| Box::new(qemu).start(config).err().map(|error| error.to_string()).unwrap();
    let config = || config(&guest::halting_after(""), &marker, &KernelLog::new());

    let missing = Qemu { program: "qemu-that-is-not-there".into(), ..Qemu::default() };
    let text = start(missing, config());
    assert!(text.contains("Debian: qemu-system-x86") && text.contains("--hypervisor kvm"), "{text}");
    let mute = Qemu { program: "/bin/false".into(), ..Qemu::default() };
    assert_eq!(start(mute, config()), "QEMU: it ended without a word (exit status: 1)");

    let mut not_a_kernel = config();
    not_a_kernel.kernel = File::open("/dev/null").unwrap();
    assert!(start(Qemu::default(), not_a_kernel).starts_with("kernel kernel: "));
    let mut long = config();
    long.cmdline = "x".repeat(MAX_CMDLINE);
    assert!(matches!(Box::new(Qemu::default()).start(long), Err(Error::CommandLine)));

    if installed() {
        let mut no_entry = config();
        no_entry.kernel = tempfile::tempfile().unwrap();
        no_entry.kernel.write_all(&guest::elf(b"\xf4", false)).unwrap();
        assert_eq!(
            start(Qemu::default(), no_entry),
            "QEMU: Error loading uncompressed kernel without PVH ELF Note"
        );
    }
    assert_eq!(processes(&marker), [0; 0]);
}

const MARKER: &str = "MOTE_TEST_QEMU_MARKER";

/// Not a test: what [`dies_with_its_parent`] runs and kills.
#[test]
fn parent_that_is_killed() {
    let Ok(marker) = std::env::var(MARKER) else { return };
    let mut vm = Box::new(Qemu::default())
        .start(config(&guest::halting_after(""), &marker, &KernelLog::new()))
        .unwrap();
    println!("\nstarted");
    vm.wait();
}

#[test]
fn dies_with_its_parent() {
    if !installed() {
        return;
    }
    let marker = format!("parent-{}", std::process::id());
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "qemu::tests::parent_that_is_killed", "--nocapture"])
        .env(MARKER, &marker)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let started =
        BufReader::new(parent.stdout.take().unwrap()).lines().any(|line| line.unwrap() == "started");
    assert!(started);
    let [qemu] = processes(&marker)[..] else { panic!("not one QEMU process") };
    // SAFETY: makes a new descriptor; touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, qemu, 0) };
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap()) };
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(readable(pidfd.as_fd()), "QEMU outlived its parent");
}
