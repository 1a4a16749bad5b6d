//! What holds for every message, every program and every stream of bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::{CStr, CString};

use mote_protocol::{
    Action, Assembler, Contents, Created, Error, ErrorCode, Event, ExitStatus, Exited, Failed, Features,
    Frame, HEADER_LEN, Header, Hello, IdList, Operation, Operations, PowerOff, ProcessId, ProgramWriter,
    ReadFile, Request, Resize, Run, SeedRandom, SetClock, Signal, SignalGroup, Started, Stdio, StrList,
    WaitFile, Welcome, WindowSize, WriteFile,
};
use proptest::{collection::vec, option, prelude::*, sample::Index};

/// Owned parts that any message or operation can be made of.
#[derive(Debug, Clone)]
struct Parts {
    numbers: [u64; 3],
    small: [u32; 4],
    tiny: [u16; 2],
    bytes: [u8; 2],
    flag: bool,
    texts: [CString; 3],
    list: Vec<u8>,
    other_list: Vec<u8>,
    ids: Vec<u8>,
    seed: [u8; 32],
    words: String,
    ports: [Option<u32>; 3],
    operation: Option<u16>,
    has_terminal: bool,
}

fn c_string() -> impl Strategy<Value = CString> {
    vec(1_u8.., 0..40).prop_map(|bytes| CString::new(bytes).unwrap())
}

fn list() -> impl Strategy<Value = Vec<u8>> {
    vec(c_string(), 0..6).prop_map(|list| list.into_iter().flat_map(CString::into_bytes_with_nul).collect())
}

prop_compose! {
    fn parts()(
        numbers in any::<[u64; 3]>(), small in any::<[u32; 4]>(), tiny in any::<[u16; 2]>(),
        bytes in any::<[u8; 2]>(), flag in any::<bool>(),
        texts in [c_string(), c_string(), c_string()], list in list(), other_list in list(),
        ids in vec(any::<u32>(), 0..8),
    )(
        seed in any::<[u8; 32]>(), words in ".{0,60}", ports in any::<[Option<u32>; 3]>(),
        operation in option::of(any::<u16>()), has_terminal in any::<bool>(),
        numbers in Just(numbers), small in Just(small), tiny in Just(tiny), bytes in Just(bytes), flag in Just(flag),
        texts in Just(texts), list in Just(list), other_list in Just(other_list),
        ids in Just(ids.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>()),
    ) -> Parts {
        Parts { numbers, small, tiny, bytes, flag, texts, list, other_list, ids, seed, words, ports, operation, has_terminal }
    }
}

impl Parts {
    fn operations(&self) -> Vec<Operation<'_>> {
        let [a, b, c] = [0, 1, 2].map(|at: usize| self.texts[at].as_c_str().into());
        let (options, environment) =
            (StrList::from_bytes(&self.list).unwrap(), StrList::from_bytes(&self.other_list).unwrap());
        let groups = IdList::from_bytes(&self.ids).unwrap();
        let [set, clear, attributes] = self.numbers;
        let [uid, gid, mode, namespaces] = self.small;
        vec![
            Operation::Unshare { namespaces },
            Operation::MakeDirectory { path: a, mode },
            Operation::MakeSymlink { content: a, path: b },
            Operation::Mount { fs_type: a, source: b, target: c, attributes, options },
            Operation::SetMountAttributes { target: a, set, clear },
            Operation::SetRoot { path: b },
            Operation::EnterRoot,
            Operation::SetHostname { name: c },
            Operation::SetIds { uid, gid, groups },
            Operation::ChangeDirectory { path: a },
            Operation::Exec { arguments: options, environment },
            Operation::BindMount { source: a, target: b, recursive: self.flag },
            Operation::Await,
            Operation::Join { process: ProcessId(uid), namespaces },
            Operation::EnterUserNamespace { uids: a, gids: b },
            Operation::WriteFile { path: a, content: &self.seed },
            Operation::WriteProc { path: b, content: &self.list },
            Operation::MakeDevice { path: a, mode, major: namespaces, minor: mode, uid, gid },
            Operation::Bind {
                source: a,
                target: b,
                recursive: self.flag,
                uids: c,
                gids: a,
                recursive_ids: !self.flag,
            },
            Operation::ChangeMount { target: a, recursive: self.flag, set, clear, propagation: attributes },
            Operation::MountCopy { target: a, attributes, options },
            Operation::BindTerminal { target: a },
            Operation::MaskPath { path: a },
            Operation::ProtectPath { path: b },
            Operation::SetDomainname { name: c },
            Operation::GiveStreams { uid, gid },
            Operation::KeepCapabilities,
            Operation::BoundCapabilities { keep: set },
            Operation::SetCapabilities {
                effective: set,
                permitted: clear,
                inheritable: attributes,
                ambient: set,
            },
            Operation::SetLimit { resource: self.bytes[0], soft: set, hard: clear },
            Operation::SetUmask { mask: mode },
            Operation::SetNoNewPrivileges,
            Operation::SetSeccomp { flags: mode, filter: &self.ids },
            Operation::SetScheduler {
                policy: mode,
                flags: set,
                nice: i32::from_le_bytes(uid.to_le_bytes()),
                priority: gid,
                runtime: set,
                deadline: clear,
                period: attributes,
            },
            Operation::SetIoPriority { priority: self.tiny[0] },
            Operation::SetPersonality { persona: mode },
            Operation::FilterDevices { cgroup: a, program: &self.ids },
            Operation::CheckExecutable { name: a, path: b },
            Operation::RunHook {
                path: a,
                arguments: options,
                environment,
                input: self.words.as_bytes(),
                timeout_ms: mode,
            },
            Operation::RaiseLoopback,
        ]
    }

    fn requests<'a>(&'a self, program: Operations<'a>) -> Vec<Request<'a>> {
        let process = ProcessId(self.small[0]);
        let size = WindowSize { rows: self.tiny[0], columns: self.tiny[1] };
        let [stdin, stdout, stderr] = self.ports;
        let stdio = Stdio { stdin, stdout, stderr, terminal: self.has_terminal.then_some(size) };
        let action = if self.flag { Action::PowerOff } else { Action::Reboot };
        vec![
            Request::Welcome(Welcome { version: self.small[1], features: Features(self.numbers[0]) }),
            Request::SetClock(SetClock { realtime_ns: self.numbers[1] }),
            Request::SeedRandom(SeedRandom { seed: self.seed }),
            Request::Run(Run { process, stdio, program }),
            Request::Signal(Signal { process, signal: self.bytes[0] }),
            Request::Resize(Resize { process, size }),
            Request::CloseStdin(process),
            Request::PowerOff(PowerOff { action }),
            Request::Start(process),
            Request::ReadFile(ReadFile { path: self.texts[0].as_c_str().into(), offset: self.numbers[2] }),
            Request::WriteFile(WriteFile { path: self.texts[1].as_c_str().into(), content: &self.list }),
            Request::WaitFile(WaitFile { path: self.texts[2].as_c_str().into(), known: &self.ids }),
            Request::SignalGroup(SignalGroup {
                processes: self.texts[0].as_c_str().into(),
                signal: self.bytes[1],
            }),
        ]
    }

    fn events(&self) -> Vec<Event<'_>> {
        const CODES: [ErrorCode; 9] = [
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
        let [version, pid, process, _] = self.small;
        let [features, entered_ns, sent_ns] = self.numbers;
        let code = CODES[usize::from(self.bytes[1]) % CODES.len()];
        let status =
            if self.flag { ExitStatus::Code(self.bytes[0]) } else { ExitStatus::Signal(self.bytes[0]) };
        vec![
            Event::Hello(Hello { version, features: Features(features), entered_ns, sent_ns }),
            Event::Done(()),
            Event::Failed(Failed { code, errno: self.tiny[0], operation: self.operation, text: &self.words }),
            Event::Started(Started { pid, at_ns: sent_ns }),
            Event::Exited(Exited { process: ProcessId(process), status, at_ns: entered_ns }),
            Event::Created(Created { pid }),
            Event::Contents(Contents { content: &self.other_list, more: self.flag }),
        ]
    }
}

/// What an assembler reports, without the borrow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Frame(u32, u16, Vec<u8>),
    TooLong(u32, u32),
}

/// Passes `stream` in pieces through an assembler with room for `room` bytes of body. The pieces' lengths repeat.
fn assemble(stream: &[u8], pieces: &[usize], room: usize) -> Vec<Seen> {
    let mut assembler = Assembler::new(vec![0; HEADER_LEN + room]);
    let mut seen = Vec::new();
    let mut rest = stream;
    for piece in pieces.iter().cycle() {
        loop {
            match assembler.next_frame() {
                Ok(Some(Frame { id, kind, body })) => seen.push(Seen::Frame(id, kind, body.to_vec())),
                Ok(None) => break,
                Err(Error::TooLong { id, len }) => seen.push(Seen::TooLong(id, len)),
                Err(other) => panic!("{other}"),
            }
        }
        if rest.is_empty() {
            return seen;
        }
        let spare = assembler.spare();
        assert!(!spare.is_empty());
        let count = (*piece).max(1).min(spare.len()).min(rest.len());
        spare[..count].copy_from_slice(&rest[..count]);
        assembler.filled(count);
        rest = &rest[count..];
    }
    seen
}

fn frame(id: u32, kind: u16, body: &[u8]) -> Vec<u8> {
    let header = Header { len: u32::try_from(body.len()).unwrap(), id, kind };
    [header.to_bytes().as_slice(), body].concat()
}

fn read_frame(bytes: &[u8]) -> Frame<'_> {
    let (head, body) = bytes.split_first_chunk().unwrap();
    let Header { len, id, kind } = Header::from_bytes(*head);
    assert_eq!(usize::try_from(len).unwrap(), body.len());
    Frame { id, kind, body }
}

proptest! {
    #[test]
    fn operations_round_trip(parts in parts(), cut in any::<Index>()) {
        let operations = parts.operations();
        let mut buf = vec![0; 16 * 1024];
        let mut writer = ProgramWriter::new(&mut buf);
        for operation in &operations {
            writer.push(operation).unwrap();
        }
        let program = writer.finish();
        let read: Vec<_> = program.map(Result::unwrap).collect();
        prop_assert_eq!(&read, &operations);

        // A program that was cut off yields whole operations, then at most one error, then nothing.
        let bytes = program.as_bytes();
        let mut left = Operations::from_bytes(&bytes[..cut.index(bytes.len())]);
        let mut whole = 0;
        while let Some(Ok(operation)) = left.next() {
            prop_assert_eq!(operation, operations[whole]);
            whole += 1;
        }
        prop_assert!(left.next().is_none());
    }

    #[test]
    fn requests_and_events_round_trip(parts in parts(), id in any::<u32>()) {
        let mut buf = vec![0; 16 * 1024];
        for request in parts.requests(Operations::from_bytes(&parts.list)) {
            let len = request.encode(id, &mut buf).unwrap();
            let frame = read_frame(&buf[..len]);
            prop_assert_eq!(frame.id, id);
            prop_assert_eq!(Request::decode(frame), Ok(request));
            prop_assert!(Event::decode(frame).is_err());
            // Neither a byte more nor one less is the same message, and no buffer is too short by accident.
            prop_assert_eq!(Request::decode(Frame { body: &buf[HEADER_LEN..=len], ..frame }), Err(Error::Malformed));
            let short = Request::decode(Frame { body: &buf[HEADER_LEN..len - 1], ..frame });
            prop_assert!(short.is_err());
            prop_assert_eq!(request.encode(id, &mut vec![0; len - 1]), Err(Error::NoRoom));
        }
        for event in parts.events() {
            let len = event.encode(id, &mut buf).unwrap();
            let frame = read_frame(&buf[..len]);
            prop_assert_eq!(frame.id, id);
            prop_assert_eq!(Event::decode(frame), Ok(event));
            prop_assert!(Request::decode(frame).is_err());
            prop_assert_eq!(event.encode(id, &mut vec![0; len - 1]), Err(Error::NoRoom));
        }
    }

    #[test]
    fn random_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..200), kind in 0..16_u16) {
        for kind in [kind, 0x8000 | kind] {
            let frame = Frame { id: 1, kind, body: &bytes };
            if let Ok(Request::Run(run)) = Request::decode(frame) {
                let _ = run.program.count();
            }
            let _ = Event::decode(frame);
        }
        let _ = Hello::peek_version(&bytes);
        let mut errors = 0;
        for operation in Operations::from_bytes(&bytes) {
            match operation {
                Ok(Operation::Exec { arguments, environment }) => {
                    // What goes to `execve` ends in NUL.
                    for text in arguments.iter().chain(environment.iter()) {
                        prop_assert!(CStr::from_bytes_with_nul(text.to_bytes_with_nul()).is_ok());
                    }
                }
                Ok(_) => prop_assert_eq!(errors, 0),
                Err(_) => errors += 1,
            }
        }
        prop_assert!(errors <= 1);
    }

    #[test]
    fn frames_do_not_depend_on_how_the_stream_was_cut(
        frames in vec((any::<u32>(), any::<u16>(), vec(any::<u8>(), 0..100)), 0..12),
        pieces in vec(1..150_usize, 1..10),
        room in 0..80_usize,
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|(id, kind, body)| frame(*id, *kind, body)).collect();
        let expected: Vec<Seen> = frames
            .iter()
            .map(|(id, kind, body)| if body.len() > room {
                Seen::TooLong(*id, u32::try_from(body.len()).unwrap())
            } else {
                Seen::Frame(*id, *kind, body.clone())
            })
            .collect();
        prop_assert_eq!(assemble(&stream, &pieces, room), expected.clone());
        prop_assert_eq!(assemble(&stream, &[usize::MAX], room), expected);
    }

    #[test]
    fn random_streams_are_read_alike_in_any_pieces(
        stream in vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 0..600),
        pieces in vec(1..150_usize, 1..10),
    ) {
        prop_assert_eq!(assemble(&stream, &pieces, 64), assemble(&stream, &[usize::MAX], 64));
    }

    #[test]
    fn a_frame_that_is_not_whole_waits(body in vec(any::<u8>(), 0..60), cut in any::<Index>()) {
        let whole = frame(7, 3, &body);
        let cut = cut.index(whole.len());
        prop_assert_eq!(assemble(&whole[..cut], &[usize::MAX], 64), []);
    }

    #[test]
    fn lists_keep_their_strings(list in vec(c_string(), 0..10), ids in vec(any::<u32>(), 0..10)) {
        let bytes: Vec<u8> = list.iter().flat_map(|text| text.to_bytes_with_nul().to_vec()).collect();
        let read = StrList::from_bytes(&bytes).unwrap();
        prop_assert!(read.iter().eq(list.iter().map(CString::as_c_str)));
        prop_assert_eq!(read.is_empty(), list.is_empty());
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        prop_assert!(IdList::from_bytes(&bytes).unwrap().iter().eq(ids));
    }
}

#[test]
fn what_is_no_list_is_refused() {
    assert_eq!(StrList::from_bytes(b"a\0b"), None);
    assert_eq!(IdList::from_bytes(&[0; 7]), None);
}

#[test]
fn a_frame_of_the_longest_length_that_a_header_can_say_is_skipped() {
    let stream = [Header { len: u32::MAX, id: 9, kind: 1 }.to_bytes().as_slice(), &[0xaa; 1000]].concat();
    assert_eq!(assemble(&stream, &[17], 64), [Seen::TooLong(9, u32::MAX)]);
}

#[test]
fn the_version_of_any_hello_can_be_read() {
    let hello = Hello { version: 300, features: Features(1), entered_ns: 2, sent_ns: 3 };
    let mut buf = [0; 64];
    let len = Event::Hello(hello).encode(0, &mut buf).unwrap();
    assert_eq!(Hello::peek_version(&buf[HEADER_LEN..len]), Ok(300));
    assert_eq!(Hello::peek_version(&[0xac, 0x02, 0xff]), Ok(300));
    assert_eq!(Hello::peek_version(&[]), Err(Error::Malformed));
}
