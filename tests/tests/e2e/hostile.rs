//! Guests that attack their host (`tests/guest`): the host goes on as if nothing had happened, or ends that one VM with one clear
//! line. Which class of bug each attack stands for is in docs/hostile-guests.md.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader},
    os::{
        fd::AsFd,
        unix::{
            fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
};

use mote_tests::harness::{
    HANG, Leftovers, children, collect, hypervisor, mote_run, program, received, run, shell_status,
    temporary, text, wait,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};

pub(crate) static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile-guest"));

/// The machine's memory: an odd amount, which nothing else in the process has.
const MEMORY_KIB: u64 = 34 << 10;
/// What the sandbox process may have in memory besides the guest's, whatever the guest does.
const OWN_KIB: u64 = 12 << 10;
/// How many lines may be logged about one guest.
const LOG_LINES: usize = 24;

/// `mote run` with the hostile guest as its kernel, from a file in `folder`.
fn hostile(folder: &Path, attack: &str) -> Command {
    let guest = folder.join("guest");
    fs::write(&guest, GUEST).unwrap();
    fs::set_permissions(&guest, fs::Permissions::from_mode(0o644)).unwrap();
    let option = format!("attack={attack}");
    let mut command = mote_run(&["--memory", "34m", "--cpus", "2", "--kernel", &text(&guest)]);
    command.args(["--kernel-options", &option]);
    command
}

/// The lines that come through a FIFO, from when somebody opens it until everybody has closed it.
fn lines(fifo: &Path) -> Receiver<String> {
    mkfifo(fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo).unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // Without a writer yet, reading would see an end.
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        let hang = PollTimeout::try_from(HANG).unwrap();
        assert_eq!(poll(&mut polled, hang), Ok(1), "nobody writes to the console");
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            // Nobody listens once the guest is done.
            let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    receiver
}

/// Waits until the guest says that it is done.
fn wait_done(child: &mut Child, console: &Receiver<String>) {
    let mut said = Vec::new();
    while let Ok(line) = console.recv_timeout(HANG) {
        match line.as_str() {
            "hostile: done" => return,
            _ if line.starts_with("hostile: ") => said.push(line),
            _ => {}
        }
        if said.last().is_some_and(|line| line.contains("failed") || line.contains("no such attack")) {
            break;
        }
    }
    let _ = kill(pid(child.id()), Signal::SIGTERM);
    let stderr = received(&collect(child.stderr.take()));
    let _ = wait(child);
    panic!("the guest did not finish; it said {said:?}, mote said {}", String::from_utf8_lossy(&stderr));
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

/// A value of `/proc/PID/status`.
fn status_field(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a process has in memory, in KiB, without guest memory and without what is only read from its program's file.
fn own_memory(process: u32) -> u64 {
    let kib = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let (mut size, mut sum) = (0, 0);
    for line in fs::read_to_string(format!("/proc/{process}/smaps")).unwrap().lines() {
        if line.starts_with("Size:") {
            size = kib(line);
        } else if line.starts_with("Anonymous:") && size < MEMORY_KIB {
            sum += kib(line);
        }
    }
    sum
}

fn assert_within_bounds(sandbox: u32) {
    let own = own_memory(sandbox);
    assert!(own < OWN_KIB, "the sandbox process has {own} KiB of its own in memory");
    if hypervisor() == "kvm" {
        let peak = status_field(sandbox, "VmHWM:");
        let file = fs::metadata(program()).unwrap().len() >> 10;
        assert!(peak < MEMORY_KIB + OWN_KIB + file, "the sandbox process had {peak} KiB in memory");
    }
    let threads = status_field(sandbox, "Threads:");
    assert!(threads < 16, "the sandbox process has {threads} threads");
    println!("{own} KiB of its own, {threads} threads");
}

fn assert_log_is_short(stderr: &str) {
    assert!(stderr.lines().count() <= LOG_LINES, "{stderr}");
    assert!(!stderr.contains("panicked at"), "{stderr}");
    let odd = |c: char| c.is_control() && c != '\n';
    assert!(!stderr.contains(odd), "what a guest says moves nobody's terminal: {stderr:?}");
}

/// The guest does its worst, and then waits for ever: memory, threads and log are bounded, and SIGTERM ends everything.
fn survives(attack: &str) {
    let folder = temporary();
    outlives(folder.path(), &mut hostile(folder.path(), attack));
}

/// The same with two shares, of which one is read-only: nothing of it changes, nor does what lies beside them.
fn survives_with_shares(attack: &str) {
    let folder = temporary();
    let at = |name: &str| folder.path().join(name);
    for name in ["shared", "read-only"] {
        fs::create_dir_all(at(name).join("folder")).unwrap();
        fs::write(at(name).join("file"), "shared\n").unwrap();
        symlink("../outside", at(name).join("link")).unwrap();
    }
    fs::create_dir(at("outside")).unwrap();
    fs::write(at("outside/secret"), "secret").unwrap();
    let seen = |names: [&str; 2]| names.map(|name| snapshot(&at(name)));
    let before = seen(["outside", "read-only"]);

    let mut command = hostile(folder.path(), attack);
    command.args(["-v", &format!("{}:/shared", at("shared").display())]);
    command.args(["-v", &format!("{}:/read-only:ro", at("read-only").display())]);
    // Few enough that a guest comes to the end of them.
    // SAFETY: the closure makes one system call between fork and exec.
    unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_NOFILE, 512, 512)?)) };
    outlives(folder.path(), &mut command);
    assert_eq!(seen(["outside", "read-only"]), before);
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "two shares, what is outside, the guest, its console: {names:?}");
}

/// What is in a folder, and what it looks like.
fn snapshot(folder: &Path) -> BTreeMap<String, (u32, u32, i64, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let seen = fs::symlink_metadata(&path).unwrap();
        let content = if seen.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        (text(&path), (seen.mode(), seen.uid(), seen.ctime_nsec(), content))
    });
    entries.collect()
}

fn outlives(folder: &Path, command: &mut Command) {
    let before = Leftovers::before();
    let fifo = folder.join("console");
    let console = lines(&fifo);
    let mut child = command
        .args(["--console", &text(&fifo), "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_done(&mut child, &console);
    let [sandbox] = children(child.id())[..] else { panic!("one sandbox process") };
    assert_within_bounds(sandbox);
    kill(pid(child.id()), Signal::SIGTERM).unwrap();
    let stderr = received(&collect(child.stderr.take()));
    assert_eq!(shell_status(wait(&mut child)), 128 + 15);
    assert_log_is_short(&String::from_utf8_lossy(&stderr));
    before.check();
}

/// The guest does something that ends the VM, with one line that contains each of `words`.
fn ends(attack: &str, words: &[&str]) {
    let before = Leftovers::before();
    let folder = temporary();
    let output = run(hostile(folder.path(), attack).args(["--", "true"]), b"");
    output.assert_failed(125, words);
    assert_log_is_short(&output.stderr);
    drop(folder);
    before.check();
}

macro_rules! attacks {
    ($($name:ident: $attack:literal $(, $with:ident)? $(ends with $words:expr)?;)+) => {
        $(
            #[test]
            fn $name() {
                attacks!(@ $attack $($with)? $($words)?);
            }
        )+
    };
    (@ $attack:literal shares) => { survives_with_shares($attack) };
    (@ $attack:literal) => { survives($attack) };
    (@ $attack:literal $words:expr) => { ends($attack, &$words) };
}

attacks! {
    every_register_in_every_state: "registers";
    registers_of_a_running_device: "registers-of-a-running-device";
    notifications_without_end: "notifications";
    broken_rings_of_the_disk: "rings";
    broken_rings_of_the_sockets: "rings-of-sockets";
    queues_over_one_another: "rings-over-one-another";
    rings_that_move_while_they_are_read: "rings-that-move";
    the_same_mistake_for_ever: "rings-broken-for-ever";
    requests_beyond_the_end: "block-beyond-the-end";
    writes_to_a_read_only_disk: "block-writes";
    status_bytes_into_nowhere: "block-status-into-nowhere";
    too_many_requests: "block-too-many";
    packets_with_lying_lengths: "vsock-lengths";
    packets_from_and_to_nobody: "vsock-addresses";
    credit_games: "vsock-credit";
    a_storm_of_connects: "vsock-storm";
    resets_of_everything: "vsock-resets";
    a_guest_that_takes_nothing: "vsock-silence";
    requests_with_lying_lengths: "fs-lengths", shares;
    requests_before_hello_and_hello_again: "fs-before-hello", shares;
    requests_about_nobody: "fs-nobody", shares;
    names_that_lead_out: "fs-names", shares;
    changes_of_a_read_only_share: "fs-read-only", shares;
    links_where_folders_were: "fs-links", shares;
    positions_that_cannot_be: "fs-positions", shares;
    files_that_are_never_closed: "fs-open-for-ever", shares;
    a_storm_of_forgets: "fs-forgets", shares;
    garbage_for_the_host: "control-garbage" ends with ["sent something that is not the protocol"];
    a_message_without_end: "control-too-long" ends with ["sent something that is not the protocol", "4294967295 bytes"];
    a_message_of_another_version: "control-other-version" ends with ["speaks version 99"];
    a_message_out_of_turn: "control-out-of-turn" ends with ["spoke out of turn"];
    words_for_a_terminal: "control-words" ends with ["the guest's agent failed", "mote: all is well"];
    a_guest_that_says_hello_and_nothing_else: "control-hello-and-nothing";
    floods_of_ports: "ports";
    floods_of_memory_without_devices: "memory-without-devices";
    floods_of_the_console: "console";
    last_words_for_a_terminal: "last-words" ends with ["panicked before its agent was ready", "owned"];
    a_triple_fault: "triple-fault" ends with ["triple fault"];
    a_guest_that_never_stops: "spin";
}
