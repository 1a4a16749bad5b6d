//! The first instructions, on the first processor and on the second one.
//!
//! All of the first 4 GiB are mapped one to one, memory and devices alike.

use core::{
    arch::global_asm,
    sync::atomic::{AtomicPtr, Ordering},
};

use crate::machine;

/// Where the second processor starts, in real mode: a page below 1 MiB that nobody uses.
const TRAMPOLINE: usize = 0x8000;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18          # the lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start32

    .section .data
    .balign 4096
pml4:
    .quad pdpt + 3
    .fill 511, 8, 0
pdpt:
    .quad pd + 3, pd + 0x1003, pd + 0x2003, pd + 0x3003
    .fill 508, 8, 0
pd:
    .set page, 0
    .rept 2048
    .quad (page << 21) | 0x83
    .set page, page + 1
    .endr
    .balign 16
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
gdt_pointer:
    .word 31
    .long gdt
    .long 0

    .section .bss
    .balign 16
    .skip 0x10000
stack:
    .skip 0x4000
second_stack:

    .section .text
    .code64
    .globl _start
_start:
    cli
    lea stack(%rip), %rsp
    mov $pml4, %eax
    mov %rax, %cr3
    mov %cr4, %rax
    or $0x600, %eax         # SSE: the compiler uses it
    mov %rax, %cr4
    mov %cr0, %rax
    and $~4, %rax
    or $2, %rax
    mov %rax, %cr0
    mov %rsi, %rdi
    xor %esi, %esi
    call {main}

    # Switches to 64 bits and goes to what %esi says.
    .code32
to_long_mode:
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    and $~4, %eax
    or $0x80000003, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode
    .code64
long_mode:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    jmp *%rsi

    .code32
start32:
    cli
    mov $start_pvh, %esi
    jmp to_long_mode
    .code64
start_pvh:
    lea stack(%rip), %rsp
    mov %ebx, %edi
    mov $1, %esi
    call {main}

    # Copied to TRAMPOLINE.
    .code16
trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl {trampoline} + (2f - trampoline)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $second32
2:
    .word 31
    .long gdt
trampoline_end:
    .code32
second32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $second64, %esi
    jmp to_long_mode
    .code64
second64:
    lea second_stack(%rip), %rsp
    call {second}
    "#,
    main = sym crate::main,
    second = sym second,
    trampoline = const TRAMPOLINE,
    options(att_syntax)
);

// What compiled code expects of a libc.
global_asm!(
    r#"
    .globl memcpy, memset, memcmp, bcmp
memcpy:
    mov %rdi, %rax
    mov %rdx, %rcx
    rep movsb
    ret
memset:
    mov %rdi, %r8
    mov %esi, %eax
    mov %rdx, %rcx
    rep stosb
    mov %r8, %rax
    ret
memcmp:
bcmp:
    xor %eax, %eax
    mov %rdx, %rcx
    cmp %rdi, %rdi
    repe cmpsb
    je 1f
    movzbl -1(%rdi), %eax
    movzbl -1(%rsi), %ecx
    sub %ecx, %eax
1:
    ret
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
}

/// What the second processor does.
static WORK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Has the second processor run `work`, for ever.
pub fn start_second_processor(work: fn() -> !) {
    WORK.store(work as *mut (), Ordering::SeqCst);
    // SAFETY: the bytes between the two labels are code that is only read; nothing of ours is at TRAMPOLINE.
    unsafe {
        let from = &raw const trampoline;
        let len = (&raw const trampoline_end).offset_from_unsigned(from);
        core::ptr::copy_nonoverlapping(from, TRAMPOLINE as *mut u8, len);
    }
    // The local APIC's interrupt command: INIT, then start-up at page 8, twice as manuals want it.
    for command in [0x4500, 0x4608, 0x4608] {
        machine::write32(0xfee0_0310, 1 << 24);
        machine::write32(0xfee0_0300, command);
        machine::pause(100_000);
    }
}

extern "C" fn second() -> ! {
    let work = WORK.load(Ordering::SeqCst);
    // SAFETY: `start_second_processor` stored a function of this type before it started us.
    let work: fn() -> ! = unsafe { core::mem::transmute(work) };
    work()
}
