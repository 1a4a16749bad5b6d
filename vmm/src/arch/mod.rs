//! What depends on the processor architecture: where things lie in guest memory, what the kernel finds there, and the
//! state in which the first vCPU enters it. Another architecture is another folder with the same functions.

mod x86_64;

pub(crate) use x86_64::*;
