//! The operations that make and change mounts.

use core::ffi::CStr;

use mote_protocol::StrList;
use rustix::io::Errno;

use super::{
    At, Fault, Interpreter, MAX_MESSAGE,
    kernel::{Kernel, Opened},
    path::{self, Text},
};

/// `MOUNT_ATTR_*` of `linux/mount.h`.
const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;

impl<K: Kernel> Interpreter<'_, '_, K> {
    /// Gives a new mount its place.
    pub(super) fn attach(&mut self, mount: &K::Fd, target: &CStr) -> Result<(), Fault> {
        let (kernel, root) = self.rooted()?;
        let target = kernel.open(root, target, Opened::Any).at("openat2")?;
        kernel.move_mount(mount, &target).at("move_mount")
    }

    /// The same, where the place may have to be made: a folder for a folder, a file for anything else.
    pub(super) fn attach_or_make(&mut self, mount: &K::Fd, target: &CStr) -> Result<(), Fault> {
        let (kernel, root) = self.rooted()?;
        match kernel.open(root, target, Opened::Any) {
            Ok(_) => {}
            Err(Errno::NOENT) if kernel.is_directory(mount).at("fstat")? => {
                path::make_directory(kernel, root, target, path::FOLDER_MODE)?;
            }
            Err(Errno::NOENT) => path::make_file(kernel, root, target)?,
            Err(errno) => return Err(errno).at("openat2"),
        }
        self.attach(mount, target)
    }

    /// Tells a new file system what it is, and makes it a mount without a place.
    pub(super) fn make_mount(
        &mut self,
        context: &K::Fd,
        source: &CStr,
        options: StrList<'_>,
        attributes: u64,
    ) -> Result<K::Fd, Fault> {
        let made = self.configure(context, source, options, attributes);
        if made.is_err() {
            let mut message = [0; MAX_MESSAGE];
            let used = self.kernel.fs_message(context, &mut message);
            self.keep_message(&message, used);
        }
        made
    }

    fn configure(
        &mut self,
        context: &K::Fd,
        source: &CStr,
        options: StrList<'_>,
        attributes: u64,
    ) -> Result<K::Fd, Fault> {
        if !source.is_empty() {
            self.kernel.fs_set_string(context, c"source", source).at("fsconfig source")?;
        }
        for option in options.iter() {
            match path::split_option(option) {
                Ok(Some((key, value))) => self.kernel.fs_set_string(context, &key, value),
                Ok(None) => self.kernel.fs_set_flag(context, option),
                Err(errno) => Err(errno),
            }
            .at("fsconfig")?;
        }
        self.kernel.fs_create(context).at("fsconfig create")?;
        self.kernel.fs_mount(context, attributes).at("fsmount")
    }

    pub(super) fn change_mount(
        &mut self,
        target: &CStr,
        recursive: bool,
        change: (u64, u64, u64),
    ) -> Result<(), Fault> {
        let (kernel, root) = self.rooted()?;
        let target = kernel.open(root, target, Opened::Any).at("openat2")?;
        kernel.change_mount(&target, recursive, change).at("mount_setattr")
    }

    pub(super) fn mount_copy(
        &mut self,
        target: &CStr,
        attributes: u64,
        options: StrList<'_>,
    ) -> Result<(), Fault> {
        let context = self.kernel.fs_open(c"tmpfs").at("fsopen")?;
        // It has to be written to first.
        let mount = self.make_mount(&context, c"tmpfs", options, attributes & !RDONLY)?;
        let (kernel, root) = self.rooted()?;
        let from = kernel.open(root, target, Opened::Listed).at("openat2")?;
        kernel.copy_tree(&from, &mount).at("copy")?;
        if attributes & RDONLY != 0 {
            kernel.change_mount(&mount, false, (RDONLY, 0, 0)).at("mount_setattr")?;
        }
        self.attach(&mount, target)
    }

    pub(super) fn bind_terminal(&mut self, target: &CStr) -> Result<(), Fault> {
        let Some(number) = self.kernel.terminal().at("fstat")? else {
            return Ok(());
        };
        let mut digits = [0; 10];
        let name = Text::<32>::join(&[b"/dev/pts/", path::decimal(number, &mut digits)]).at("open_tree")?;
        let mount = self.kernel.clone_tree(&name, false).at("open_tree")?;
        self.attach_or_make(&mount, target)
    }

    pub(super) fn mask(&mut self, path: &CStr) -> Result<(), Fault> {
        let Some(target) = self.find(path)? else {
            return Ok(());
        };
        let cover = if self.kernel.is_directory(&target).at("fstat")? {
            let context = self.kernel.fs_open(c"tmpfs").at("fsopen")?;
            self.make_mount(&context, c"tmpfs", StrList::default(), RDONLY | NOSUID | NODEV | NOEXEC)?
        } else {
            self.kernel.clone_tree(c"/dev/null", false).at("open_tree")?
        };
        self.kernel.move_mount(&cover, &target).at("move_mount")
    }

    pub(super) fn protect(&mut self, path: &CStr) -> Result<(), Fault> {
        let Some(target) = self.find(path)? else {
            return Ok(());
        };
        let mount = self.kernel.clone_opened(&target).at("open_tree")?;
        self.kernel.change_mount(&mount, true, (RDONLY, 0, 0)).at("mount_setattr")?;
        self.kernel.move_mount(&mount, &target).at("move_mount")
    }

    /// What a path names, if anything.
    fn find(&mut self, path: &CStr) -> Result<Option<K::Fd>, Fault> {
        let (kernel, root) = self.rooted()?;
        match kernel.open(root, path, Opened::Any) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno).at("openat2"),
        }
    }
}
