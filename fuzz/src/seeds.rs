//! Writes the seed corpora: `seeds FOLDER` makes a folder for each target, with inputs that make sense.

use std::{ffi::CStr, fs, path::Path};

use mote_fuzz::Writer;
use mote_protocol::{
    Action, ErrorCode, Event, ExitStatus, Exited, Failed, Features, Hello, IdList, Operation, PowerOff,
    ProcessId, ProgramWriter, Request, Run, Signal, Started, Stdio, StrList, VERSION, Welcome,
};

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).expect("usage: seeds FOLDER");
    let corpora: [(&str, Vec<Vec<u8>>); 9] = [
        ("queue_vsock", vsock()),
        ("queue_block", block()),
        ("queue_fs", files()),
        ("mmio_registers", registers()),
        ("protocol_host", events()),
        ("protocol_guest", requests()),
        ("agent_program", programs()),
        ("kernel_loader", kernels()),
        ("command_line", words()),
    ];
    for (target, seeds) in corpora {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

/// Buffers for the device to write packets into.
fn buffers(writer: &mut Writer, count: u8) {
    for index in 0..count {
        writer.descriptor(0, index, 0x4000 + 0x200 * u16::from(index), 0x200, 2, 0).offer(0, index);
    }
}

fn vsock() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut writer = Writer::default();
    buffers(&mut writer, 8);
    writer.packet(1, 1, 0, 0).packet(1, 5, 0, 100).host(0, 300).events().packet(1, 7, 0, 0);
    seeds.push(writer.packet(1, 4, 3, 0).events().finish());
    buffers(&mut writer, 4);
    writer.packet(1, 1, 0, 0).packet(2, 1, 0, 0).packet(3, 1, 0, 0).packet(4, 1, 0, 0);
    seeds.push(
        writer.packet(1, 3, 0, 0).packet(2, 5, 0, 4000).packet(2, 4, 1, 0).host(1, 9).events().finish(),
    );
    for _ in 0..20 {
        writer.packet(5, 1, 0, 0);
    }
    buffers(&mut writer, 8);
    seeds.push(writer.notify(0).start().packet(1, 1, 0, 0).finish());
    writer.packet(1, 1, 0, 0).descriptor(1, 3, 0, 44, 1, 3).offer(1, 3).notify(1);
    seeds.push(writer.start().set_available(1, 100).notify(1).finish());
    seeds
}

fn block() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for writable in [0, 1] {
        let mut writer = Writer::default();
        writer.byte(writable).request(0, 3, 1024).request(1, 2, 512).request(4, 0, 0).request(8, 0, 20);
        writer.request(0, 15, 1024).request(0, u64::MAX, 512).request(1, 0, 100).request(11, 0, 512);
        seeds.push(writer.start().request(0, 0, 8192).finish());
        writer.byte(writable).descriptor(0, 4, 0, 16, 1, 5).descriptor(0, 5, 0x1000, 512, 3, 6);
        writer.descriptor(0, 6, 0x2000, 1, 2, 0).offer(0, 4).notify(0).events();
        // An indirect table, and one that is none.
        writer.descriptor(0, 7, 0, 48, 4, 0).offer(0, 7).notify(0).start();
        seeds.push(writer.offer(0, 200).notify(0).start().set_available(0, 17).notify(0).finish());
    }
    seeds
}

/// Requests of FUSE; the nodes that are looked up are numbered from 2 on, in the order in which they are.
fn files() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let numbers = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let start = |writer: &mut Writer| {
        let init = numbers(&[7, 38, 0, 0xffff_ffff, 0xffff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        // Both shares, and what is in them.
        writer.files(26, 1, &init).files(1, 1, b"0\0").files(1, 1, b"1\0").files(1, 2, b"file\0");
        writer.files(1, 3, b"file\0").files(1, 2, b"link\0").files(1, 2, b"folder\0").files(
            1,
            3,
            b"folder\0",
        );
    };
    let mut writer = Writer::default();
    for node in 1..9 {
        start(&mut writer);
        writer.files(3, node, &[0; 16]).files(14, node, &numbers(&[2, 0])).files(5, node, b"");
        writer.files(15, node, &numbers(&[1, 0, 0, 0, 512, 0, 0, 0, 0, 0]));
        writer.files(16, node, &[&numbers(&[1, 0, 0, 0, 4, 0, 0, 0, 0, 0])[..], b"data"].concat());
        writer.files(
            4,
            node,
            &numbers(&[0x6f, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o644, 0, 0, 0, 0]),
        );
        writer.files(18, node, &numbers(&[1, 0, 2, 0, 0, 0])).files(17, node, b"").files(
            2,
            node,
            &[1, 0, 0, 0, 0, 0, 0, 0],
        );
        seeds.push(writer.finish());
        start(&mut writer);
        for name in [&b"..\0"[..], b"../outside/file\0", b".\0", b"\0", b"new\0", b"no end"] {
            writer.files(1, node, name).files(10, node, name).files(11, node, name);
            writer.files(9, node, &[&numbers(&[0o755, 0])[..], name].concat());
            writer.files(35, node, &[&numbers(&[0o102, 0o644, 0, 0])[..], name].concat());
            writer.files(8, node, &[&numbers(&[0o100_644, 0, 0, 0])[..], name].concat());
            writer.files(6, node, &[name, b"../outside\0"].concat());
            writer.files(13, node, &[&[4, 0, 0, 0, 0, 0, 0, 0][..], name].concat());
            writer.files(12, node, &[&[3, 0, 0, 0, 0, 0, 0, 0][..], b"file\0", name].concat());
            writer.files(45, node, &[&numbers(&[2, 0, 1, 0])[..], b"file\0", name].concat());
            writer.files(21, node, &[&numbers(&[1, 0, 0, 0])[..], b"user.x\0v"].concat());
        }
        seeds.push(writer.finish());
        start(&mut writer);
        writer.files(27, node, &numbers(&[0, 0]));
        for opcode in [28, 44] {
            writer.files(opcode, node, &numbers(&[1, 0, 0, 0, 4096, 0, 0, 0, 0, 0]));
        }
        writer.files(43, node, &numbers(&[1, 0, 0, 0, 4096, 0, 0, 0])).files(
            46,
            node,
            &numbers(&[1, 0, 0, 0, 3, 0]),
        );
        writer.files(51, node, &numbers(&[0o102, 0o644, 0, 0])).files(
            47,
            node,
            &numbers(&[1, 0, 0, 0, 4, 0, 2, 0, 0, 0, 9, 0, 0, 0]),
        );
        seeds.push(
            writer.files(42, node, &numbers(&[1, 0, 3, 0, 1, 0])).files(38, node, b"").start().finish(),
        );
    }
    seeds
}

fn registers() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for device in [0, 1] {
        let mut writer = Writer::default();
        writer.byte(device);
        for offset in (0..0x120).step_by(4) {
            writer.read_register(offset);
        }
        for (offset, value) in
            [(0x70, 1), (0x70, 3), (0x24, 0), (0x20, 1 << 29), (0x24, 1), (0x20, 1), (0x70, 11)]
        {
            writer.register(offset, value);
        }
        for (offset, value) in
            [(0x30, 0), (0x38, 16), (0x80, 0x1_0000), (0x90, 0x1_1000), (0xa0, 0x1_2000), (0x44, 1)]
        {
            writer.register(offset, value);
        }
        writer
            .register(0x70, 15)
            .notify(0)
            .register(0x44, 0)
            .register(0x80, 0)
            .register(0x64, 3)
            .register(0x70, 0);
        seeds.push(writer.start().notify(0).notify(1).register(0x70, 128).finish());
    }
    seeds
}

fn frame(encode: impl FnOnce(&mut [u8]) -> Result<usize, mote_protocol::Error>) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let len = encode(&mut bytes).expect("room for a seed");
    bytes.truncate(len);
    bytes
}

fn events() -> Vec<Vec<u8>> {
    let hello = Hello { version: VERSION, features: Features::default(), entered_ns: 1, sent_ns: 2 };
    let failed = Failed { code: ErrorCode::System, errno: 2, operation: Some(3), text: "words" };
    let exited = Exited { process: ProcessId(1), status: ExitStatus::Signal(9), at_ns: 5 };
    let events = [
        Event::Hello(hello),
        Event::Done(()),
        Event::Failed(failed),
        Event::Started(Started { pid: 7, at_ns: 3 }),
        Event::Exited(exited),
    ];
    let frames: Vec<Vec<u8>> = events.iter().map(|event| frame(|bytes| event.encode(1, bytes))).collect();
    let mut too_long = vec![9];
    too_long.extend([0, 0, 1, 0, 1, 0, 0, 0, 1, 0x80, 0, 0]);
    let all = [&[40][..], &frames.concat()].concat();
    frames.iter().map(|frame| [&[255][..], frame].concat()).chain([all, too_long]).collect()
}

fn text(text: &CStr) -> mote_protocol::WireStr<'_> {
    text.into()
}

fn operations() -> Vec<Operation<'static>> {
    let list = |bytes| StrList::from_bytes(bytes).expect("a list");
    vec![
        Operation::Unshare { namespaces: 0x2002_0000 },
        Operation::MakeDirectory { path: text(c"/a/b//c/"), mode: 0o755 },
        Operation::MakeSymlink { content: text(c"/proc/self/fd"), path: text(c"/dev/fd") },
        Operation::Mount {
            fs_type: text(c"overlay"),
            source: text(c"none"),
            target: text(c"/a"),
            attributes: 1,
            options: list(b"lowerdir=/x\0ro\0"),
        },
        Operation::SetMountAttributes { target: text(c"/a"), set: 1, clear: 2 },
        Operation::BindMount { source: text(c"/dev"), target: text(c"/a/dev"), recursive: true },
        Operation::SetRoot { path: text(c"/a") },
        Operation::EnterRoot,
        Operation::SetHostname { name: text(c"mote") },
        Operation::SetIds { uid: 1, gid: 2, groups: IdList::from_bytes(&[1, 0, 0, 0]).expect("a list") },
        Operation::ChangeDirectory { path: text(c"/") },
        Operation::EnterUserNamespace { uids: text(c"0 1000 1"), gids: text(c"0 1000 1") },
        Operation::WriteFile { path: text(c"/a/b"), content: b"words" },
        Operation::MakeDevice { path: text(c"/dev/null"), mode: 0o20666, major: 1, minor: 3, uid: 0, gid: 0 },
        Operation::ChangeMount {
            target: text(c"/"),
            recursive: true,
            set: 1,
            clear: 2,
            propagation: 1 << 18,
        },
        Operation::MountCopy { target: text(c"/var"), attributes: 2, options: list(b"size=1m\0") },
        Operation::BindTerminal { target: text(c"/dev/console") },
        Operation::MaskPath { path: text(c"/proc/kcore") },
        Operation::ProtectPath { path: text(c"/proc/sys") },
        Operation::BoundCapabilities { keep: 0xff },
        Operation::SetCapabilities { effective: 1, permitted: 1, inheritable: 0, ambient: 0 },
        Operation::SetLimit { resource: 7, soft: 1024, hard: 4096 },
        Operation::SetSeccomp { flags: 0, filter: &[6, 0, 0, 0, 0, 0, 0xff, 0x7f] },
        Operation::Await,
        Operation::Exec { arguments: list(b"sh\0-c\0"), environment: list(b"PATH=/bin::/sbin\0") },
    ]
}

fn program(operations: &[Operation<'_>]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut writer = ProgramWriter::new(&mut bytes);
    operations.iter().for_each(|operation| writer.push(operation).expect("room for a seed"));
    writer.finish().as_bytes().to_vec()
}

fn requests() -> Vec<Vec<u8>> {
    let program = program(&operations());
    let operations = mote_protocol::Operations::from_bytes(&program);
    let stdio = Stdio { stdin: Some(1025), stdout: Some(1026), ..Stdio::default() };
    let requests = [
        Request::Welcome(Welcome { version: VERSION, features: Features::default() }),
        Request::Run(Run { process: ProcessId(1), stdio, program: operations }),
        Request::Signal(Signal { process: ProcessId(1), signal: 15 }),
        Request::PowerOff(PowerOff { action: Action::PowerOff }),
    ];
    let frames: Vec<Vec<u8>> =
        requests.iter().map(|request| frame(|bytes| request.encode(1, bytes))).collect();
    let all = frames.concat();
    frames.into_iter().chain([all]).collect()
}

fn programs() -> Vec<Vec<u8>> {
    let operations = operations();
    let all = program(&operations);
    let good = [&[0][..], &all].concat();
    let failing = [&[12, 0, 0, 1, 0, 0, 1, 1, 0, 2, 0, 0, 3][..], &all].concat();
    let single =
        operations.iter().map(|operation| [&[0][..], &program(std::slice::from_ref(operation))].concat());
    single.chain([good, failing]).collect()
}

/// An ELF file with one segment that is loaded, and perhaps a note that says where PVH enters.
fn elf(note: bool) -> Vec<u8> {
    let segments: u16 = if note { 2 } else { 1 };
    let data = 64 + 56 * u64::from(segments);
    let mut file = Writer::default();
    file.word(0x464c_457f).word(0x0001_0102).long(0).half(2).half(62).word(1);
    file.long(0x10_0000).long(64).long(0).word(0).half(64).half(56).half(segments).half(64).half(0).half(0);
    file.word(1).word(7).long(data).long(0x10_0000).long(0x10_0000).long(32).long(4096).long(4096);
    if note {
        file.word(4).word(4).long(data).long(0).long(0).long(32).long(32).long(4);
    }
    // Name and descriptor of `XEN_ELFNOTE_PHYS32_ENTRY`.
    file.word(4).word(8).word(18).word(0x006e_6558).long(0x10_0000).long(0);
    file.finish()
}

fn kernels() -> Vec<Vec<u8>> {
    let input = |cmdline: &[u8], initrd: u16, file: &[u8]| {
        let mut writer = Writer::default();
        let head = writer.byte(1).bytes(cmdline).half(initrd).finish();
        [&head[..], file].concat()
    };
    vec![
        input(b"console=ttyS0", 100, &elf(false)),
        input(b"", 0, &elf(true)),
        input(b"a\0b", 0xffff, &elf(true)),
        input(b"x", 0, b"not a kernel"),
    ]
}

fn words() -> Vec<Vec<u8>> {
    let words =
        ["128m", "1g", "34mib", "131072kb", "999999999999t", "-1", "etc/\netc/passwd\n../x\n/a\na//b"];
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}
