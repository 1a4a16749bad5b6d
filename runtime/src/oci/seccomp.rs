//! Compiles a seccomp profile to the filter that the kernel runs: classic BPF over `struct seccomp_data`.
//!
//! The shape of a filter: the architecture is checked; then a binary search over ranges of system call numbers that are treated
//! alike, about eight comparisons for a profile of hundreds; at its leaf an action, or the conditions on arguments, in the order of
//! the profile. The first rule that matches decides, and the default action if none does.
//!
//! Names that this architecture does not have are skipped, as engines expect. Where the default action is an error, system calls newer
//! than any that the profile names get `ENOSYS`, so that programs fall back to older ones instead of giving up.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, str::FromStr};

use mote_protocol::limits::MAX_SECCOMP;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use syscalls::x86_64::Sysno;

use crate::{Error, error::Kind};

/// What a filter returns: `SECCOMP_RET_*` of `linux/seccomp.h`.
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// `AUDIT_ARCH_X86_64`.
const THIS_ARCHITECTURE: u32 = 0xc000_003e;
/// Set in the numbers of the x32 ABI, which has the architecture of the 64-bit one.
const X32: u32 = 0x4000_0000;

/// Where `struct seccomp_data` has what.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// How many arguments a system call has.
const MAX_ARGUMENT: usize = 6;

/// Operation codes of classic BPF.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

impl Instruction {
    fn new(code: u16, operand: u32) -> Self {
        Self { code, if_true: 0, if_false: 0, operand }
    }

    fn jump(code: u16, operand: u32, if_true: u8, if_false: u8) -> Self {
        Self { code, if_true, if_false, operand }
    }

    fn to_bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_le_bytes();
        let [c, d, e, f] = self.operand.to_le_bytes();
        [a, b, self.if_true, self.if_false, c, d, e, f]
    }
}

/// A filter, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: u32,
    /// `struct sock_filter`, one after the other.
    pub(super) program: Vec<u8>,
}

/// Compiles a profile.
///
/// # Errors
/// It wants to notify somebody, compares an argument that no system call has, or is too long for the kernel.
pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let table = table(profile, default)?;
    let instructions = program(profile, &table, default)?;
    if instructions.len() > MAX_SECCOMP {
        return Err(wrong(format!(
            "the filter has {} instructions, the kernel takes {MAX_SECCOMP}",
            instructions.len()
        )));
    }
    let program = instructions.iter().flat_map(|instruction| instruction.to_bytes()).collect();
    Ok(Filter { flags: flags(profile), program })
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Process, format!("linux.seccomp: {what}"))
}

fn flags(profile: &LinuxSeccomp) -> u32 {
    const LOG: u32 = 1 << 1;
    const SPEC_ALLOW: u32 = 1 << 2;
    let Some(flags) = profile.flags() else { return SPEC_ALLOW };
    flags.iter().fold(0, |all, flag| {
        all | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
            // The process has one thread when it loads the filter; and nobody is notified.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync
            | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

/// What the filter returns for an action.
fn action(action: LinuxSeccompAction, number: Option<u32>) -> Result<u32, Error> {
    const DATA: u32 = 0xffff;
    let number = number.unwrap_or(EPERM) & DATA;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => ERRNO | number,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | number,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(wrong(
                "SCMP_ACT_NOTIFY: a process on the host cannot decide about system calls of another kernel",
            ));
        }
    })
}

/// A rule: if all of these hold, this is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    action: u32,
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    /// Where its lower half is.
    offset: u32,
    operator: LinuxSeccompOperator,
    value: u64,
    /// What a masked argument has to be.
    wanted: u64,
}

/// The rules of each system call that is not just treated as all others.
fn table(profile: &LinuxSeccomp, default: u32) -> Result<BTreeMap<u32, Vec<Rule>>, Error> {
    let mut table: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for entry in profile.syscalls().iter().flatten() {
        let rules = rules(entry)?;
        for name in entry.names() {
            let Some(number) = Sysno::from_str(name).ok().and_then(|call| u32::try_from(call.id()).ok())
            else {
                tracing::debug!("seccomp: this architecture has no system call {name}");
                continue;
            };
            // A rule that does what is done anyway says nothing; so the kernel's own order of rules has it, too.
            let new = rules.iter().filter(|rule| rule.action != default).cloned();
            table.entry(number).or_default().extend(new);
        }
    }
    // Nothing is reached after a rule that always matches.
    for rules in table.values_mut() {
        if let Some(last) = rules.iter().position(|rule| rule.conditions.is_empty()) {
            rules.truncate(last + 1);
        }
    }
    Ok(table)
}

fn rules(entry: &LinuxSyscall) -> Result<Vec<Rule>, Error> {
    let action = action(entry.action(), entry.errno_ret())?;
    let arguments = entry.args().as_deref().unwrap_or_default();
    let conditions = arguments.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let mut offsets: Vec<_> = conditions.iter().map(|condition| condition.offset).collect();
    offsets.sort_unstable();
    offsets.dedup();
    // Two comparisons of one argument are alternatives: so libseccomp's users have it, and profiles are written for them.
    if offsets.len() < conditions.len() {
        return Ok(conditions.into_iter().map(|one| Rule { conditions: vec![one], action }).collect());
    }
    Ok(vec![Rule { conditions, action }])
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, Error> {
    let index = argument.index();
    let offset = u32::try_from(index)
        .ok()
        .filter(|_| index < MAX_ARGUMENT)
        .ok_or_else(|| wrong(format!("argument {index}: a system call has six, counted from 0")))?;
    let (value, operator) = (argument.value(), argument.op());
    let wanted = argument.value_two().unwrap_or(0) & value;
    Ok(Condition { offset: ARGUMENTS + 8 * offset, operator, value, wanted })
}

/// Numbers from here to the next range's that are treated alike.
struct Range {
    first: u32,
    code: Vec<Instruction>,
}

fn program(
    profile: &LinuxSeccomp,
    table: &BTreeMap<u32, Vec<Rule>>,
    default: u32,
) -> Result<Vec<Instruction>, Error> {
    let architectures = profile.architectures().as_deref().unwrap_or_default();
    let native = architectures.is_empty()
        || architectures.iter().any(|a| matches!(a, Arch::ScmpArchX86_64 | Arch::ScmpArchNative));
    if !native {
        return Err(wrong("architectures: x86-64, which the container runs on, is not among them"));
    }
    let other = [Instruction::new(RETURN, KILL_PROCESS)];
    let mut code = vec![
        Instruction::new(LOAD, ARCHITECTURE),
        Instruction::jump(JUMP_EQ, THIS_ARCHITECTURE, 1, 0),
        other[0],
        Instruction::new(LOAD, NUMBER),
        // The guest's kernel has neither the x32 ABI nor the 32-bit one.
        Instruction::jump(JUMP_GE, X32, 0, 1),
        other[0],
    ];
    code.extend(search(&ranges(table, default)));
    Ok(code)
}

fn ranges(table: &BTreeMap<u32, Vec<Rule>>, default: u32) -> Vec<Range> {
    let default_code = vec![Instruction::new(RETURN, default)];
    let mut ranges = vec![Range { first: 0, code: default_code.clone() }];
    let mut add = |first: u32, code: Vec<Instruction>| match ranges.last_mut() {
        Some(last) if last.code == code => {}
        Some(last) if last.first == first => last.code = code,
        _ => ranges.push(Range { first, code }),
    };
    let mut next = 0;
    for (number, rules) in table {
        if *number > next {
            add(next, default_code.clone());
        }
        add(*number, body(rules, default));
        next = number + 1;
    }
    let is_error = default & 0xffff_0000 == ERRNO;
    if is_error && next > 0 {
        add(next, vec![Instruction::new(RETURN, ERRNO | ENOSYS)]);
    } else {
        add(next, default_code);
    }
    ranges
}

/// The code for one system call. The number of the call is in the accumulator, and of no more use.
fn body(rules: &[Rule], default: u32) -> Vec<Instruction> {
    let mut code = vec![Instruction::new(RETURN, default)];
    for rule in rules.iter().rev() {
        let mut checked = vec![Instruction::new(RETURN, rule.action)];
        for condition in rule.conditions.iter().rev() {
            checked.splice(0..0, check(condition, checked.len()));
        }
        if rule.conditions.is_empty() {
            code.clear();
        }
        checked.append(&mut code);
        code = checked;
    }
    code
}

/// Goes on behind itself if a condition holds, and `rest` instructions further if it does not.
fn check(condition: &Condition, rest: usize) -> Vec<Instruction> {
    use LinuxSeccompOperator as Op;
    // At most six conditions of seven instructions: far below what a jump reaches.
    let rest = u8::try_from(rest).unwrap_or(u8::MAX);
    let halves = |value: u64| {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d]))
    };
    let Condition { offset, operator, value, wanted } = *condition;
    let (high, low) = halves(value);
    let (load_low, load_high) = (Instruction::new(LOAD, offset), Instruction::new(LOAD, offset + 4));
    // The upper halves decide unless they are equal. `less` and `greater` say where a lesser or greater upper half leads.
    let ordered = |on_greater: bool, last: u16, on_last: bool| {
        let to = |holds: bool, left: u8| if holds { left } else { rest + left };
        vec![
            load_high,
            Instruction::jump(JUMP_GT, high, to(on_greater, 3), 0),
            Instruction::jump(JUMP_EQ, high, 0, to(!on_greater, 2)),
            load_low,
            Instruction::jump(last, low, to(on_last, 0), to(!on_last, 0)),
        ]
    };
    match operator {
        Op::ScmpCmpEq => vec![
            load_high,
            Instruction::jump(JUMP_EQ, high, 0, rest + 2),
            load_low,
            Instruction::jump(JUMP_EQ, low, 0, rest),
        ],
        Op::ScmpCmpNe => vec![
            load_high,
            Instruction::jump(JUMP_EQ, high, 0, 2),
            load_low,
            Instruction::jump(JUMP_EQ, low, rest, 0),
        ],
        Op::ScmpCmpGt => ordered(true, JUMP_GT, true),
        Op::ScmpCmpGe => ordered(true, JUMP_GE, true),
        Op::ScmpCmpLt => ordered(false, JUMP_GE, false),
        Op::ScmpCmpLe => ordered(false, JUMP_GT, false),
        Op::ScmpCmpMaskedEq => {
            let (wanted_high, wanted_low) = halves(wanted);
            vec![
                load_high,
                Instruction::new(AND, high),
                Instruction::jump(JUMP_EQ, wanted_high, 0, rest + 3),
                load_low,
                Instruction::new(AND, low),
                Instruction::jump(JUMP_EQ, wanted_low, 0, rest),
            ]
        }
    }
}

/// Finds the range of the number in the accumulator.
fn search(ranges: &[Range]) -> Vec<Instruction> {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let Some(pivot) = right.first() else { return Vec::new() };
    if left.is_empty() {
        return pivot.code.clone();
    }
    let mut below = search(left);
    let mut code = match u8::try_from(below.len()) {
        Ok(len) => vec![Instruction::jump(JUMP_GE, pivot.first, len, 0)],
        Err(_) => vec![
            Instruction::jump(JUMP_GE, pivot.first, 0, 1),
            // A filter of more instructions than a number holds is refused later.
            Instruction::new(JUMP, u32::try_from(below.len()).unwrap_or(u32::MAX)),
        ],
    };
    code.append(&mut below);
    code.extend(search(right));
    code
}
