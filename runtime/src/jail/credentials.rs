//! Who the process is and what it may do: in the end nobody, and nothing.

use caps::{CapSet, Capability};
use nix::{
    errno::Errno,
    libc,
    sys::prctl,
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

use super::{Layers, User, refused};
use crate::{
    Error,
    error::{Kind, host},
};

/// Where the ids of sandboxes begin: a range that neither distributions, nor systemd, nor user namespaces hand out. Process ids are
/// below 2^22.
const FIRST_ID: u32 = 0x7000_0000;

// `linux/securebits.h`: root gets no capabilities by executing something, and this stays so.
const SECBIT_NOROOT: libc::c_ulong = 1;
const SECBIT_NOROOT_LOCKED: libc::c_ulong = 1 << 1;

/// What a file server does for the guest's users: make files that belong to them, whatever the permissions.
pub(super) const FILE_SERVER: &[Capability] = &[
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

/// Whether this process may do what root does.
pub(super) fn is_admin() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// This process's id as the host sees it: in a PID namespace of its own it sees itself as 1. None if `/proc` does not tell.
pub(super) fn process_id() -> Option<u32> {
    std::fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// Becomes the jail's user, and drops every capability but `kept` for ever.
pub(super) fn give_up(
    user: User,
    kept: &[Capability],
    process_id: Option<u32>,
    admin: bool,
    layers: &mut Layers,
) -> Result<(), Error> {
    let capabilities = |error: caps::errors::CapsError| {
        Error::because(Kind::Host, "cannot confine the sandbox process: capabilities", &error)
    };
    // The order matters: only who is privileged can shrink the bounding set and change ids.
    let may_bound = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(capabilities)?;
    if may_bound {
        shrink_bounding_set(kept).map_err(refused("capabilities"))?;
        // What root keeps is for this program: QEMU does not get it by being started by root.
        let no_root = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED;
        // SAFETY: takes numbers only.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, no_root, 0, 0, 0) })
            .map_err(refused("securebits"))?;
    }
    if admin {
        become_user(user, process_id, layers)?;
    } else {
        layers.not_granted("user", "an ordinary user has no other to become");
    }
    caps::clear(None, CapSet::Ambient).map_err(capabilities)?;
    caps::clear(None, CapSet::Inheritable).map_err(capabilities)?;
    let owned = caps::read(None, CapSet::Permitted).map_err(capabilities)?;
    let kept = owned.into_iter().filter(|capability| kept.contains(capability)).collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(capabilities)?;
    }
    prctl::set_no_new_privs().map_err(refused("no_new_privs"))?;
    let mut form = match kept.len() {
        0 => "none".to_owned(),
        number => format!("{number}, for the files that are shared"),
    };
    if may_bound {
        form.push_str(", and no others to be had");
    }
    layers.in_force("capabilities", form);
    layers.in_force("no_new_privs", "set");
    Ok(())
}

/// Drops every capability of the kernel's but `kept` from the bounding set, also those that are not known here.
fn shrink_bounding_set(kept: &[Capability]) -> nix::Result<()> {
    for number in (0..u64::BITS).filter(|number| kept.iter().all(|kept| u32::from(kept.index()) != *number)) {
        // SAFETY: takes numbers only.
        match Errno::result(unsafe {
            libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0)
        }) {
            Ok(_) => {}
            // The kernel has no more.
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn become_user(user: User, process_id: Option<u32>, layers: &mut Layers) -> Result<(), Error> {
    let id = match user {
        User::Root => {
            layers.not_granted("user", "a file server stays root");
            return Ok(());
        }
        User::Fixed(id) => id,
        User::Dedicated => {
            let process_id = process_id.ok_or_else(|| {
                host("find a user for the sandbox process: /proc is not mounted")(Errno::ENOENT.into())
            })?;
            FIRST_ID | process_id
        }
    };
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    let changed =
        setgroups(&[]).and_then(|()| setresgid(gid, gid, gid)).and_then(|()| setresuid(uid, uid, uid));
    match changed {
        Ok(()) => layers.in_force("user", format!("{id}")),
        // Root of a user namespace that has no such user.
        Err(Errno::EINVAL) if user == User::Dedicated => {
            layers.not_granted("user", format!("this user namespace has no user {id}"));
        }
        Err(error) => {
            return Err(Error::because(
                Kind::Host,
                format!("the sandbox process cannot become user {id}"),
                &error,
            ));
        }
    }
    Ok(())
}
