//! Processes in namespaces of their own, and others that join them. Making them takes privileges.

use mote_protocol::{ErrorCode, ExitStatus, Operation, ProcessId, WindowSize};

use crate::harness::{Child, Command, Host, Said, program, read_all};

const NEW_UTS: u32 = 0x400_0000;
const NEW_PID: u32 = 0x2000_0000;

fn text(child: &mut Child) -> String {
    String::from_utf8(read_all(child.stdout.as_mut().unwrap())).unwrap()
}

fn with(before: &[Operation<'_>], script: &str) -> Command {
    Command { before: program(before), ..Command::shell(script) }
}

fn pid(said: &Said) -> u32 {
    match said {
        Said::Started(started) => started.pid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_that_goes_on_in_a_child_is_still_one_process() {
    let mut host = Host::start();
    let name = Operation::SetHostname { name: c"inner".into() };
    let (uts, pids) =
        (Operation::Unshare { namespaces: NEW_UTS }, Operation::Unshare { namespaces: NEW_PID });
    // The first operation costs no fork, a later one does.
    for operations in [[pids, uts, name], [uts, pids, name], [uts, name, pids]] {
        let mut child = host.begin(1, &with(&operations, "echo $$ $(uname -n); cat"));
        let said = host.answer(child.request);
        let outside = pid(&said);
        // It is the leader of a session of its own, and a child of the agent's.
        let stat = std::fs::read_to_string(format!("/proc/{outside}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!(fields[1], host.agent_pid().as_raw_pid().to_string(), "{stat}");
        assert_eq!(fields[3], outside.to_string(), "{stat}");
        child.stdin = None;
        assert_eq!(text(&mut child), "1 inner\n");
        assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
    }
}

#[test]
fn others_join_it() {
    let mut host = Host::start();
    let operations = [
        Operation::Unshare { namespaces: NEW_PID | NEW_UTS },
        Operation::SetHostname { name: c"inner".into() },
    ];
    let first = host.run(1, &with(&operations, "cat"));
    let join = |process| {
        let score = Operation::WriteProc { path: c"self/oom_score_adj".into(), content: b"5" };
        let join = Operation::Join { process: ProcessId(process), namespaces: NEW_PID | NEW_UTS };
        with(&[score, join], "echo $(uname -n) $$; exit 7")
    };
    for process in 2..5 {
        let mut child = host.begin(process, &join(1));
        let said = host.answer(child.request);
        assert!(pid(&said) > 1);
        assert_eq!(host.exit_of(child.process), ExitStatus::Code(7));
        let said = text(&mut child);
        let (name, number) = said.trim().split_once(' ').unwrap();
        assert_eq!(name, "inner");
        assert!((2..20).contains(&number.parse::<u32>().unwrap()), "a number of that namespace: {number}");
    }
    // With a terminal it has that as its own.
    let terminal = Some(WindowSize { rows: 5, columns: 6 });
    let mut child = host.run(6, &Command { terminal, ..join(1) });
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(7));
    assert!(text(&mut child).starts_with("inner "));

    drop(first.stdin);
    assert_eq!(host.exit_of(first.process), ExitStatus::Code(0));
    for gone in [1, 99] {
        let child = host.begin(7, &Command { streams: [false; 3], ..join(gone) });
        let said = host.answer(child.request);
        assert!(matches!(said, Said::Failed { code: ErrorCode::NoSuchProcess, .. }), "{said:?}");
    }
}

#[test]
fn a_hook_runs_to_its_end_before_the_program() {
    use mote_protocol::StrList;
    let mut host = Host::start();
    let hook = |arguments: &'static [u8], timeout_ms| Operation::RunHook {
        path: c"/bin/sh".into(),
        arguments: StrList::from_bytes(arguments).unwrap(),
        environment: StrList::from_bytes(b"PATH=/bin\0").unwrap(),
        input: b"state",
        timeout_ms,
    };
    let good = hook(b"sh\0-c\0read -r word; [ \"$word\" = state ]\0", 60_000);
    let mut child =
        host.run(1, &with(&[hook(b"sh\0-c\0[ $(cat) = state ]\0", 0), good, good], "echo program"));
    assert_eq!(text(&mut child), "program\n");
    for (bad, wanted) in [
        (hook(b"sh\0-c\0echo why; exit 3\0", 60_000), "hook failed: why"),
        (hook(b"sh\0-c\0sleep 1000\0", 1), "hook: killed after its timeout"),
    ] {
        let child = host.begin(2, &with(&[bad], "echo never"));
        let Said::Failed { code, operation, text, .. } = host.answer(child.request) else {
            panic!("no failure")
        };
        assert_eq!((code, operation, text.as_str()), (ErrorCode::OperationFailed, Some(0), wanted));
    }
}
