//! Device rules, run by an interpreter of the kernel's language.

use super::*;

/// Whether the program lets a device be used.
fn allowed(program: &[u8], kind: i32, access: i32, major: i32, minor: i32) -> bool {
    let (code, _) = program.as_chunks::<8>();
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0_i32; 7];
    let mut at = 0;
    loop {
        let [code, named, a, b, c, d, e, f] = code[at];
        let (to, from) = (usize::from(named & 0xf), usize::from(named >> 4));
        let (jump, value) = (i16::from_le_bytes([a, b]), i32::from_le_bytes([c, d, e, f]));
        at += 1;
        let far = usize::try_from(jump).unwrap();
        match code {
            0x61 => registers[to] = context[far / 4],
            0xbc => registers[to] = registers[from],
            0xb4 => registers[to] = value,
            0x54 => registers[to] &= value,
            0x74 => registers[to] >>= value,
            0x16 if registers[to] == value => at += far,
            0x56 if registers[to] != value => at += far,
            0x16 | 0x56 => {}
            0x95 => return registers[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn compiled(text: &str) -> Vec<u8> {
    let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(text).unwrap();
    filter(&rules).unwrap().unwrap()
}

#[test]
fn what_engines_send_forbids_all_but_the_usual() {
    let program = compiled(r#"[{"allow": false, "access": "rwm"}]"#);
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 0), (136, 77)] {
        assert!(allowed(&program, KIND_CHARACTER, READ | WRITE, major, minor), "{major}:{minor}");
    }
    assert!(!allowed(&program, KIND_CHARACTER, READ, 1, 1));
    assert!(!allowed(&program, KIND_BLOCK, READ, 254, 0));
    assert!(!allowed(&program, KIND_BLOCK, READ, 1, 3), "a block device of the same number is another");
    // A node may be made, but that is all.
    assert!(allowed(&program, KIND_BLOCK, MAKE, 254, 0));
    assert!(!allowed(&program, KIND_BLOCK, MAKE | READ, 254, 0));
}

#[test]
fn later_rules_count_more_and_by_access() {
    let program = compiled(
        r#"[{"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 254, "access": "r"},
            {"allow": true, "type": "b", "major": 254, "minor": 7, "access": "rw"},
            {"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"}]"#,
    );
    assert!(allowed(&program, KIND_BLOCK, READ, 254, 0));
    assert!(!allowed(&program, KIND_BLOCK, READ | WRITE, 254, 0), "all that is asked for has to be allowed");
    assert!(allowed(&program, KIND_BLOCK, READ | WRITE, 254, 7));
    assert!(allowed(&program, KIND_CHARACTER, READ | WRITE, 10, 1));
    assert!(allowed(&program, KIND_CHARACTER, READ, 10, 229));
    assert!(!allowed(&program, KIND_CHARACTER, READ | WRITE, 10, 229), "a part that is forbidden is enough");
}

#[test]
fn a_rule_for_everything_ends_the_program() {
    let program = compiled(
        r#"[{"allow": false, "type": "c", "major": 1, "access": "r"}, {"allow": true, "type": "a"}]"#,
    );
    assert!(allowed(&program, KIND_CHARACTER, READ, 1, 1));
    // The verifier refuses code that is never reached: nothing stands behind the verdict of a rule for everything.
    assert_eq!(program.last_chunk::<8>(), Some(&instruction(0x95, 0, 0, 0, 0)));
    let denies = compiled(r#"[{"allow": true, "type": "c", "major": 1, "minor": 1, "access": "r"}]"#);
    assert!(allowed(&denies, KIND_BLOCK, WRITE, 254, 0), "without a rule for it, it is as before");
    assert_eq!(filter(&[]).unwrap(), None);
    let wrong: Vec<LinuxDeviceCgroup> = serde_json::from_str(r#"[{"allow": true, "access": "x"}]"#).unwrap();
    assert!(filter(&wrong).unwrap_err().to_string().contains("access"));
}
