//! The control stream: greetings, bad frames, back-pressure, the end.

use std::io::Write;

use mote_agent::Stop;
use mote_protocol::{
    Action, ErrorCode, ExitStatus, Features, Header, PowerOff, ProcessId, Request, SeedRandom, SetClock,
    Signal, VERSION, Welcome, limits,
};

use crate::harness::{Command, Host, Said, status_of};

const NOBODY: Request<'_> = Request::Signal(Signal { process: ProcessId(99), signal: 9 });

fn frame(id: u32, kind: u16, body: &[u8]) -> Vec<u8> {
    let header = Header { len: u32::try_from(body.len()).unwrap(), id, kind };
    [header.to_bytes().as_slice(), body].concat()
}

fn assert_bad(said: &Said) {
    assert!(matches!(said, Said::Failed { code: ErrorCode::BadMessage, .. }), "{said:?}");
}

#[test]
fn every_request_is_answered() {
    let mut host = Host::start();
    let welcome = |version| Request::Welcome(Welcome { version, features: Features(u64::MAX) });
    assert_eq!(host.ask(&welcome(VERSION)), Said::Done);
    let said = host.ask(&welcome(VERSION + 1));
    assert!(matches!(said, Said::Failed { code: ErrorCode::UnsupportedVersion, .. }), "{said:?}");
    assert_eq!(host.ask(&Request::SeedRandom(SeedRandom { seed: [7; limits::SEED_LEN] })), Said::Done);
    let said = host.ask(&Request::SetClock(SetClock { realtime_ns: 1 }));
    assert!(matches!(said, Said::Failed { code: ErrorCode::System, errno: 1, .. }), "{said:?}");
    let said = host.ask(&NOBODY);
    assert!(matches!(said, Said::Failed { code: ErrorCode::NoSuchProcess, .. }), "{said:?}");
}

#[test]
fn bad_frames_are_answered_and_the_stream_goes_on() {
    let mut host = Host::start();
    let bad = [
        frame(1001, 0x7777, b"what"),
        frame(1002, 0x8002, b""),
        frame(1003, 0x0001, b""),
        frame(1004, 0x0001, &[0xff; 40]),
        frame(1005, 0x0002, &[1, 2, 3]),
        frame(1006, 0x0004, &[0xff; 400]),
        frame(1007, 0x0004, &vec![0; limits::MAX_REQUEST + 1]),
        frame(1008, 0x0004, &vec![0; 3 * limits::MAX_REQUEST]),
    ];
    for (id, bytes) in (1001..).zip(&bad) {
        host.control.write_all(bytes).unwrap();
        assert_bad(&host.answer(id));
    }
    // Two at once, and one in small pieces.
    host.control.write_all(&[bad[0].as_slice(), &bad[6], &bad[1]].concat()).unwrap();
    for id in [1001, 1007, 1002] {
        assert_bad(&host.answer(id));
    }
    for byte in &bad[0] {
        host.control.write_all(&[*byte]).unwrap();
    }
    assert_bad(&host.answer(1001));
    let child = host.run(1, &Command::new(&["true"]));
    assert_eq!(host.exit_of(child.process), ExitStatus::Code(0));
}

#[test]
fn a_host_that_does_not_listen_loses_no_events_and_blocks_no_streams() {
    let mut host = Host::start();
    let mut child = host.run(1, &Command::new(&["cat"]));
    let mut control = host.control.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let mut bytes = [0; 64];
        for id in 10_000..60_000 {
            let len = NOBODY.encode(id, &mut bytes).unwrap();
            control.write_all(&bytes[..len]).unwrap();
        }
    });
    let (stdin, stdout) = (child.stdin.as_mut().unwrap(), child.stdout.as_mut().unwrap());
    for _ in 0..50 {
        std::io::Write::write_all(stdin, b"ping").unwrap();
        let mut pong = [0; 4];
        std::io::Read::read_exact(stdout, &mut pong).unwrap();
        assert_eq!(&pong, b"ping");
    }
    for id in 10_000..60_000 {
        assert!(matches!(host.answer(id), Said::Failed { code: ErrorCode::NoSuchProcess, .. }));
    }
    sender.join().unwrap();
}

#[test]
fn the_guest_ends_when_it_is_asked_to() {
    for action in [Action::PowerOff, Action::Reboot] {
        let mut host = Host::start();
        let child = host.run(1, &Command::new(&["sleep", "1000"]));
        assert_eq!(host.ask(&Request::PowerOff(PowerOff { action })), Said::Done);
        drop(child);
        assert_eq!(host.agent_status(), status_of(Stop::Asked(action)));
    }
}

#[test]
fn the_guest_ends_when_the_host_is_gone() {
    assert_eq!(Host::start().agent_status(), status_of(Stop::HostGone));
}
