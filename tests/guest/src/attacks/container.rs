//! A guest in the place of a container's: it has no command line of its own, and no console. Its shares are what it speaks by.

use crate::{
    fs::{Body, FileSystem, MKDIR},
    machine::Machine,
};

/// What it does: a test writes a name over the dots, in the program's file.
#[used]
static CHOICE: [u8; 64] = *b"attack of a container: .........................................";
/// How long what stands before the name is.
const BEFORE: usize = 23;

/// Attacks once there is a `go` in the first share, and makes a folder `done` there when that is over.
pub fn of_a_container(machine: &Machine) {
    let fs = FileSystem::begin(machine);
    while fs.look_up(fs.share(0), b"go").is_err() {}
    // SAFETY: a reference is good for a read; the compiler must not know what the file said when it was built.
    let choice = unsafe { (&raw const CHOICE).read_volatile() };
    let name = core::str::from_utf8(&choice[BEFORE..]).unwrap_or("").trim_end_matches('.');
    super::find(name).expect("an attack of this name")(machine);
    let fs = FileSystem::begin(machine);
    fs.ask(MKDIR, fs.share(0), Body::new().u32(0o755).u32(0).name(b"done")).expect("a folder");
}
