//! Processes that wait for their start.

use mote_protocol::{ErrorCode, ExitStatus, ProcessId, Request, Signal};

use crate::harness::{Child, Command, Host, Said, read_all};

fn waiting(script: &str) -> Command {
    Command { gate: true, ..Command::shell(script) }
}

fn create(host: &mut Host, process: u32, script: &str) -> (Child, u32) {
    let child = host.begin(process, &waiting(script));
    match host.answer(child.request) {
        Said::Created(pid) => (child, pid),
        other => panic!("{other:?}"),
    }
}

fn signal(host: &mut Host, process: ProcessId, signal: u8) -> Said {
    host.ask(&Request::Signal(Signal { process, signal }))
}

#[test]
fn a_process_begins_when_it_is_told_to() {
    let mut host = Host::start();
    let (mut first, pid) = create(&mut host, 1, "echo $$; cat");
    let (mut second, _) = create(&mut host, 2, "echo second");
    // It takes signals that do not end it, and whoever is asked meanwhile answers.
    assert_eq!(signal(&mut host, first.process, 28), Said::Done);
    let other = host.run(3, &Command::shell("exit 4"));
    assert_eq!(host.exit_of(other.process), ExitStatus::Code(4));
    let said = host.ask(&Request::Start(first.process));
    let Said::Started(started) = said else { panic!("{said:?}") };
    assert_eq!(started.pid, pid, "it is still the same process");
    let again = host.ask(&Request::Start(first.process));
    assert!(matches!(again, Said::Failed { code: ErrorCode::InvalidArgument, .. }), "{again:?}");
    first.stdin = None;
    assert_eq!(read_all(first.stdout.as_mut().unwrap()), format!("{pid}\n").as_bytes());
    assert_eq!(host.exit_of(first.process), ExitStatus::Code(0));
    assert!(matches!(host.ask(&Request::Start(second.process)), Said::Started(_)));
    assert_eq!(read_all(second.stdout.as_mut().unwrap()), b"second\n");
    let unknown = host.ask(&Request::Start(ProcessId(9)));
    assert!(matches!(unknown, Said::Failed { code: ErrorCode::NoSuchProcess, .. }), "{unknown:?}");
}

#[test]
fn a_process_that_waits_can_be_ended() {
    let mut host = Host::start();
    for (number, status) in
        [(9, ExitStatus::Signal(9)), (15, ExitStatus::Code(143)), (1, ExitStatus::Code(129))]
    {
        let (mut child, _) = create(&mut host, 1, "echo never");
        assert_eq!(signal(&mut host, child.process, number), Said::Done);
        assert_eq!(host.exit_of(child.process), status);
        assert_eq!(read_all(child.stdout.as_mut().unwrap()), b"");
        let late = host.ask(&Request::Start(child.process));
        assert!(matches!(late, Said::Failed { code: ErrorCode::NoSuchProcess, .. }), "{late:?}");
    }
}

#[test]
fn a_program_that_is_missing_is_reported_instead_of_a_created_process() {
    let mut host = Host::start();
    for (name, wanted, number) in [
        ("no-such-command", ErrorCode::CommandNotFound, 2),
        ("/etc/passwd", ErrorCode::CommandNotExecutable, 13),
        ("/etc", ErrorCode::CommandNotExecutable, 13),
    ] {
        let child = host.begin(1, &Command { gate: true, ..Command::new(&[name]) });
        let said = host.answer(child.request);
        let Said::Failed { code, errno, operation, .. } = said else { panic!("{name}: {said:?}") };
        assert_eq!((code, errno, operation), (wanted, number, Some(0)), "{name}");
        assert!(!host.heard_exit(child.process));
    }
}
