//! Guests of a few bytes, as ELF files that QEMU boots through the PVH entry: 32-bit protected mode, flat segments.

/// Where code is loaded and entered.
const LOAD: u32 = 0x10_0000;
/// From the start of the file.
const CODE_OFFSET: u32 = 0x1000;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

/// Writes `text` to the first serial port and halts for ever.
pub(super) fn halting_after(text: &str) -> Vec<u8> {
    printing(text, &[0xf4, 0xeb, 0xfd]) // hlt; jmp to it
}

/// Writes `text` to the first serial port and fails three times over.
pub(super) fn resetting_after(text: &str) -> Vec<u8> {
    // An empty interrupt table, and an interrupt: push 0; push 0; lidt [esp]; int3.
    printing(text, &[0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0xcc])
}

fn printing(text: &str, then: &[u8]) -> Vec<u8> {
    // cli; mov esp, LOAD; mov dx, 0x3f8
    let mut code = vec![0xfa, 0xbc];
    code.extend(LOAD.to_le_bytes());
    code.extend([0x66, 0xba, 0xf8, 0x03]);
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code.extend(then);
    code
}

/// An ELF file with `code`; the note that tells where to enter it is optional.
pub(super) fn elf(code: &[u8], with_note: bool) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let note_offset = HEADER + 2 * PROGRAM_HEADER;
    let mut note = Vec::new();
    for word in [4, 8, PHYS32_ENTRY] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(b"Xen\0");
    note.extend(u64::from(LOAD).to_le_bytes());

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    for word in [u64::from(LOAD), HEADER, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, if with_note { 2 } else { 1 }, 0, 64, 0, 0, 0, 0, 0]);
    let len = code.len() as u64;
    let load = u64::from(LOAD);
    program_header(&mut file, [1, 7], [CODE_OFFSET.into(), load, load, len, len, 0x1000]);
    let note_len = note.len() as u64;
    program_header(&mut file, [4, 4], [note_offset, 0, 0, note_len, note_len, 4]);
    file.extend(note);
    file.resize(CODE_OFFSET as usize, 0);
    file.extend(code);
    file
}

/// Type and flags; offset, virtual and physical address, length in the file and in memory, alignment.
fn program_header(file: &mut Vec<u8>, words: [u32; 2], longs: [u64; 6]) {
    words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    longs.iter().for_each(|long| file.extend(long.to_le_bytes()));
}
