//! Starts the guest's processors but the first.
//!
//! The guest's kernel boots with one: each wait of its boot for the others, some two dozen, would cost a time slice where processors
//! share one of the host's. The rest is started here, by the first program and before its command, when there is little left to wait
//! for.

use std::ffi::CString;

use mote_protocol::{Operation, StrList};

use crate::{Error, error::Kind};

/// Pushes what starts the processors of a machine with `vcpus` of them.
///
/// # Errors
/// Those of `push`.
pub(crate) fn start(
    vcpus: u8,
    push: &mut impl FnMut(Operation<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    if vcpus < 2 {
        return Ok(());
    }
    // A view of the agent's own: what the command sees of /sys is made for it later, if at all.
    push(Operation::MakeDirectory { path: c"/processors".into(), mode: 0o755 })?;
    push(Operation::Mount {
        fs_type: c"sysfs".into(),
        source: c"sysfs".into(),
        target: c"/processors".into(),
        attributes: 0,
        options: StrList::default(),
    })?;
    for index in 1..vcpus {
        let path = CString::new(format!("/processors/devices/system/cpu/cpu{index}/online"))
            .map_err(|error| Error::because(Kind::Process, "cannot name a processor", &error))?;
        push(Operation::WriteFile { path: path.as_c_str().into(), content: b"1" })?;
    }
    Ok(())
}
