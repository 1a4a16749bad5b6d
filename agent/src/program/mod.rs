//! Carries out a program: the interpreter of [`Operation`]s.
//!
//! **Owns** the order of things, the root that paths are resolved in, and which operation failed. **Must not know**
//! how the kernel is reached: that is behind [`Kernel`]. **Caller:** the child that becomes the process.

mod exec;
mod kernel;
mod linux;
mod path;
#[cfg(test)]
mod tests;

use core::ffi::CStr;

use heapless::Vec;
use mote_protocol::{ErrorCode, Operation, Operations, StrList};
use rustix::io::Errno;

pub use kernel::{Kernel, Opened};
pub use linux::{Linux, Streams};

/// `CLONE_NEWNS`.
const NEW_MOUNT_NAMESPACE: u32 = 0x0002_0000;
/// `CLONE_NEWPID`.
const NEW_PID_NAMESPACE: u32 = 0x2000_0000;

/// The longest message of the kernel's that goes into a [`Failure`], in bytes.
const MAX_MESSAGE: usize = 160;

/// Why a program came to an end without becoming another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub code: ErrorCode,
    /// Linux's error number, 0 if there is none.
    pub errno: u16,
    /// The index of the operation.
    pub operation: u16,
    /// The system call, or what was wrong.
    pub step: &'static str,
    /// What the kernel had to say about it, if it said anything.
    pub message: Vec<u8, MAX_MESSAGE>,
}

/// How one operation fails, before anyone knows its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    code: ErrorCode,
    errno: Option<Errno>,
    step: &'static str,
}

impl Fault {
    fn new(code: ErrorCode, errno: Option<Errno>, step: &'static str) -> Self {
        Self { code, errno, step }
    }

    /// The program itself makes no sense.
    fn invalid(step: &'static str) -> Self {
        Self::new(ErrorCode::InvalidArgument, None, step)
    }
}

/// Names the system call that an error came from.
trait At<T> {
    fn at(self, step: &'static str) -> Result<T, Fault>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: &'static str) -> Result<T, Fault> {
        self.map_err(|errno| Fault::new(ErrorCode::OperationFailed, Some(errno), step))
    }
}

/// An error number as the wire has it.
#[must_use]
pub fn wire_errno(errno: Errno) -> u16 {
    u16::try_from(errno.raw_os_error()).unwrap_or(0)
}

/// Whether a program wants a PID namespace, which has to be made with the process: the process that calls `unshare(2)`
/// stays outside of it. Only a program's first operation can ask for one.
#[must_use]
pub fn wants_pid_namespace(program: Operations<'_>) -> bool {
    let mut program = program;
    matches!(program.next(), Some(Ok(Operation::Unshare { namespaces })) if namespaces & NEW_PID_NAMESPACE != 0)
}

/// Carries out `program`. Returns only if it failed; what was done up to then stays done.
pub fn execute<K: Kernel>(program: Operations<'_>, kernel: &mut K) -> Failure {
    let mut machine = Interpreter { kernel, root: Root::Own, message: Vec::new() };
    let mut index: u16 = 0;
    for operation in program {
        let result = match operation {
            Ok(operation) => machine.step(index, &operation),
            Err(_) => Err(Fault::new(ErrorCode::BadMessage, None, "operation does not decode")),
        };
        if let Err(fault) = result {
            return failure(index, fault, machine.message);
        }
        index = index.saturating_add(1);
    }
    failure(index, Fault::invalid("program without exec"), Vec::new())
}

fn failure(operation: u16, fault: Fault, message: Vec<u8, MAX_MESSAGE>) -> Failure {
    let Fault { code, errno, step } = fault;
    Failure { code, errno: errno.map_or(0, wire_errno), operation, step, message }
}

/// What paths are resolved in.
enum Root<F> {
    /// The guest's own `/`, not opened yet.
    Own,
    /// The guest's own `/`, in the mount namespace that the child is in.
    OwnOpened(F),
    /// A folder that the program chose.
    Chosen(F),
}

struct Interpreter<'k, K: Kernel> {
    kernel: &'k mut K,
    root: Root<K::Fd>,
    /// What the kernel said about the operation that failed.
    message: Vec<u8, MAX_MESSAGE>,
}

impl<K: Kernel> Interpreter<'_, K> {
    fn step(&mut self, index: u16, operation: &Operation<'_>) -> Result<(), Fault> {
        match *operation {
            Operation::Unshare { namespaces } => self.unshare(index, namespaces),
            Operation::MakeDirectory { path, mode } => {
                let (kernel, root) = self.rooted()?;
                path::make_directory(kernel, root, path.as_c_str(), mode)
            }
            Operation::MakeSymlink { content, path } => {
                let (kernel, root) = self.rooted()?;
                path::make_symlink(kernel, root, content.as_c_str(), path.as_c_str())
            }
            Operation::Mount { fs_type, source, target, attributes, options } => {
                let context = self.kernel.fs_open(fs_type.as_c_str()).at("fsopen")?;
                let mount = self
                    .configure(&context, source.as_c_str(), options, attributes)
                    .inspect_err(|_| self.listen(&context))?;
                self.attach(&mount, target.as_c_str())
            }
            Operation::SetMountAttributes { target, set, clear } => {
                let (kernel, root) = self.rooted()?;
                let target = kernel.open(root, target.as_c_str(), Opened::Any).at("openat2")?;
                kernel.set_mount_attributes(&target, set, clear).at("mount_setattr")
            }
            Operation::SetRoot { path } => {
                let (kernel, root) = self.rooted()?;
                let chosen = kernel.open(root, path.as_c_str(), Opened::Directory).at("openat2")?;
                self.root = Root::Chosen(chosen);
                Ok(())
            }
            Operation::EnterRoot => {
                let (kernel, root) = self.rooted()?;
                kernel
                    .enter_root(root)
                    .map_err(|(errno, step)| Fault::new(ErrorCode::OperationFailed, Some(errno), step))
            }
            Operation::SetHostname { name } => {
                self.kernel.set_hostname(name.as_c_str().to_bytes()).at("sethostname")
            }
            Operation::SetIds { uid, gid, groups } => {
                // To the kernel, this number means "leave as it is".
                if uid == u32::MAX || gid == u32::MAX || groups.iter().any(|group| group == u32::MAX) {
                    return Err(Fault::invalid("no such user or group"));
                }
                self.kernel.give_streams(uid, gid).at("fchown")?;
                self.kernel.set_groups(groups).at("setgroups")?;
                self.kernel.set_gid(gid).at("setresgid")?;
                self.kernel.set_uid(uid).at("setresuid")
            }
            Operation::ChangeDirectory { path } => {
                let (kernel, root) = self.rooted()?;
                let folder = kernel.open(root, path.as_c_str(), Opened::Directory).at("openat2")?;
                kernel.change_directory(&folder).at("fchdir")
            }
            Operation::BindMount { source, target, recursive } => {
                let mount = self.kernel.clone_tree(source.as_c_str(), recursive).at("open_tree")?;
                self.attach(&mount, target.as_c_str())
            }
            Operation::Exec { arguments, environment } => {
                Err(exec::exec(self.kernel, arguments, environment))
            }
        }
    }

    /// The kernel, and the root of the moment.
    fn rooted(&mut self) -> Result<(&mut K, &K::Fd), Fault> {
        if matches!(self.root, Root::Own) {
            self.root = Root::OwnOpened(self.kernel.open_root().at("open")?);
        }
        match &self.root {
            Root::OwnOpened(root) | Root::Chosen(root) => Ok((self.kernel, root)),
            // Replaced above.
            Root::Own => Err(Fault::invalid("no root")),
        }
    }

    /// Gives a new mount its place.
    fn attach(&mut self, mount: &K::Fd, target: &CStr) -> Result<(), Fault> {
        let (kernel, root) = self.rooted()?;
        let target = kernel.open(root, target, Opened::Any).at("openat2")?;
        kernel.move_mount(mount, &target).at("move_mount")
    }

    fn unshare(&mut self, index: u16, namespaces: u32) -> Result<(), Fault> {
        if namespaces & NEW_PID_NAMESPACE != 0 && index != 0 {
            return Err(Fault::invalid("a PID namespace comes first"));
        }
        if namespaces & NEW_MOUNT_NAMESPACE != 0 {
            // A descriptor from before names the old namespace's mount, which cannot be used from the new one.
            if matches!(self.root, Root::Chosen(_)) {
                return Err(Fault::invalid("a mount namespace comes before the root"));
            }
            self.root = Root::Own;
        }
        // The process was made in its PID namespace: see `wants_pid_namespace`.
        match namespaces & !NEW_PID_NAMESPACE {
            0 => Ok(()),
            rest => self.kernel.unshare(rest).at("unshare"),
        }
    }

    /// Tells a new file system what it is, and makes it a mount without a place.
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

    /// Keeps what the kernel says about a mount that failed.
    fn listen(&mut self, context: &K::Fd) {
        let mut message = [0; MAX_MESSAGE];
        let used = self.kernel.fs_message(context, &mut message).min(MAX_MESSAGE);
        self.message.clear();
        // It is no longer than the room for it.
        let _ = self.message.extend_from_slice(message[..used].trim_ascii());
    }
}
