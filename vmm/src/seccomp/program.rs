//! From a list to a program for the kernel (`Documentation/userspace-api/seccomp_filter.rst`).
//!
//! The kernel runs the program for every system call that is made. When it is installed, it is translated, which costs for each of its
//! instructions, and run once for every call that there is, step by step, which costs most. So a search that halves the numbers,
//! not the entries, leads to what is to be done about one, and all of its ends are shared.

use std::ops::Range;

use seccompiler::sock_filter;

use super::{Allowed, Argument, Kind};

/// How many system calls there are, about: it is for their numbers that the search is short.
const NUMBERS: u64 = 470;

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
struct Entry<'a> {
    number: u32,
    ways: &'a [&'a Allowed],
}

/// Where a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Deny,
    Allow,
    /// At the arguments of the entry with this number.
    Check(u32),
}

/// A program that allows what is on the lists of `kind`, and returns `otherwise` for everything else.
pub(super) fn translate(kind: &Kind, otherwise: u32) -> Result<Vec<sock_filter>, TooLong> {
    let mut list: Vec<&Allowed> = kind.lists.iter().copied().flatten().collect();
    list.sort_by_key(|allowed| allowed.number);
    let same = list.chunk_by(|one, other| one.number == other.number);
    let entries: Vec<Entry<'_>> = same.filter_map(Entry::of).collect();
    let mut program = Program::default();
    program.steps.extend([
        step(LOAD, ARCH),
        jump(JUMP_IF_EQUAL, ARCHITECTURE, 1, 0),
        step(RETURN, KILL_PROCESS),
        step(LOAD, NUMBER),
    ]);
    program.search(&entries, 0..u64::from(u32::MAX) + 1)?;
    program.finish(&entries, otherwise)
}

/// A program that is being written.
#[derive(Default)]
struct Program {
    steps: Vec<sock_filter>,
    /// Branches that lead to an end: which instruction's, whether it is the one that is taken if the comparison holds, and where to.
    open: Vec<(usize, bool, End)>,
}

impl Program {
    /// Leads from a number in `range`, which is loaded, to its end. All `entries` are in the range.
    fn search(&mut self, entries: &[Entry<'_>], range: Range<u64>) -> Result<(), TooLong> {
        if let [entry] = entries {
            let branch = self.branch(JUMP_IF_EQUAL, entry.number);
            self.open.extend([(branch, true, entry.end()), (branch, false, End::Deny)]);
            return Ok(());
        }
        let Some(middle) = middle(entries, &range) else {
            // Nothing to look for: there are no entries at all.
            let branch = self.branch(JUMP_IF_EQUAL, 0);
            self.open.extend([(branch, true, End::Deny), (branch, false, End::Deny)]);
            return Ok(());
        };
        let branch = self.branch(JUMP_IF_AT_LEAST, middle);
        let middle = u64::from(middle);
        let (low, high) = entries.split_at(entries.partition_point(|entry| u64::from(entry.number) < middle));
        for (taken, entries, range) in [(false, low, range.start..middle), (true, high, middle..range.end)] {
            if let Some(end) = end(entries, &range) {
                self.open.push((branch, taken, end));
                continue;
            }
            self.lead(branch, taken, self.steps.len())?;
            self.search(entries, range)?;
        }
        Ok(())
    }

    /// Writes the ends, and leads to them what is to get there.
    fn finish(mut self, entries: &[Entry<'_>], otherwise: u32) -> Result<Vec<sock_filter>, TooLong> {
        let mut ends = vec![(End::Deny, self.steps.len()), (End::Allow, self.steps.len() + 1)];
        self.steps.extend([step(RETURN, otherwise), step(RETURN, ALLOW)]);
        for entry in entries {
            let end = entry.end();
            if end != End::Allow {
                ends.push((end, self.steps.len()));
                entry.ways.iter().try_for_each(|way| self.check(way.when))?;
                self.steps.push(step(RETURN, otherwise));
            }
        }
        for (branch, taken, end) in std::mem::take(&mut self.open) {
            let place = ends.iter().find(|(other, _)| *other == end).ok_or(TooLong)?;
            self.lead(branch, taken, place.1)?;
        }
        Ok(self.steps)
    }

    /// Allows the call if all arguments are as they must be, and else goes on behind.
    fn check(&mut self, arguments: &[Argument]) -> Result<(), TooLong> {
        let mut comparisons = Vec::with_capacity(arguments.len());
        for argument in arguments {
            // The lower half, on a little-endian machine, is the first one.
            self.steps.push(step(LOAD, ARGUMENTS + 8 * u32::from(argument.index)));
            if argument.mask != u32::MAX {
                self.steps.push(step(AND, argument.mask));
            }
            comparisons.push(self.branch(JUMP_IF_EQUAL, argument.value));
        }
        self.steps.push(step(RETURN, ALLOW));
        let behind = self.steps.len();
        comparisons.into_iter().try_for_each(|comparison| self.lead(comparison, false, behind))
    }

    /// A comparison, of which both branches lead to the next instruction so far.
    fn branch(&mut self, code: u16, k: u32) -> usize {
        self.steps.push(step(code, k));
        self.steps.len() - 1
    }

    /// Has one of a comparison's branches lead to `place`, which is behind it.
    fn lead(&mut self, branch: usize, taken: bool, place: usize) -> Result<(), TooLong> {
        let distance = u8::try_from(place - branch - 1).map_err(|_| TooLong)?;
        let step = &mut self.steps[branch];
        *(if taken { &mut step.jt } else { &mut step.jf }) = distance;
        Ok(())
    }
}

impl<'a> Entry<'a> {
    /// The entry of these ways to make one call, unless it has a number that no call has: that allows nothing.
    fn of(ways: &'a [&'a Allowed]) -> Option<Self> {
        let number = u32::try_from(ways.first()?.number).ok()?;
        Some(Self { number, ways })
    }

    fn end(&self) -> End {
        let always = self.ways.iter().any(|way| way.when.is_empty());
        if always { End::Allow } else { End::Check(self.number) }
    }
}

/// The end of every number in `range`, if it is the same one.
fn end(entries: &[Entry<'_>], range: &Range<u64>) -> Option<End> {
    let Some(first) = entries.first().map(Entry::end) else { return Some(End::Deny) };
    let all = u64::try_from(entries.len()).is_ok_and(|len| len == range.end - range.start);
    (all && entries.iter().all(|entry| entry.end() == first)).then_some(first)
}

/// Where what is done about numbers changes, as near to the middle of `range` as possible.
fn middle(entries: &[Entry<'_>], range: &Range<u64>) -> Option<u32> {
    let center = (range.start.min(NUMBERS) + range.end.min(NUMBERS)) / 2;
    let behind = entries.partition_point(|entry| u64::from(entry.number) < center);
    // The change that is nearest is at one of the entries around it, or right after one.
    let around = entries.get(behind.saturating_sub(2)..entries.len().min(behind + 2)).unwrap_or_default();
    let changes = around.iter().flat_map(|entry| [Some(entry.number), entry.number.checked_add(1)]).flatten();
    let inside = changes.filter(|number| range.start < u64::from(*number) && u64::from(*number) < range.end);
    inside.min_by_key(|number| u64::from(*number).abs_diff(center))
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
    use crate::seccomp::{DEVICES, FILE_SERVER, PUMP, QEMU, VCPU, VHOST_USER, VHOST_USER_FILE_SERVER, allow};

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
    fn nothing_is_allowed_without_entries_and_runs_of_numbers_end() {
        static NONE: Kind = Kind { name: "none", lists: &[] };
        static RUN: Kind =
            Kind { name: "run", lists: &[&[allow(0), allow(1), allow(2), allow(468), allow(469)]] };
        let (none, all) = (translate(&NONE, TRAP).unwrap(), translate(&RUN, TRAP).unwrap());
        for number in [0, 1, 2, 3, 467, 468, 469, 470, 471, 0x4000_0000, u32::MAX] {
            assert_eq!(run(&none, number, ARCHITECTURE, [0; 6]), TRAP, "{number}");
            let expected = if matches!(number, 0..=2 | 468..=469) { ALLOW } else { TRAP };
            assert_eq!(run(&all, number, ARCHITECTURE, [0; 6]), expected, "{number}");
        }
    }

    #[test]
    fn programs_are_short() {
        for kind in KINDS {
            let entries = kind.lists.iter().copied().flatten().count();
            let program = translate(kind, TRAP).unwrap();
            assert!(program.len() < 2 * entries + 30, "{}: {} for {entries}", kind.name, program.len());
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
