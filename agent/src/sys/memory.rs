//! The functions on memory that compiled code expects from a C library, for the guest binary, which has none.
//!
//! Compiled into the binary only. The string instructions of the processor are the shortest way to say them, and fast
//! where it matters: copies here are a few hundred bytes, streams never pass through this process.

// Arguments as the System V ABI passes them: rdi, rsi, rdx; the direction flag is clear, and is left so.
core::arch::global_asm!(
    ".macro function name",
    ".section .text.\\name, \"ax\", @progbits",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    ".endm",
    // void *memcpy(void *to, const void *from, size_t count)
    "function memcpy",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    // void *memmove(void *to, const void *from, size_t count)
    "function memmove",
    "mov rax, rdi",
    "mov rcx, rdx",
    // Backwards if `to` lies within the source: to - from < count, as unsigned numbers.
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rcx - 1]",
    "lea rsi, [rsi + rcx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    // void *memset(void *to, int byte, size_t count)
    "function memset",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    // int memcmp(const void *a, const void *b, size_t count), and bcmp, which may say less
    "function memcmp",
    ".globl bcmp",
    ".type bcmp, @function",
    "bcmp:",
    "xor eax, eax",
    "xor ecx, ecx",
    "2:",
    "cmp rcx, rdx",
    "je 3f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "je 2b",
    "3:",
    "ret",
    ".purgem function",
    ".text",
);
