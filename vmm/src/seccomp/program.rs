//! From a list to a program for the kernel (`Documentation/userspace-api/seccomp_filter.rst`).
//!
//! The kernel runs the program for every system call that is made, and when it is installed once for every call that there is. A
//! program that compares the number with one entry after the other makes the latter the most expensive part of starting a VM. So a
//! search that halves leads to a few entries, and only those are compared.

use seccompiler::sock_filter;

use super::{Allowed, Argument, Kind};

/// How many entries are compared one after the other.
const FEW: usize = 4;

/// `AUDIT_ARCH_X86_64`: what calls of the usual kind look like. 32-bit programs make others.
const ARCHITECTURE: u32 = 0xc000_003e;

// What a program may do with a call (`linux/seccomp.h`).
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const TRAP: u32 = 0x0003_0000;
pub(super) const LOG: u32 = 0x7ffc_0000;
pub(super) const ALLOW: u32 = 0x7fff_0000;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

// Instructions (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// The list is too long for the jumps of a program, which reach 255 instructions far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list is too long")]
pub struct TooLong;

/// One number, and each way in which the call may be made.
type Entry<'a> = (u32, Vec<&'a Allowed>);

/// A program that allows what is on the lists of `kind`, and returns `otherwise` for everything else.
pub(super) fn translate(kind: &Kind, otherwise: u32) -> Result<Vec<sock_filter>, TooLong> {
    let mut list: Vec<&Allowed> = kind.lists.iter().copied().flatten().collect();
    list.sort_by_key(|allowed| allowed.number);
    let mut entries: Vec<Entry<'_>> = Vec::with_capacity(list.len());
    for allowed in list {
        // A number that no call has allows nothing.
        let Ok(number) = u32::try_from(allowed.number) else { continue };
        match entries.last_mut() {
            Some((last, ways)) if *last == number => ways.push(allowed),
            _ => entries.push((number, vec![allowed])),
        }
    }
    let mut program = vec![
        step(LOAD, ARCH),
        jump(JUMP_IF_EQUAL, ARCHITECTURE, 1, 0),
        step(RETURN, KILL_PROCESS),
        step(LOAD, NUMBER),
    ];
    search(&entries, otherwise, &mut program)?;
    Ok(program)
}

/// Leads to the entry for the number that is loaded.
fn search(entries: &[Entry<'_>], otherwise: u32, program: &mut Vec<sock_filter>) -> Result<(), TooLong> {
    if entries.len() <= FEW {
        return compare(entries, otherwise, program);
    }
    let (low, high) = entries.split_at(entries.len() / 2);
    let branch = program.len();
    program.push(jump(JUMP_IF_AT_LEAST, high[0].0, 0, 0));
    search(low, otherwise, program)?;
    program[branch].jt = distance(branch, program.len())?;
    search(high, otherwise, program)
}

/// Compares the number with each of the entries, behind which is what to do about it.
fn compare(entries: &[Entry<'_>], otherwise: u32, program: &mut Vec<sock_filter>) -> Result<(), TooLong> {
    let start = program.len();
    program.extend(entries.iter().map(|(number, _)| jump(JUMP_IF_EQUAL, *number, 0, 0)));
    program.push(step(RETURN, otherwise));
    let allow = program.len();
    program.push(step(RETURN, ALLOW));
    for (index, (_, ways)) in entries.iter().enumerate() {
        let comparison = start + index;
        let target = if ways.iter().any(|way| way.when.is_empty()) {
            allow
        } else {
            let target = program.len();
            ways.iter().try_for_each(|way| check(way.when, program))?;
            program.push(step(RETURN, otherwise));
            target
        };
        program[comparison].jt = distance(comparison, target)?;
    }
    Ok(())
}

/// Allows the call if all arguments are as they must be, and else goes on behind.
fn check(arguments: &[Argument], program: &mut Vec<sock_filter>) -> Result<(), TooLong> {
    let mut comparisons = Vec::with_capacity(arguments.len());
    for argument in arguments {
        // The lower half, on a little-endian machine, is the first one.
        program.push(step(LOAD, ARGUMENTS + 8 * u32::from(argument.index)));
        if argument.mask != u32::MAX {
            program.push(step(AND, argument.mask));
        }
        comparisons.push(program.len());
        program.push(jump(JUMP_IF_EQUAL, argument.value, 0, 0));
    }
    program.push(step(RETURN, ALLOW));
    let behind = program.len();
    for comparison in comparisons {
        program[comparison].jf = distance(comparison, behind)?;
    }
    Ok(())
}

/// What a jump needs to get from one instruction to another.
fn distance(from: usize, to: usize) -> Result<u8, TooLong> {
    u8::try_from(to - from - 1).map_err(|_| TooLong)
}

fn step(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };

    use super::*;
    use crate::seccomp::{DEVICES, FILE_SERVER, PUMP, QEMU, VCPU, VHOST_USER, VHOST_USER_FILE_SERVER};

    const KINDS: [&Kind; 7] =
        [&VCPU, &DEVICES, &VHOST_USER, &FILE_SERVER, &VHOST_USER_FILE_SERVER, &PUMP, &QEMU];

    /// Runs a program as the kernel does.
    fn run(program: &[sock_filter], number: u32, arch: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0; 64];
        data[..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let mut go = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                LOAD => {
                    let from = k as usize;
                    accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                }
                AND => accumulator &= k,
                JUMP_IF_EQUAL => go(accumulator == k),
                JUMP_IF_AT_LEAST => go(accumulator >= k),
                RETURN => return k,
                // Seccompiler jumps over more than 255 instructions with these.
                0x05 => at += k as usize,
                other => panic!("{other:#x}"),
            }
        }
    }

    /// The same list, as the crate translates it.
    fn reference(kind: &Kind) -> BpfProgram {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for allowed in kind.lists.iter().copied().flatten() {
            let ways = rules.entry(allowed.number).or_default();
            if !allowed.when.is_empty() {
                let conditions = allowed.when.iter().map(|argument| {
                    let op = SeccompCmpOp::MaskedEq(argument.mask.into());
                    SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, op, argument.value.into())
                });
                ways.push(SeccompRule::new(conditions.collect::<Result<_, _>>().unwrap()).unwrap());
            }
        }
        let (otherwise, allow) = (SeccompAction::Trap, SeccompAction::Allow);
        SeccompFilter::new(rules, otherwise, allow, TargetArch::x86_64).unwrap().try_into().unwrap()
    }

    proptest! {
        #[test]
        fn decides_as_a_plain_program_does(
            number in prop_oneof![0u32..500, any::<u32>()],
            arguments: [u64; 6],
            small in prop::array::uniform6(0u64..16),
            request in prop_oneof![Just(0xae80u64), Just(0x1_0000_ae80), 0u64..0x1_0000],
        ) {
            let [_, _, third, ..] = small;
            for kind in KINDS {
                let (program, reference) = (translate(kind, TRAP).unwrap(), reference(kind));
                for arguments in [arguments, small, [0, request, third, 0, 0, 0]] {
                    let ours = run(&program, number, ARCHITECTURE, arguments);
                    prop_assert_eq!(ours, run(&reference, number, ARCHITECTURE, arguments), "{}", kind.name);
                }
            }
        }
    }

    #[test]
    fn decides_every_call_as_a_plain_program_does() {
        for kind in KINDS {
            let (program, reference) = (translate(kind, TRAP).unwrap(), reference(kind));
            for number in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                for third in [0, 1, 4, 6, 7, 23] {
                    let arguments = [0, 1, third, 0, 0, 0];
                    let ours = run(&program, number, ARCHITECTURE, arguments);
                    assert_eq!(
                        ours,
                        run(&reference, number, ARCHITECTURE, arguments),
                        "{} {number}",
                        kind.name
                    );
                }
            }
        }
    }

    #[test]
    fn other_architectures_are_other_numbers() {
        for kind in KINDS {
            let program = translate(kind, TRAP).unwrap();
            // `AUDIT_ARCH_I386`, where 4 is `write`.
            assert_eq!(run(&program, 4, 0x4000_0003, [0; 6]), KILL_PROCESS);
        }
    }
}
