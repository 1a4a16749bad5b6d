//! Devices: the nodes in `/dev`, and the rules that say which may be used, compiled to the program that the kernel asks.

use std::ffi::CStr;

use mote_protocol::Operation;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{
    bundle::{Bundle, wrong},
    mounts,
};
use crate::{Error, program::Builder};

/// `S_IF*` of `linux/stat.h`.
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const PIPE: u32 = 0o010_000;

/// What every container has: name, major and minor number.
const DEFAULT: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

/// What programs look for beside them.
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
    (c"pts/ptmx", c"/dev/ptmx"),
];

/// Adds what belongs into `/dev`.
pub(super) fn nodes(bundle: &Bundle, builder: &mut Builder) -> Result<(), Error> {
    let is_bound = bundle
        .mounts()
        .iter()
        .any(|mount| mount.destination().as_os_str() == "/dev" && mounts::Options::of(mount).bind.is_some());
    if is_bound {
        // Somebody else's, and as that one wants it.
        return Ok(());
    }
    let own = bundle.linux().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for device in own {
        node(bundle, device, builder)?;
    }
    for (path, major, minor) in DEFAULT {
        make(bundle, path, CHARACTER | 0o666, (major, minor), (0, 0), builder)?;
    }
    for (content, path) in LINKS {
        builder.push(Operation::MakeSymlink { content: content.into(), path: path.into() })?;
    }
    builder.push(Operation::BindTerminal { target: c"/dev/console".into() })
}

fn node(bundle: &Bundle, device: &LinuxDevice, builder: &mut Builder) -> Result<(), Error> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => CHARACTER,
        LinuxDeviceType::B => BLOCK,
        LinuxDeviceType::P => PIPE,
        LinuxDeviceType::A => {
            return Err(wrong(format!(
                "linux.devices: {}: type must be c, b, u or p",
                device.path().display()
            )));
        }
    };
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| {
            wrong(format!("linux.devices: {}: there is no number {number}", device.path().display()))
        })
    };
    let path = mounts::path(device.path())?;
    let mode = kind | (device.file_mode().unwrap_or(0o666) & 0o7777);
    let numbers = if kind == PIPE { (0, 0) } else { (number(device.major())?, number(device.minor())?) };
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    make(bundle, &path, mode, numbers, owner, builder)
}

/// In a user namespace no devices can be made; those of the guest that have the same name are shown instead.
fn make(
    bundle: &Bundle,
    path: &CStr,
    mode: u32,
    (major, minor): (u32, u32),
    (uid, gid): (u32, u32),
    builder: &mut Builder,
) -> Result<(), Error> {
    if bundle.has_user_namespace() && mode & PIPE != PIPE {
        return builder.push(Operation::Bind {
            source: path.into(),
            target: path.into(),
            recursive: false,
            uids: c"".into(),
            gids: c"".into(),
            recursive_ids: false,
        });
    }
    builder.push(Operation::MakeDevice { path: path.into(), mode, major, minor, uid, gid })
}

/// One device of a rule, or all with `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `BPF_DEVCG_DEV_*`.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    /// `BPF_DEVCG_ACC_*`.
    access: i32,
}

/// `BPF_DEVCG_*` of `linux/bpf.h`.
const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const EVERYTHING: i32 = MAKE | READ | WRITE;

/// Kind, major and minor number, what may be done; without a number, any.
type Devices = (Option<i32>, Option<i32>, Option<i32>, i32);

/// The devices that containers use whatever their rules say, after those of the configuration: making any node is allowed, it is no use
/// without the right to open it.
const ALWAYS: [Devices; 12] = [
    (Some(KIND_CHARACTER), None, None, MAKE),
    (Some(KIND_BLOCK), None, None, MAKE),
    (Some(KIND_CHARACTER), Some(1), Some(3), EVERYTHING),
    (Some(KIND_CHARACTER), Some(1), Some(8), EVERYTHING),
    (Some(KIND_CHARACTER), Some(1), Some(7), EVERYTHING),
    (Some(KIND_CHARACTER), Some(5), Some(0), EVERYTHING),
    (Some(KIND_CHARACTER), Some(1), Some(5), EVERYTHING),
    (Some(KIND_CHARACTER), Some(1), Some(9), EVERYTHING),
    // Terminals, /dev/console, /dev/ptmx.
    (Some(KIND_CHARACTER), Some(136), None, EVERYTHING),
    (Some(KIND_CHARACTER), Some(5), Some(1), EVERYTHING),
    (Some(KIND_CHARACTER), Some(5), Some(2), EVERYTHING),
    // The network tunnel is the guest's own.
    (Some(KIND_CHARACTER), Some(10), Some(200), EVERYTHING),
];

/// Compiles device rules; none if there are no rules.
pub(super) fn filter(rules: &[LinuxDeviceCgroup]) -> Result<Option<Vec<u8>>, Error> {
    if rules.is_empty() {
        return Ok(None);
    }
    let mut all = rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    all.extend(ALWAYS.map(|(kind, major, minor, access)| Rule { allow: true, kind, major, minor, access }));
    Ok(Some(program(&all)))
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(KIND_BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(KIND_CHARACTER),
        Some(LinuxDeviceType::P) => return Err(wrong("linux.resources.devices: pipes are no devices")),
    };
    // A negative number is any.
    let number = |number: Option<i64>| {
        number.and_then(|number| i32::try_from(number).ok()).filter(|number| *number >= 0)
    };
    let access = match rule.access().as_deref() {
        None | Some("") => EVERYTHING,
        Some(letters) => letters.chars().try_fold(0, |access, letter| {
            Ok(access
                | match letter {
                    'r' => READ,
                    'w' => WRITE,
                    'm' => MAKE,
                    other => {
                        return Err(wrong(format!(
                            "linux.resources.devices: access {other:?}: r, w and m are known"
                        )));
                    }
                })
        })?,
    };
    let (major, minor) = (number(rule.major()), number(rule.minor()));
    Ok(Rule { allow: rule.allow(), kind, major, minor, access })
}

/// `struct bpf_insn`.
fn instruction(code: u8, destination: u8, source: u8, jump: i16, value: i32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (jump.to_le_bytes(), value.to_le_bytes());
    [code, destination | source << 4, a, b, c, d, e, f]
}

/// The program: rules from the last to the first; the first that applies decides, and without one everything is allowed, as in a
/// cgroup that nobody has ruled about.
fn program(rules: &[Rule]) -> Vec<u8> {
    // Operation codes of eBPF, for 32-bit numbers, and what is in which register.
    const LOAD: u8 = 0x61;
    const MOVE_REGISTER: u8 = 0xbc;
    const MOVE: u8 = 0xb4;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const JUMP_EQ: u8 = 0x16;
    const JUMP_NE: u8 = 0x56;
    const EXIT: u8 = 0x95;
    const RESULT: u8 = 0;
    const CONTEXT: u8 = 1;
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const SCRATCH: u8 = 6;
    let verdict =
        |allow: bool| [instruction(MOVE, RESULT, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)];
    let mut code = vec![
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // Each test jumps behind the verdict if it fails; how far is known from the end.
        let mut tests = Vec::new();
        for (register, wanted) in [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(wanted) = wanted {
                tests.push((JUMP_NE, register, wanted));
            }
        }
        // What allows has to allow all that is asked for; what forbids has to forbid a part of it.
        let masked = match (rule.access == EVERYTHING, rule.allow) {
            (true, _) => None,
            (false, true) => Some((!rule.access & EVERYTHING, JUMP_NE)),
            (false, false) => Some((rule.access, JUMP_EQ)),
        };
        let len = tests.len() + masked.map_or(0, |_| 3) + 2;
        let start = code.len();
        let behind = |at: usize| i16::try_from(start + len - at - 1).unwrap_or(i16::MAX);
        for (jump, register, wanted) in tests {
            let distance = behind(code.len());
            code.push(instruction(jump, register, 0, distance, wanted));
        }
        if let Some((mask, jump)) = masked {
            code.push(instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
            code.push(instruction(AND, SCRATCH, 0, 0, mask));
            let distance = behind(code.len());
            code.push(instruction(jump, SCRATCH, 0, distance, 0));
        }
        code.extend(verdict(rule.allow));
        let applies_always = rule.kind.is_none() && rule.major.is_none() && rule.minor.is_none();
        if applies_always && rule.access == EVERYTHING {
            // Nothing is reached after it, which the kernel refuses.
            return code.concat();
        }
    }
    code.extend(verdict(true));
    code.concat()
}

#[cfg(test)]
mod tests;
