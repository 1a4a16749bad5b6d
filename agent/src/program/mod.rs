//! Carries out a program: the interpreter of [`Operation`]s.
//!
//! **Owns** the order of things, the root that paths are resolved in, and which operation failed. **Must not know**
//! how the kernel is reached: that is behind [`Kernel`]. **Caller:** the child that becomes the process.

mod copy;
mod exec;
mod hook;
mod kernel;
mod linux;
mod mounts;
mod path;
#[cfg(test)]
mod tests;
mod userns;

use core::ffi::CStr;

use heapless::Vec;
use mote_protocol::{ErrorCode, IdList, Operation, Operations, ProcessId};
use rustix::io::Errno;

pub use kernel::{Capabilities, Hook, Kernel, Opened, Scheduler};
pub use linux::{Linux, Streams};
pub(crate) use path::decimal;

/// `CLONE_NEWNS`.
const NEW_MOUNT_NAMESPACE: u32 = 0x0002_0000;
/// `CLONE_NEWPID`.
const NEW_PID_NAMESPACE: u32 = 0x2000_0000;

/// To the kernel, this user or group means "leave as it is".
const NO_ID: u32 = u32::MAX;

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

/// The process whose namespaces a program joins, if it does.
#[must_use]
pub fn joins(program: Operations<'_>) -> Option<ProcessId> {
    let mut program = program.skip_while(|operation| {
        use Operation::{GiveStreams, WriteFile, WriteProc};
        matches!(operation, Ok(WriteFile { .. } | WriteProc { .. } | GiveStreams { .. }))
    });
    match program.next() {
        Some(Ok(Operation::Join { process, .. })) => Some(process),
        _ => None,
    }
}

/// Whether the process that begins a program is another than the one that ends it: whoever calls `unshare(2)` or `setns(2)` for
/// a PID namespace stays outside of it himself.
#[must_use]
pub fn forks(program: Operations<'_>) -> bool {
    (0..).zip(program).any(|(index, operation): (usize, _)| match operation {
        Ok(Operation::Unshare { namespaces }) => index > 0 && namespaces & NEW_PID_NAMESPACE != 0,
        Ok(Operation::Join { namespaces, .. }) => namespaces & NEW_PID_NAMESPACE != 0,
        _ => false,
    })
}

/// Whether a program's first operation wants a PID namespace: then the process is made in it, which saves a fork.
#[must_use]
pub fn wants_pid_namespace(program: Operations<'_>) -> bool {
    let mut program = program;
    matches!(program.next(), Some(Ok(Operation::Unshare { namespaces })) if namespaces & NEW_PID_NAMESPACE != 0)
}

/// Carries out `program`. Returns only if it failed; what was done up to then stays done.
pub fn execute<K: Kernel>(program: Operations<'_>, kernel: &mut K) -> Failure {
    let mut machine = Interpreter {
        kernel,
        root: Root::Own,
        proc: None,
        has_given_streams: false,
        passed: None,
        message: Vec::new(),
    };
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

/// A failure of a call that names itself.
fn named((errno, step): (Errno, &'static str)) -> Fault {
    Fault::new(ErrorCode::OperationFailed, Some(errno), step)
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

struct Interpreter<'k, 'p, K: Kernel> {
    kernel: &'k mut K,
    root: Root<K::Fd>,
    /// A `proc` of this process's PID namespace, mounted nowhere.
    proc: Option<K::Fd>,
    /// Whether the streams have got their owner.
    has_given_streams: bool,
    /// Where the program was not, if it was looked for.
    passed: Option<exec::Passed<'p>>,
    /// What the kernel said about the operation that failed.
    message: Vec<u8, MAX_MESSAGE>,
}

impl<'p, K: Kernel> Interpreter<'_, 'p, K> {
    fn step(&mut self, index: u16, operation: &Operation<'p>) -> Result<(), Fault> {
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
                let mount = self.make_mount(&context, source.as_c_str(), options, attributes)?;
                self.attach(&mount, target.as_c_str())
            }
            Operation::SetMountAttributes { target, set, clear } => {
                self.change_mount(target.as_c_str(), false, (set, clear, 0))
            }
            Operation::SetRoot { path } => {
                let (kernel, root) = self.rooted()?;
                let chosen = kernel.open(root, path.as_c_str(), Opened::Directory).at("openat2")?;
                self.root = Root::Chosen(chosen);
                Ok(())
            }
            Operation::EnterRoot => {
                let (kernel, root) = self.rooted()?;
                kernel.enter_root(root).map_err(named)
            }
            Operation::SetHostname { name } => {
                self.kernel.set_hostname(name.as_c_str().to_bytes()).at("sethostname")
            }
            Operation::SetIds { uid, gid, groups } => {
                if uid == NO_ID || gid == NO_ID || groups.iter().any(|group| group == NO_ID) {
                    return Err(Fault::invalid("no such user or group"));
                }
                if !self.has_given_streams {
                    self.kernel.give_streams(uid, gid).at("fchown")?;
                }
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
                Err(exec::exec(self.kernel, arguments, environment, self.passed))
            }
            Operation::Await => self.kernel.wait_at_gate().at("wait"),
            Operation::Join { namespaces, .. } => self.join(namespaces),
            Operation::EnterUserNamespace { uids, gids } => {
                let namespace = self.user_namespace(uids.as_c_str(), gids.as_c_str())?;
                self.kernel.enter_user_namespace(&namespace).at("setns")?;
                self.kernel.set_groups(IdList::default()).at("setgroups")?;
                self.kernel.set_gid(0).at("setresgid")?;
                self.kernel.set_uid(0).at("setresuid")
            }
            Operation::WriteFile { path, content } => {
                let (kernel, root) = self.rooted()?;
                kernel.write(root, path.as_c_str(), content).at("write")
            }
            Operation::WriteProc { path, content } => {
                let (kernel, proc) = self.with_proc()?;
                kernel.write(proc, path.as_c_str(), content).at("write")
            }
            Operation::MakeDevice { path, mode, major, minor, uid, gid } => {
                let (kernel, root) = self.rooted()?;
                path::make_device(kernel, root, path.as_c_str(), mode, (major, minor), (uid, gid))
            }
            Operation::Bind { source, target, recursive, uids, gids, recursive_ids } => {
                let mount = self.kernel.clone_tree(source.as_c_str(), recursive).at("open_tree")?;
                if !uids.as_c_str().is_empty() || !gids.as_c_str().is_empty() {
                    let namespace = self.user_namespace(uids.as_c_str(), gids.as_c_str())?;
                    self.kernel.map_ids(&mount, &namespace, recursive_ids).at("mount_setattr idmap")?;
                }
                self.attach_or_make(&mount, target.as_c_str())
            }
            Operation::ChangeMount { target, recursive, set, clear, propagation } => {
                self.change_mount(target.as_c_str(), recursive, (set, clear, propagation))
            }
            Operation::MountCopy { target, attributes, options } => {
                self.mount_copy(target.as_c_str(), attributes, options)
            }
            Operation::BindTerminal { target } => self.bind_terminal(target.as_c_str()),
            Operation::MaskPath { path } => self.mask(path.as_c_str()),
            Operation::ProtectPath { path } => self.protect(path.as_c_str()),
            Operation::SetDomainname { name } => {
                self.kernel.set_domainname(name.as_c_str().to_bytes()).at("setdomainname")
            }
            Operation::RaiseLoopback => self.kernel.raise_loopback().at("SIOCSIFFLAGS"),
            Operation::FilterDevices { cgroup, program } => {
                let (kernel, root) = self.rooted()?;
                let cgroup = kernel.open(root, cgroup.as_c_str(), Opened::Listed).at("openat2")?;
                kernel.filter_devices(&cgroup, program).map_err(named)
            }
            Operation::GiveStreams { uid, gid } => {
                if uid == NO_ID || gid == NO_ID {
                    return Err(Fault::invalid("no such user or group"));
                }
                self.has_given_streams = true;
                self.kernel.give_streams(uid, gid).at("fchown")
            }
            Operation::KeepCapabilities => self.kernel.keep_capabilities().at("PR_SET_KEEPCAPS"),
            Operation::BoundCapabilities { keep } => {
                self.kernel.bound_capabilities(keep).at("PR_CAPBSET_DROP")
            }
            Operation::SetCapabilities { effective, permitted, inheritable, ambient } => {
                let sets = Capabilities { effective, permitted, inheritable, ambient };
                self.kernel.set_capabilities(sets).map_err(named)
            }
            Operation::SetLimit { resource, soft, hard } => {
                self.kernel.set_limit(resource, soft, hard).at("prlimit")
            }
            Operation::SetUmask { mask } => {
                self.kernel.set_umask(mask);
                Ok(())
            }
            Operation::SetNoNewPrivileges => self.kernel.set_no_new_privileges().at("PR_SET_NO_NEW_PRIVS"),
            Operation::SetSeccomp { flags, filter } => self.kernel.set_seccomp(flags, filter).at("seccomp"),
            Operation::SetScheduler { policy, flags, nice, priority, runtime, deadline, period } => {
                let times = [runtime, deadline, period];
                let scheduler = Scheduler { policy, flags, nice, priority, times };
                self.kernel.set_scheduler(scheduler).at("sched_setattr")
            }
            Operation::SetIoPriority { priority } => self.kernel.set_io_priority(priority).at("ioprio_set"),
            Operation::SetPersonality { persona } => self.kernel.set_personality(persona).at("personality"),
            Operation::CheckExecutable { name, path } => {
                self.passed = Some(exec::check(self.kernel, name.as_c_str(), path.as_c_str())?);
                Ok(())
            }
            Operation::RunHook { path, arguments, environment, input, timeout_ms } => {
                let hook = Hook { path: path.as_c_str(), arguments, environment, input, timeout_ms };
                self.run_hook(hook)
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

    /// The kernel, and a `proc` that nobody else has touched.
    fn with_proc(&mut self) -> Result<(&mut K, &K::Fd), Fault> {
        let proc = match self.proc.take() {
            Some(proc) => proc,
            None => {
                let context = self.kernel.fs_open(c"proc").at("fsopen")?;
                self.kernel.fs_create(&context).at("fsconfig create")?;
                self.kernel.fs_mount(&context, 0).at("fsmount")?
            }
        };
        Ok((self.kernel, self.proc.insert(proc)))
    }

    fn user_namespace(&mut self, uids: &CStr, gids: &CStr) -> Result<K::Fd, Fault> {
        let (kernel, proc) = self.with_proc()?;
        kernel.make_user_namespace(proc, uids, gids).at("user namespace")
    }

    fn join(&mut self, namespaces: u32) -> Result<(), Fault> {
        self.root = Root::Own;
        self.proc = None;
        self.kernel.join(namespaces).at("setns")?;
        if namespaces & NEW_PID_NAMESPACE != 0 {
            self.kernel.go_on_in_child().at("clone")?;
        }
        Ok(())
    }

    fn run_hook(&mut self, hook: Hook<'_>) -> Result<(), Fault> {
        let mut words = [0; MAX_MESSAGE];
        self.kernel.run_hook(hook, &mut words).map_err(|(errno, step, used)| {
            self.keep_message(&words, used);
            Fault::new(ErrorCode::OperationFailed, errno, step)
        })
    }

    fn unshare(&mut self, index: u16, namespaces: u32) -> Result<(), Fault> {
        if namespaces & NEW_MOUNT_NAMESPACE != 0 {
            // A descriptor from before names the old namespace's mount, which cannot be used from the new one.
            if matches!(self.root, Root::Chosen(_)) {
                return Err(Fault::invalid("a mount namespace comes before the root"));
            }
            self.root = Root::Own;
        }
        if namespaces & NEW_PID_NAMESPACE != 0 && index > 0 {
            self.proc = None;
            self.kernel.unshare(namespaces).at("unshare")?;
            return self.kernel.go_on_in_child().at("clone");
        }
        // The process was made in its PID namespace: see `wants_pid_namespace`.
        match namespaces & !NEW_PID_NAMESPACE {
            0 => Ok(()),
            rest => self.kernel.unshare(rest).at("unshare"),
        }
    }

    /// Keeps what was said about an operation that failed.
    fn keep_message(&mut self, message: &[u8; MAX_MESSAGE], used: usize) {
        self.message.clear();
        // It is no longer than the room for it.
        let _ = self.message.extend_from_slice(message.get(..used).unwrap_or(message).trim_ascii());
    }
}
