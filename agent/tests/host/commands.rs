//! Starting, failing to start, signals, exit codes, the process table.

use mote_protocol::{ErrorCode, ExitStatus, ProcessId, Request, Signal, limits::MAX_PROCESSES};

use crate::harness::{Command, Host, Said, read_all};

#[test]
fn exit_codes_and_signals_are_reported() {
    let mut host = Host::start();
    for code in [0, 1, 42, 255] {
        let script = format!("exit {code}");
        let child = host.run(u32::from(code), &Command::shell(&script));
        assert_eq!(host.exit_of(child.process), ExitStatus::Code(code));
    }
    for signal in [1, 9, 15, 34, 64] {
        let child = host.run(1, &Command::new(&["sleep", "1000"]));
        let request = Request::Signal(Signal { process: child.process, signal });
        assert_eq!(host.ask(&request), Said::Done);
        assert_eq!(host.exit_of(child.process), ExitStatus::Signal(signal));
        // It is gone now.
        assert!(matches!(host.ask(&request), Said::Failed { code: ErrorCode::NoSuchProcess, .. }));
    }
}

#[test]
fn bad_signals_are_refused() {
    let mut host = Host::start();
    let child = host.run(1, &Command::new(&["cat"]));
    for signal in [0, 65, 255] {
        let said = host.ask(&Request::Signal(Signal { process: child.process, signal }));
        assert!(matches!(said, Said::Failed { code: ErrorCode::InvalidArgument, .. }), "{said:?}");
    }
}

#[test]
fn commands_that_cannot_be_executed_fail_as_a_shell_has_it() {
    let mut host = Host::start();
    let folder = std::env::temp_dir().join(format!("mote-agent-exec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let text = folder.join("text");
    std::fs::write(&text, "no program").unwrap();
    std::fs::set_permissions(&text, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let plain = folder.join("plain");
    std::fs::write(&plain, "").unwrap();
    let path = format!("PATH={}", folder.display());
    let cases = [
        ("/nowhere/at-all", "PATH=/bin", ErrorCode::CommandNotFound, 2),
        ("no-such-command", "PATH=/bin:/usr/bin", ErrorCode::CommandNotFound, 2),
        ("", "PATH=/bin", ErrorCode::CommandNotFound, 2),
        ("/etc/passwd/x", "PATH=/bin", ErrorCode::CommandNotFound, 20),
        ("/etc", "PATH=/bin", ErrorCode::CommandNotExecutable, 13),
        ("plain", path.as_str(), ErrorCode::CommandNotExecutable, 13),
        ("text", path.as_str(), ErrorCode::CommandNotExecutable, 8),
    ];
    for (name, path, wanted, number) in cases {
        let command = Command { environment: vec![path.to_owned()], ..Command::new(&[name]) };
        let mut child = host.begin(7, &command);
        let said = host.answer(child.request);
        let Said::Failed { code, errno, operation, text } = said else { panic!("{name}: {said:?}") };
        assert_eq!((code, errno, operation), (wanted, number, Some(0)), "{name}");
        assert_eq!(text, "execve");
        // Its streams are closed, its name is free, no end is reported.
        assert_eq!(read_all(child.stdout.as_mut().unwrap()), b"");
        assert!(!host.heard_exit(child.process));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_full_table_is_refused_and_empties_again() {
    let mut host = Host::start();
    let quiet = Command { streams: [true, false, false], ..Command::new(&["cat"]) };
    let last = u32::try_from(MAX_PROCESSES).unwrap();
    let mut children: Vec<_> = (0..last).map(|process| host.run(process, &quiet)).collect();
    let none = Command { streams: [false; 3], ..Command::new(&["cat"]) };
    let one_more = host.begin(last, &none);
    let said = host.answer(one_more.request);
    assert!(matches!(said, Said::Failed { code: ErrorCode::ResourceExhausted, .. }), "{said:?}");
    let again = host.begin(3, &none);
    let said = host.answer(again.request);
    assert!(matches!(said, Said::Failed { code: ErrorCode::InvalidArgument, .. }), "{said:?}");
    // Standard input ends, and so does each of them.
    for child in &mut children {
        child.stdin = None;
    }
    for child in &children {
        assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
    }
    host.run(last, &none);
}

#[test]
fn children_start_with_nothing_of_the_agents() {
    let mut host = Host::start();
    let others: Vec<_> = (10..14).map(|process| host.run(process, &Command::new(&["cat"]))).collect();
    let script = "ls /proc/self/fd | wc -l; umask; ps -o sid= -p $$ | tr -d ' '; echo $$; exec grep ^Sig /proc/self/status";
    let mut child = host.run(1, &Command::shell(script));
    let output = String::from_utf8(read_all(child.stdout.as_mut().unwrap())).unwrap();
    let lines: Vec<_> = output.lines().collect();
    // 0 to 2, and the folder that is listed.
    assert_eq!(lines[0].trim(), "4", "{output}");
    assert_eq!(lines[1], "0022");
    assert_eq!(lines[2], lines[3], "it leads a session of its own");
    let signals = |name| {
        let set = lines.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(set.trim(), 16).unwrap()
    };
    let broken_pipe = 1 << 12;
    assert_eq!(signals("SigIgn:") & broken_pipe, 0, "{output}");
    let child_ended = 1 << 16;
    assert_eq!(signals("SigBlk:") & child_ended, 0, "{output}");
    drop(others);
}

#[test]
fn a_missing_stream_is_dev_null_and_a_refused_one_fails_the_request() {
    let mut host = Host::start();
    let command = Command {
        streams: [false, true, false],
        ..Command::shell("cat; echo x >&2; readlink /proc/$$/fd/0 /proc/$$/fd/2")
    };
    let mut child = host.run(1, &command);
    assert_eq!(read_all(child.stdout.as_mut().unwrap()), b"/dev/null\n/dev/null\n");
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
    let stdio = mote_protocol::Stdio { stdout: Some(9), ..Default::default() };
    let program = mote_protocol::Operations::default();
    let said = host.ask(&Request::Run(mote_protocol::Run { process: ProcessId(2), stdio, program }));
    assert!(matches!(said, Said::Failed { code: ErrorCode::System, errno: 111, .. }), "{said:?}");
}

#[test]
fn orphans_are_reaped() {
    let mut host = Host::start();
    let mut child = host.run(1, &Command::shell("(sleep 0 & echo $!) "));
    let pid = String::from_utf8(read_all(child.stdout.as_mut().unwrap())).unwrap();
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
    let wait = format!("while kill -0 {} 2>/dev/null; do sleep 0.01; done", pid.trim());
    let gone = host.run(2, &Command::shell(&wait));
    assert_eq!(host.exit_of(gone.process), ExitStatus::Code(0));
}
