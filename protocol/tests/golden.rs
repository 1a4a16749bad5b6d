//! The bytes of one message of every kind and of every operation, as they have to be.
//!
//! A vector that fails was changed on the wire. New messages and operations get new vectors; an old one changes only
//! together with `VERSION`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use mote_protocol::{
    Action, Contents, Created, ErrorCode, Event, ExitStatus, Exited, Failed, Features, Frame, HEADER_LEN,
    Header, Hello, IdList, Operation, Operations, PowerOff, ProcessId, ProgramWriter, ReadFile, Request,
    Resize, Run, SeedRandom, SetClock, Signal, SignalGroup, Started, Stdio, StrList, VERSION, WaitFile,
    Welcome, WindowSize, WriteFile,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    let (head, body) = bytes.split_first_chunk().unwrap();
    let Header { len, id, kind } = Header::from_bytes(*head);
    assert_eq!(usize::try_from(len).unwrap(), body.len());
    Frame { id, kind, body }
}

fn check_request(request: Request<'_>, wanted: &str) {
    let wanted = bytes(wanted);
    let mut buf = [0; 512];
    let len = request.encode(0x0102_0304, &mut buf).unwrap();
    assert_eq!(hex(&buf[..len]), hex(&wanted), "{request:?}");
    assert_eq!(Request::decode(frame(&wanted)), Ok(request));
}

fn check_event(event: Event<'_>, wanted: &str) {
    let wanted = bytes(wanted);
    let mut buf = [0; 512];
    let len = event.encode(5, &mut buf).unwrap();
    assert_eq!(hex(&buf[..len]), hex(&wanted), "{event:?}");
    assert_eq!(Event::decode(frame(&wanted)), Ok(event));
}

fn check_operation(operation: Operation<'_>, wanted: &str) {
    let wanted = bytes(wanted);
    let mut buf = [0; 512];
    let mut writer = ProgramWriter::new(&mut buf);
    writer.push(&operation).unwrap();
    assert_eq!(hex(writer.finish().as_bytes()), hex(&wanted), "{operation:?}");
    let mut program = Operations::from_bytes(&wanted);
    assert_eq!(program.next(), Some(Ok(operation)));
    assert_eq!(program.next(), None);
}

#[test]
fn the_version_these_vectors_belong_to() {
    assert_eq!((VERSION, HEADER_LEN), (1, 12));
}

const PROCESS: ProcessId = ProcessId(300);
const SIZE: WindowSize = WindowSize { rows: 24, columns: 200 };

#[test]
fn requests() {
    check_request(
        Request::Welcome(Welcome { version: 1, features: Features(0x80) }),
        "03000000 04030201 0100 0000 018001",
    );
    check_request(
        Request::SetClock(SetClock { realtime_ns: 1_700_000_000_000_000_000 }),
        "09000000 04030201 0200 0000 8080a8b1e39fe7cb17",
    );
    check_request(
        Request::SeedRandom(SeedRandom { seed: [0xab; 32] }),
        "20000000 04030201 0300 0000 abababababababababababababababababababababababababababababababab",
    );
    let stdio = Stdio { stdin: Some(1025), stdout: None, stderr: Some(1), terminal: Some(SIZE) };
    check_request(
        Request::Run(Run { process: PROCESS, stdio, program: Operations::from_bytes(&[6, 6]) }),
        "0f000000 04030201 0400 0000 ac020181080001010118c801020606",
    );
    check_request(
        Request::Signal(Signal { process: PROCESS, signal: 64 }),
        "03000000 04030201 0500 0000 ac0240",
    );
    check_request(
        Request::Resize(Resize { process: PROCESS, size: SIZE }),
        "05000000 04030201 0600 0000 ac0218c801",
    );
    check_request(Request::CloseStdin(PROCESS), "02000000 04030201 0700 0000 ac02");
    check_request(Request::PowerOff(PowerOff { action: Action::PowerOff }), "01000000 04030201 0800 0000 00");
    check_request(Request::PowerOff(PowerOff { action: Action::Reboot }), "01000000 04030201 0800 0000 01");
    check_request(Request::Start(PROCESS), "02000000 04030201 0900 0000 ac02");
    check_request(
        Request::ReadFile(ReadFile { path: c"/f".into(), offset: 300 }),
        "06000000 04030201 0a00 0000 032f6600ac02",
    );
    check_request(
        Request::WriteFile(WriteFile { path: c"/f".into(), content: b"max" }),
        "08000000 04030201 0b00 0000 032f6600036d6178",
    );
    check_request(
        Request::WaitFile(WaitFile { path: c"/f".into(), known: b"a\n" }),
        "07000000 04030201 0c00 0000 032f660002610a",
    );
    check_request(
        Request::SignalGroup(SignalGroup { processes: c"/f".into(), signal: 15 }),
        "05000000 04030201 0d00 0000 032f66000f",
    );
}

#[test]
fn events() {
    check_event(
        Event::Hello(Hello { version: 1, features: Features(0), entered_ns: 1000, sent_ns: 70_000 }),
        "07000000 05000000 0180 0000 0100e807f0a204",
    );
    check_event(Event::Done(()), "00000000 05000000 0280 0000");
    check_event(
        Event::Failed(Failed {
            code: ErrorCode::OperationFailed,
            errno: 2,
            operation: Some(300),
            text: "openat2",
        }),
        "0d000000 05000000 0380 0000 050201ac02076f70656e617432",
    );
    let codes = [
        ErrorCode::BadMessage,
        ErrorCode::UnsupportedVersion,
        ErrorCode::ResourceExhausted,
        ErrorCode::NoSuchProcess,
        ErrorCode::InvalidArgument,
        ErrorCode::OperationFailed,
        ErrorCode::System,
        ErrorCode::CommandNotFound,
        ErrorCode::CommandNotExecutable,
    ];
    for (number, code) in codes.into_iter().enumerate() {
        let failed = Failed { code, errno: 0, operation: None, text: "" };
        check_event(Event::Failed(failed), &format!("04000000 05000000 0380 0000 {number:02x}000000"));
    }
    check_event(
        Event::Started(Started { pid: 1000, at_ns: 1 << 40 }),
        "08000000 05000000 0480 0000 e807808080808020",
    );
    check_event(
        Event::Exited(Exited { process: PROCESS, status: ExitStatus::Code(137), at_ns: 9 }),
        "05000000 05000000 0580 0000 ac02008909",
    );
    check_event(
        Event::Exited(Exited { process: PROCESS, status: ExitStatus::Signal(9), at_ns: 9 }),
        "05000000 05000000 0580 0000 ac02010909",
    );
    check_event(Event::Created(Created { pid: 300 }), "02000000 05000000 0680 0000 ac02");
    check_event(
        Event::Contents(Contents { content: b"oom 1\n", more: true }),
        "08000000 05000000 0780 0000 066f6f6d20310a01",
    );
}

#[test]
fn operations() {
    let list = StrList::from_bytes(b"a=b\0c\0").unwrap();
    check_operation(Operation::Unshare { namespaces: 0x2402_0000 }, "00808088a002");
    check_operation(Operation::MakeDirectory { path: c"/a".into(), mode: 0o1777 }, "01032f6100ff07");
    check_operation(Operation::MakeSymlink { content: c"x".into(), path: c"/y".into() }, "02027800032f7900");
    check_operation(
        Operation::Mount {
            fs_type: c"tmpfs".into(),
            source: c"".into(),
            target: c"/t".into(),
            attributes: 0x20_0000,
            options: list,
        },
        "0306746d706673000100032f74008080800106613d62006300",
    );
    check_operation(
        Operation::SetMountAttributes { target: c"/t".into(), set: 1, clear: 0x80 },
        "04032f7400018001",
    );
    check_operation(Operation::SetRoot { path: c"/r".into() }, "05032f7200");
    check_operation(Operation::EnterRoot, "06");
    check_operation(Operation::SetHostname { name: c"box".into() }, "0704626f7800");
    let groups = IdList::from_bytes(&[1, 0, 0, 0, 0, 1, 0, 0]).unwrap();
    check_operation(Operation::SetIds { uid: 1000, gid: 100, groups }, "08e80764080100000000010000");
    check_operation(Operation::ChangeDirectory { path: c"/".into() }, "09022f00");
    check_operation(
        Operation::Exec { arguments: list, environment: StrList::from_bytes(b"P=/\0").unwrap() },
        "0a06613d6200630004503d2f00",
    );
    check_operation(
        Operation::BindMount { source: c"/s".into(), target: c"/t".into(), recursive: true },
        "0b032f7300032f740001",
    );
}

#[test]
fn operations_of_containers() {
    let list = StrList::from_bytes(b"a=b\0c\0").unwrap();
    let target = c"/t".into();
    check_operation(Operation::Await, "0c");
    check_operation(Operation::Join { process: PROCESS, namespaces: 0x2000_0000 }, "0dac028080808002");
    check_operation(
        Operation::EnterUserNamespace { uids: c"0 1 2\n".into(), gids: c"".into() },
        "0e07302031 20320a000100",
    );
    check_operation(Operation::WriteFile { path: target, content: b"0" }, "0f032f74000130");
    check_operation(Operation::WriteProc { path: target, content: b"0" }, "10032f74000130");
    check_operation(
        Operation::MakeDevice { path: target, mode: 0o020_666, major: 1, minor: 300, uid: 5, gid: 6 },
        "11032f7400b64301ac020506",
    );
    check_operation(
        Operation::Bind {
            source: c"/s".into(),
            target,
            recursive: true,
            uids: c"0 1 2".into(),
            gids: c"".into(),
            recursive_ids: true,
        },
        "12032f7300032f740001063020312032000100 01",
    );
    check_operation(
        Operation::ChangeMount { target, recursive: true, set: 1, clear: 0x80, propagation: 1 << 20 },
        "13032f7400010180018080 40",
    );
    check_operation(
        Operation::MountCopy { target, attributes: 6, options: list },
        "14032f74000606613d62006300",
    );
    check_operation(Operation::BindTerminal { target }, "15032f7400");
    check_operation(Operation::MaskPath { path: target }, "16032f7400");
    check_operation(Operation::ProtectPath { path: target }, "17032f7400");
    check_operation(Operation::SetDomainname { name: c"d".into() }, "18026400");
}

#[test]
fn operations_of_processes() {
    let list = StrList::from_bytes(b"a=b\0c\0").unwrap();
    check_operation(Operation::GiveStreams { uid: 300, gid: 1 }, "19ac0201");
    check_operation(Operation::KeepCapabilities, "1a");
    check_operation(Operation::BoundCapabilities { keep: 1 << 40 }, "1b808080808020");
    check_operation(
        Operation::SetCapabilities { effective: 1, permitted: 2, inheritable: 3, ambient: 4 },
        "1c01020304",
    );
    check_operation(Operation::SetLimit { resource: 7, soft: 1024, hard: 2048 }, "1d0780088010");
    check_operation(Operation::SetUmask { mask: 0o77 }, "1e3f");
    check_operation(Operation::SetNoNewPrivileges, "1f");
    check_operation(Operation::SetSeccomp { flags: 2, filter: &[6, 0, 0, 0] }, "20020406000000");
    check_operation(
        Operation::SetScheduler {
            policy: 6,
            flags: 1,
            nice: -3,
            priority: 2,
            runtime: 3,
            deadline: 4,
            period: 5,
        },
        "210601050203 0405",
    );
    check_operation(Operation::SetIoPriority { priority: 0x4007 }, "22878001");
    check_operation(Operation::SetPersonality { persona: 8 }, "2308");
    check_operation(Operation::FilterDevices { cgroup: c"/g".into(), program: &[0x95] }, "24032f67000195");
    check_operation(
        Operation::CheckExecutable { name: c"sh".into(), path: c"/bin".into() },
        "25037368 00052f62696e00",
    );
    check_operation(
        Operation::RunHook {
            path: c"/h".into(),
            arguments: list,
            environment: StrList::default(),
            input: b"{}",
            timeout_ms: 300,
        },
        "26032f680006613d6200630000027b7dac02",
    );
    check_operation(Operation::RaiseLoopback, "27");
}
