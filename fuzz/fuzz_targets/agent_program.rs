//! The agent's interpreter, with any program, on a kernel that fails whenever the input says so.
#![no_main]

use std::{cell::Cell, ffi::CStr, rc::Rc};

use libfuzzer_sys::fuzz_target;
use mote_agent::program::{Capabilities, Hook, Kernel, Opened, Scheduler, execute, wants_pid_namespace};
use mote_fuzz::Script;
use mote_protocol::{IdList, Operations, StrList};
use rustix::io::Errno;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let Some(fates) = script.bytes() else { return };
    let program = Operations::from_bytes(script.rest());
    let open = Rc::new(Cell::new(0));
    let mut kernel = Fickle { fates: fates.iter(), open: Rc::clone(&open), calls: 0 };
    let _ = wants_pid_namespace(program);
    let failure = execute(program, &mut kernel);
    assert_eq!(open.get(), 0, "descriptors are still open");
    assert!(usize::from(failure.operation) <= program.count());
});

/// A kernel whose calls fail when the next byte of the input says so.
struct Fickle<'a> {
    fates: std::slice::Iter<'a, u8>,
    open: Rc<Cell<u32>>,
    calls: u32,
}

/// An open descriptor.
struct Fd(Rc<Cell<u32>>);

impl Drop for Fd {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Fickle<'_> {
    fn call(&mut self) -> Result<(), Errno> {
        self.calls += 1;
        match self.fates.next() {
            Some(1) => Err(Errno::NOENT),
            Some(2) => Err(Errno::EXIST),
            Some(3) => Err(Errno::ACCESS),
            Some(4) => Err(Errno::NAMETOOLONG),
            _ => Ok(()),
        }
    }

    fn fd(&mut self) -> Result<Fd, Errno> {
        self.call()?;
        self.open.set(self.open.get() + 1);
        assert!(self.open.get() <= 8, "descriptors are hoarded");
        Ok(Fd(Rc::clone(&self.open)))
    }

    fn named(&mut self, step: &'static str) -> Result<(), (Errno, &'static str)> {
        self.call().map_err(|errno| (errno, step))
    }

    fn name(&mut self, name: &CStr) -> Result<(), Errno> {
        assert!(!name.is_empty() && !name.to_bytes().contains(&b'/'), "a name is a single component");
        self.call()
    }
}

impl Kernel for Fickle<'_> {
    type Fd = Fd;

    fn open_root(&mut self) -> Result<Fd, Errno> {
        self.fd()
    }
    fn open(&mut self, _: &Fd, _: &CStr, _: Opened) -> Result<Fd, Errno> {
        self.fd()
    }
    fn write(&mut self, _: &Fd, _: &CStr, _: &[u8]) -> Result<(), Errno> {
        self.call()
    }
    fn go_on_in_child(&mut self) -> Result<(), Errno> {
        self.call()
    }
    fn join(&mut self, _: u32) -> Result<(), Errno> {
        self.call()
    }
    fn make_user_namespace(&mut self, _: &Fd, _: &CStr, _: &CStr) -> Result<Fd, Errno> {
        self.fd()
    }
    fn enter_user_namespace(&mut self, _: &Fd) -> Result<(), Errno> {
        self.call()
    }
    fn unshare(&mut self, _: u32) -> Result<(), Errno> {
        self.call()
    }
    fn make_directory(&mut self, _: &Fd, name: &CStr, _: u32) -> Result<(), Errno> {
        self.name(name)
    }
    fn make_symlink(&mut self, _: &CStr, _: &Fd, name: &CStr) -> Result<(), Errno> {
        self.name(name)
    }
    fn make_node(&mut self, _: &Fd, name: &CStr, _: u32, _: (u32, u32)) -> Result<(), Errno> {
        self.name(name)
    }
    fn change_owner(&mut self, _: &Fd, name: &CStr, _: (u32, u32)) -> Result<(), Errno> {
        self.name(name)
    }
    fn is_directory(&mut self, _: &Fd) -> Result<bool, Errno> {
        self.call()?;
        Ok(self.calls.is_multiple_of(2))
    }
    fn copy_tree(&mut self, _: &Fd, _: &Fd) -> Result<(), Errno> {
        self.call()
    }
    fn fs_open(&mut self, _: &CStr) -> Result<Fd, Errno> {
        self.fd()
    }
    fn fs_set_string(&mut self, _: &Fd, _: &CStr, _: &CStr) -> Result<(), Errno> {
        self.call()
    }
    fn fs_set_flag(&mut self, _: &Fd, _: &CStr) -> Result<(), Errno> {
        self.call()
    }
    fn fs_create(&mut self, _: &Fd) -> Result<(), Errno> {
        self.call()
    }
    fn fs_mount(&mut self, _: &Fd, _: u64) -> Result<Fd, Errno> {
        self.fd()
    }
    fn fs_message(&mut self, _: &Fd, message: &mut [u8]) -> usize {
        message.fill(b' ');
        self.fates.next().map_or(0, |len| usize::from(*len))
    }
    fn clone_tree(&mut self, _: &CStr, _: bool) -> Result<Fd, Errno> {
        self.fd()
    }
    fn clone_opened(&mut self, _: &Fd) -> Result<Fd, Errno> {
        self.fd()
    }
    fn map_ids(&mut self, _: &Fd, _: &Fd, _: bool) -> Result<(), Errno> {
        self.call()
    }
    fn terminal(&mut self) -> Result<Option<u32>, Errno> {
        self.call()?;
        Ok((self.calls.is_multiple_of(2)).then_some(self.calls))
    }
    fn move_mount(&mut self, _: &Fd, _: &Fd) -> Result<(), Errno> {
        self.call()
    }
    fn change_mount(&mut self, _: &Fd, _: bool, _: (u64, u64, u64)) -> Result<(), Errno> {
        self.call()
    }
    fn enter_root(&mut self, _: &Fd) -> Result<(), (Errno, &'static str)> {
        self.named("chroot")
    }
    fn set_hostname(&mut self, _: &[u8]) -> Result<(), Errno> {
        self.call()
    }
    fn set_domainname(&mut self, _: &[u8]) -> Result<(), Errno> {
        self.call()
    }
    fn raise_loopback(&mut self) -> Result<(), Errno> {
        self.call()
    }
    fn filter_devices(&mut self, _: &Fd, _: &[u8]) -> Result<(), (Errno, &'static str)> {
        self.named("bpf")
    }
    fn give_streams(&mut self, uid: u32, gid: u32) -> Result<(), Errno> {
        assert!(uid != u32::MAX && gid != u32::MAX, "nobody's streams");
        self.call()
    }
    fn set_groups(&mut self, _: IdList<'_>) -> Result<(), Errno> {
        self.call()
    }
    fn set_gid(&mut self, gid: u32) -> Result<(), Errno> {
        assert_ne!(gid, u32::MAX, "leave the group as it is");
        self.call()
    }
    fn set_uid(&mut self, uid: u32) -> Result<(), Errno> {
        assert_ne!(uid, u32::MAX, "leave the user as it is");
        self.call()
    }
    fn keep_capabilities(&mut self) -> Result<(), Errno> {
        self.call()
    }
    fn bound_capabilities(&mut self, _: u64) -> Result<(), Errno> {
        self.call()
    }
    fn set_capabilities(&mut self, _: Capabilities) -> Result<(), (Errno, &'static str)> {
        self.named("capset")
    }
    fn set_limit(&mut self, _: u8, _: u64, _: u64) -> Result<(), Errno> {
        self.call()
    }
    fn set_umask(&mut self, _: u32) {}
    fn set_no_new_privileges(&mut self) -> Result<(), Errno> {
        self.call()
    }
    fn set_seccomp(&mut self, _: u32, _: &[u8]) -> Result<(), Errno> {
        self.call()
    }
    fn set_scheduler(&mut self, _: Scheduler) -> Result<(), Errno> {
        self.call()
    }
    fn set_io_priority(&mut self, _: u16) -> Result<(), Errno> {
        self.call()
    }
    fn set_personality(&mut self, _: u32) -> Result<(), Errno> {
        self.call()
    }
    fn check_executable(&mut self, _: &CStr) -> Result<(), Errno> {
        self.call()
    }
    fn run_hook(
        &mut self,
        _: Hook<'_>,
        words: &mut [u8],
    ) -> Result<(), (Option<Errno>, &'static str, usize)> {
        words.fill(b'w');
        let said = self.fates.next().map_or(0, |len| usize::from(*len).min(words.len()));
        self.call().map_err(|errno| (Some(errno), "hook", said))
    }
    fn wait_at_gate(&mut self) -> Result<(), Errno> {
        self.call()
    }
    fn change_directory(&mut self, _: &Fd) -> Result<(), Errno> {
        self.call()
    }
    fn announce_exec(&mut self) -> Result<(), Errno> {
        self.call()
    }
    fn execve(&mut self, _: &CStr, arguments: StrList<'_>, _: StrList<'_>) -> Errno {
        assert!(arguments.iter().next().is_some(), "a program without a name");
        self.call().err().unwrap_or(Errno::NOEXEC)
    }
}
