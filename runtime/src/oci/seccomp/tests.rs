//! Filters, run by an interpreter of the kernel's language.

use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder};
use proptest::{collection::vec, option, prelude::*};

use super::*;

const ALLOW: u32 = 0x7fff_0000;

/// What the kernel would return for a system call. Checks what the kernel checks before it takes a filter.
fn run(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(architecture.to_le_bytes());
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let (code, rest) = filter.program.as_chunks::<8>();
    assert!(rest.is_empty() && !code.is_empty() && code.len() <= MAX_SECCOMP);
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let [a, b, if_true, if_false, c, d, e, f] = code[at];
        let operand = u32::from_le_bytes([c, d, e, f]);
        at += 1;
        let jump = |holds: bool| usize::from(if holds { if_true } else { if_false });
        match u16::from_le_bytes([a, b]) {
            LOAD => {
                let offset = usize::try_from(operand).unwrap();
                assert_eq!(offset % 4, 0);
                accumulator = u32::from_le_bytes(*data[offset..].first_chunk().unwrap());
            }
            AND => accumulator &= operand,
            JUMP => at += usize::try_from(operand).unwrap(),
            JUMP_EQ => at += jump(accumulator == operand),
            JUMP_GT => at += jump(accumulator > operand),
            JUMP_GE => at += jump(accumulator >= operand),
            RETURN => return operand,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn number(name: &str) -> u32 {
    u32::try_from(Sysno::from_str(name).unwrap().id()).unwrap()
}

fn call(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
    run(filter, THIS_ARCHITECTURE, number(name), arguments)
}

fn profile(text: &str) -> LinuxSeccomp {
    serde_json::from_str(text).unwrap()
}

#[test]
fn actions_and_errors_are_those_of_the_profile() {
    let filter = compile(&profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5, "syscalls": [
            {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["open"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["umount2"], "action": "SCMP_ACT_KILL"},
            {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["ptrace"], "action": "SCMP_ACT_TRAP"},
            {"names": ["chroot"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {"names": ["mkdir"], "action": "SCMP_ACT_LOG"},
            {"names": ["close_range"], "action": "SCMP_ACT_ALLOW"}]}"#,
    ))
    .unwrap();
    let none = [0; 6];
    for (name, wanted) in [
        ("read", ALLOW),
        ("write", ALLOW),
        ("open", ERRNO | 13),
        ("mount", ERRNO | EPERM),
        ("umount2", 0),
        ("reboot", KILL_PROCESS),
        ("ptrace", 0x0003_0000),
        ("chroot", 0x7ff0_0007),
        ("mkdir", 0x7ffc_0000),
        ("close", ERRNO | 5),
        ("execve", ERRNO | 5),
        // Newer than any that the profile knows.
        ("futex_waitv", ERRNO | ENOSYS),
    ] {
        assert_eq!(call(&filter, name, none), wanted, "{name}");
    }
    assert_eq!(run(&filter, 0x4000_0003, number("read"), none), KILL_PROCESS, "another architecture");
    assert_eq!(run(&filter, THIS_ARCHITECTURE, X32 | number("read"), none), KILL_PROCESS);
}

#[test]
fn arguments_are_compared_as_64_bits() {
    let with = |op: &str, value: u64, two: u64| {
        compile(&profile(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["personality"], "action": "SCMP_ACT_ERRNO",
                "args": [{{"index": 2, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
        )))
        .unwrap()
    };
    let values = [0, 1, 7, 8, 9, u64::from(u32::MAX), 1 << 32, (1 << 32) + 8, (2 << 32) + 8, u64::MAX];
    for wanted in values {
        for value in values {
            let arguments = [1, 2, value, 4, 5, 6];
            for (op, holds) in [
                ("NE", value != wanted),
                ("LT", value < wanted),
                ("LE", value <= wanted),
                ("EQ", value == wanted),
                ("GE", value >= wanted),
                ("GT", value > wanted),
            ] {
                let verdict = call(&with(op, wanted, 0), "personality", arguments);
                assert_eq!(verdict == ERRNO | EPERM, holds, "{value} {op} {wanted}");
                assert_eq!(call(&with(op, wanted, 0), "read", arguments), ALLOW);
            }
            let masked = call(&with("MASKED_EQ", wanted, 8), "personality", arguments);
            assert_eq!(masked == ERRNO | EPERM, value & wanted == 8 & wanted, "{value} & {wanted}");
        }
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let filter = compile(&profile(
        r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 6, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_LOG", "args": [
                {"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_TRAP"}]}"#,
    ))
    .unwrap();
    let verdict = |a, b| call(&filter, "clone", [a, b, 0, 0, 0, 0]);
    assert_eq!(verdict(5, 6), ERRNO | EPERM, "both have to hold");
    assert_eq!(
        (verdict(5, 0), verdict(7, 0)),
        (0x7ffc_0000, 0x7ffc_0000),
        "one of two that are about the same"
    );
    assert_eq!(verdict(0, 6), ALLOW);
}

#[test]
fn what_cannot_be_is_refused() {
    let fails = |text: &str| compile(&profile(text)).unwrap_err().to_string();
    assert!(fails(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).contains("SCMP_ACT_NOTIFY"));
    let argument = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL",
        "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#;
    assert!(fails(argument).contains("argument 6"));
    let other = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_AARCH64"]}"#;
    assert!(fails(other).contains("architectures"));
    let condition = r#"{"index": 0, "value": 1, "op": "SCMP_CMP_GT"}"#;
    let many = vec![condition; 2000].join(",");
    let long = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{many}]}}]}}"#
    );
    assert!(fails(&long).contains("4096"));
}

#[test]
fn an_empty_profile_allows_what_it_says_and_flags_are_passed_on() {
    let filter =
        compile(&profile(r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#));
    let filter = filter.unwrap();
    assert_eq!(filter.flags, 2);
    assert_eq!(call(&filter, "read", [0; 6]), ERRNO | EPERM);
    assert_eq!(compile(&profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)).unwrap().flags, 4);
}

const OPERATORS: [LinuxSeccompOperator; 7] = [
    LinuxSeccompOperator::ScmpCmpNe,
    LinuxSeccompOperator::ScmpCmpLt,
    LinuxSeccompOperator::ScmpCmpLe,
    LinuxSeccompOperator::ScmpCmpEq,
    LinuxSeccompOperator::ScmpCmpGe,
    LinuxSeccompOperator::ScmpCmpGt,
    LinuxSeccompOperator::ScmpCmpMaskedEq,
];

const ACTIONS: [LinuxSeccompAction; 4] = [
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActTrap,
    LinuxSeccompAction::ScmpActKillProcess,
];

fn argument() -> impl Strategy<Value = LinuxSeccompArg> {
    let value = prop_oneof![0..4_u64, (0..4_u64).prop_map(|high| high << 32), any::<u64>()];
    (0..6_usize, value.clone(), option::of(value), 0..OPERATORS.len()).prop_map(|(index, value, two, op)| {
        let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(OPERATORS[op]);
        match two {
            Some(two) => builder.value_two(two).build().unwrap(),
            None => builder.build().unwrap(),
        }
    })
}

fn entry() -> impl Strategy<Value = LinuxSyscall> {
    let names = vec(0..450_usize, 1..20).prop_map(|numbers| {
        numbers.into_iter().filter_map(Sysno::new).map(|call| call.name().to_owned()).collect::<Vec<_>>()
    });
    (names, 0..ACTIONS.len(), vec(argument(), 0..4)).prop_map(|(names, action, args)| {
        LinuxSyscallBuilder::default().names(names).action(ACTIONS[action]).args(args).build().unwrap()
    })
}

fn holds(argument: &LinuxSeccompArg, arguments: &[u64; 6]) -> bool {
    let (given, value) = (arguments[argument.index()], argument.value());
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => given != value,
        LinuxSeccompOperator::ScmpCmpLt => given < value,
        LinuxSeccompOperator::ScmpCmpLe => given <= value,
        LinuxSeccompOperator::ScmpCmpEq => given == value,
        LinuxSeccompOperator::ScmpCmpGe => given >= value,
        LinuxSeccompOperator::ScmpCmpGt => given > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => given & value == argument.value_two().unwrap_or(0) & value,
    }
}

/// What a profile says, read as people read it.
fn meant(profile: &LinuxSeccomp, number: u32, arguments: &[u64; 6]) -> u32 {
    let default = action(profile.default_action(), None).unwrap();
    let name = usize::try_from(number).ok().and_then(Sysno::new).map(|call| call.name());
    let mut newest = None;
    for entry in profile.syscalls().iter().flatten() {
        for known in entry.names() {
            newest = newest.max(Some(super::tests::number(known)));
        }
        let verdict = action(entry.action(), None).unwrap();
        if verdict == default || !entry.names().iter().any(|known| Some(known.as_str()) == name) {
            continue;
        }
        let conditions = entry.args().as_deref().unwrap_or_default();
        let mut indices: Vec<_> = conditions.iter().map(LinuxSeccompArg::index).collect();
        indices.sort_unstable();
        indices.dedup();
        let matches = if indices.len() < conditions.len() {
            conditions.iter().any(|condition| holds(condition, arguments))
        } else {
            conditions.iter().all(|condition| holds(condition, arguments))
        };
        if matches {
            return verdict;
        }
    }
    match newest {
        Some(newest) if default & 0xffff_0000 == ERRNO && number > newest => ERRNO | ENOSYS,
        _ => default,
    }
}

proptest! {
    #[test]
    fn any_profile_means_what_it_says(
        entries in vec(entry(), 0..20),
        default in 0..ACTIONS.len(),
        calls in vec((0..460_u32, any::<[bool; 6]>(), any::<[u64; 6]>()), 1..60),
    ) {
        let profile =
            LinuxSeccompBuilder::default().default_action(ACTIONS[default]).syscalls(entries).build().unwrap();
        let filter = compile(&profile).unwrap();
        for (number, small, mut arguments) in calls {
            for (argument, small) in arguments.iter_mut().zip(small) {
                if small {
                    *argument %= 4;
                }
            }
            let verdict = run(&filter, THIS_ARCHITECTURE, number, arguments);
            prop_assert_eq!(verdict, meant(&profile, number, &arguments), "{} {:?}", number, arguments);
        }
    }
}
