//! `create`: from a bundle to a container whose program waits for `start`.
//!
//! ```text
//! create                                   sandbox process
//!   | folder, control socket, cgroup
//!   | ------ spawn, order --------------------> |
//!   | compile the program                       | namespaces
//!   | <------------------------- Prepared       |
//!   | hooks                                     | boot
//!   | ------ program -------------------------> |
//!   |                                           | guest: everything but the last step
//!   | <-------------------------- Created       |
//!   | console, pid file, exit                   | stays
//! ```
//!
//! Whatever fails is undone: process, cgroup and folder are gone when the error is said.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    time::SystemTime,
};

use mote_protocol::WindowSize;
use nix::sys::stat::{Mode, umask};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{
    console::Console,
    folder::{CONTROL, Folder},
    hooks,
    id::ContainerId,
    pod,
    state::{Size, State},
    update,
};
use crate::{
    Error, assets,
    caller::died,
    cgroup::{self, Bound, HostCgroup},
    choice::HypervisorChoice,
    control::Status,
    error::{Kind, host},
    identity::Identity,
    jail::SeccompMode,
    lifeline::{self, Go, News, Order},
    oci::{self, Bundle},
    spawn::{Child, Inheritance, Spawned, spawn},
    spec::{Machine, Network, Rootfs, Terminal},
};

/// What a sandbox costs beyond the memory of its VM, at most, in bytes: our own process; QEMU's translated code, with QEMU.
const OVERHEAD: u64 = 64 << 20;
const OVERHEAD_QEMU: u64 = 512 << 20;

/// What `create` needs to know.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// The state folders' folder.
    pub root: &'a Path,
    /// The new container's id.
    pub id: &'a ContainerId,
    /// The bundle's folder.
    pub bundle: &'a Path,
    /// Where a terminal's other end is sent.
    pub console_socket: Option<&'a Path>,
    /// Where the process id of the sandbox is written.
    pub pid_file: Option<&'a Path>,
    /// `cgroupsPath` is `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// Goes on without a host cgroup if none can be made.
    pub rootless: bool,
    /// What runs the VM.
    pub hypervisor: HypervisorChoice,
    /// The arguments that lead this program to [`sandbox_main`](crate::sandbox_main), without those for its log.
    pub arguments: &'a [OsString],
    /// The caller waits for the container's end: its streams, and its terminal, are the container's.
    pub foreground: bool,
}

/// A container that was just created.
#[derive(Debug)]
pub(super) struct Created {
    /// The sandbox process; a child of this one.
    pub(super) child: Child,
}

/// Creates a container.
///
/// # Errors
/// Everything that can be wrong with a bundle, the host, or the program in it. Nothing is left behind.
pub fn create(options: &CreateOptions<'_>) -> Result<(), Error> {
    create_child(options).map(drop)
}

pub(super) fn create_child(options: &CreateOptions<'_>) -> Result<Created, Error> {
    let mut bundle = Bundle::load(options.bundle)?;
    pod::join(options.root, &mut bundle)?;
    let terminal = terminal(bundle.spec(), options)?;
    let folder = Folder::create(options.root, options.id)?;
    let mut attempt = Attempt { folder, cgroup: HostCgroup::default(), child: None, poststop: None };
    match attempt.go(options, &bundle, terminal) {
        Ok(child) => Ok(Created { child }),
        Err(error) => {
            attempt.undo();
            Err(error)
        }
    }
}

/// What the container's streams are, and whether that can be.
fn terminal(spec: &Spec, options: &CreateOptions<'_>) -> Result<Terminal, Error> {
    let wanted = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    match (wanted, options.foreground, options.console_socket) {
        (true, true, None) => Ok(Terminal::Callers),
        (true, false, Some(_)) => Ok(Terminal::Own),
        (true, false, None) => Err(Error::new(
            Kind::Container,
            "cannot allocate tty if runc will detach without setting console socket",
        )),
        (false, _, None) => Ok(Terminal::None),
        (_, true, Some(_)) | (false, _, Some(_)) => Err(Error::new(
            Kind::Container,
            "cannot use console socket if runc will not detach or allocate tty",
        )),
    }
}

/// A container on its way into being.
struct Attempt {
    folder: Folder,
    cgroup: HostCgroup,
    child: Option<Child>,
    /// What hooks that have run already expect to be told.
    poststop: Option<State>,
}

impl Attempt {
    fn go(
        &mut self,
        options: &CreateOptions<'_>,
        bundle: &Bundle,
        terminal: Terminal,
    ) -> Result<Child, Error> {
        let spec = bundle.spec();
        let machine = machine(bundle, options.hypervisor)?;
        let console = match options.console_socket {
            Some(socket) => Some(Console::open(socket, console_size(spec))?),
            None => None,
        };
        let overhead = if options.hypervisor == HypervisorChoice::Kvm { OVERHEAD } else { OVERHEAD_QEMU };
        let size = Size { memory: machine.memory, overhead };
        let host_memory;
        (self.cgroup, host_memory) = make_cgroup(options, spec, size)?;
        self.folder.write_cgroup(&self.cgroup)?;
        let socket = self.folder.short_path(CONTROL);
        // Made with its permissions, not given them: at no time can anybody else connect. This process has one thread.
        let mask = umask(Mode::from_bits_truncate(0o177));
        let control = UnixListener::bind(&socket);
        umask(mask);
        let control = control.map_err(host("make the control socket"))?;
        let network = network(spec);
        let order = Order {
            machine,
            network: network.clone(),
            terminal,
            container: true,
            host_memory,
            jail_uid: None,
            stop_signal: None,
            view: Some(bundle.view()?),
        };
        let order = lifeline::frame(&order).map_err(host("tell the sandbox process"))?;
        let cradle = self.cgroup.cradle();
        // One that is not born in its cgroup hears nothing before it has been moved there: until then it does nothing.
        let (words, later) = if cradle.is_some() { (order, Vec::new()) } else { (Vec::new(), order) };
        let inheritance = Inheritance {
            words,
            cgroup: cradle,
            terminal: console
                .as_ref()
                .map(|console| console.slave.try_clone())
                .transpose()
                .map_err(host("keep the terminal"))?,
            container: Some((control.into(), self.folder.create_ended()?)),
            network: None,
        };
        let mut arguments: Vec<OsString> = vec!["--log".into(), self.folder.log_path().into()];
        arguments.extend(options.arguments.iter().cloned());
        let Spawned { child, mut lifeline } = spawn(&arguments, inheritance)?;
        let child = self.child.insert(child);
        let pid = child.id();
        self.cgroup.add(pid).map_err(host("put the sandbox process into its cgroup"))?;
        let told = |result: std::io::Result<()>| result.map_err(host("talk with the sandbox process"));
        told(lifeline.write_all(&later))?;
        // The machine boots meanwhile.
        let state = State {
            oci_version: spec.version().clone(),
            id: options.id.to_string(),
            bundle: bundle.path().to_owned(),
            rootfs: bundle.rootfs().to_owned(),
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            hostname: spec.hostname().clone(),
            owner: nix::unistd::getuid().as_raw(),
            sandbox: Identity::of(pid).map_err(host("look at the sandbox process"))?,
            cgroup: self.cgroup.clone(),
            size,
            hooks: spec.hooks().clone(),
        };
        self.folder.write_state(&state)?;
        let seen = serde_json::to_vec(&state.view(Status::Created, None));
        let seen = seen.map_err(|error| host("write the container's state")(error.into()))?;
        let program = oci::compile::container(bundle, &seen)?;
        expect(child, &lifeline, &News::Prepared)?;
        if let Some(hooks) = spec.hooks() {
            let view = state.view(Status::Creating, None);
            self.poststop = Some(state);
            #[allow(deprecated)]
            hooks::run("prestart", hooks.prestart().as_ref(), &view)?;
            hooks::run("createRuntime", hooks.create_runtime().as_ref(), &view)?;
            let create_container = hooks.create_container().as_ref();
            match network {
                Network::Callers => hooks::run("createContainer", create_container, &view)?,
                _ => hooks::run_in_network("createContainer", create_container, &view)?,
            }
        }
        told(lifeline::send(&mut &lifeline, &Go { program: program.into_bytes() }))?;
        expect(child, &lifeline, &News::Created)?;
        if let Some(console) = console {
            console.hand_over()?;
        }
        if let Some(path) = options.pid_file {
            write_pid_file(path, pid)?;
        }
        self.child.take().ok_or_else(|| Error::new(Kind::Host, "no sandbox process"))
    }

    fn undo(mut self) {
        if let Some(child) = &mut self.child {
            child.kill();
            let _ = child.wait();
        }
        self.cgroup.remove();
        if let Some(state) = self.poststop.take() {
            run_poststop(&state);
        }
        if let Err(error) = self.folder.remove() {
            tracing::warn!("{error}");
        }
    }
}

/// The cgroup, and how much memory of the host's it lets the sandbox have, if that is limited.
fn make_cgroup(
    options: &CreateOptions<'_>,
    spec: &Spec,
    size: Size,
) -> Result<(HostCgroup, Option<u64>), Error> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let name = cgroup::name(path, options.systemd_cgroup, options.id.as_str())?;
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let limits = resources.map(|resources| update::host_limits(resources, size)).unwrap_or_default();
    let memory = match limits.memory {
        Some(Bound::AtMost(bytes)) => Some(bytes),
        _ => None,
    };
    match HostCgroup::create(&name, &limits) {
        Err(error) if options.rootless => {
            tracing::debug!("no host cgroup: {error}");
            Ok((HostCgroup::default(), None))
        }
        result => result.map(|cgroup| (cgroup, memory)),
    }
}

/// Tells the hooks that want to know that a container is gone. That one fails changes nothing about that.
pub(super) fn run_poststop(state: &State) {
    let hooks = state.hooks.as_ref().and_then(|hooks| hooks.poststop().as_ref());
    if let Err(error) = hooks::run("poststop", hooks, &state.view(Status::Stopped, None)) {
        tracing::warn!("{error}");
    }
}

/// Waits for one particular piece of news.
fn expect(
    child: &mut Child,
    mut lifeline: &std::os::unix::net::UnixStream,
    expected: &News,
) -> Result<(), Error> {
    match lifeline::receive(&mut lifeline) {
        Ok(News::Report(report)) => Err(match report.result {
            Err(failure) => Error(Box::new(failure)),
            Ok(status) => Error::new(
                Kind::Container,
                format!("the container ended with status {status} before it began"),
            ),
        }),
        Ok(news) if std::mem::discriminant(&news) == std::mem::discriminant(expected) => Ok(()),
        Ok(_) => Err(Error::new(Kind::Host, "the sandbox process spoke out of turn")),
        Err(_) => Err(match child.wait() {
            Ok(status) => died(status),
            Err(error) => host("wait for the sandbox process")(error),
        }),
    }
}

/// The machine that a container needs.
pub(crate) fn machine(bundle: &Bundle, hypervisor: HypervisorChoice) -> Result<Machine, Error> {
    let size = bundle.size();
    Ok(Machine {
        hypervisor,
        vcpus: size.vcpus,
        memory: size.memory,
        kernel: assets::kernel(None)?,
        initrd: None,
        kernel_options: String::new(),
        // The first share is the bundle's root folder.
        rootfs: Rootfs::Share(0),
        shares: bundle.shares()?,
        console: None,
        seccomp: SeccompMode::Enforce,
    })
}

fn console_size(spec: &Spec) -> Option<WindowSize> {
    let size = spec.process().as_ref()?.console_size()?;
    let dimension = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    Some(WindowSize { rows: dimension(size.height()), columns: dimension(size.width()) })
}

fn network(spec: &Spec) -> Network {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces.into_iter().flatten().find(|ns| ns.typ() == LinuxNamespaceType::Network);
    match network.map(|network| network.path()) {
        None => Network::Callers,
        Some(None) => Network::New,
        Some(Some(path)) => Network::Path(path.clone()),
    }
}

/// Writes a process id so that whoever sees the file sees all of it.
pub(super) fn write_pid_file(path: &Path, pid: u32) -> Result<(), Error> {
    let wrong = |error: std::io::Error| {
        Error::because(Kind::Host, format!("cannot write pid file {}", path.display()), &error)
    };
    let name = path.file_name().ok_or_else(|| wrong(std::io::ErrorKind::InvalidInput.into()))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    let new: PathBuf = path.with_file_name(hidden);
    // Others may be able to put files there: what has this name already is none of ours, wherever it leads.
    let mut file = fs::File::create_new(&new).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            wrong(std::io::Error::other(format!("there is a {} already", new.display())))
        }
        _ => wrong(error),
    })?;
    let written = file.write_all(pid.to_string().as_bytes()).and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        // The error that counts is the first one.
        let _ = fs::remove_file(&new);
        wrong(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_have_digits_only_and_nothing_is_left_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        write_pid_file(&path, 31036).unwrap();
        write_pid_file(&path, 7).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"7");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_pid_file(&folder.path().join("missing/pid"), 7).unwrap_err().to_string();
        assert!(error.contains("missing/pid"), "{error}");
    }
}
