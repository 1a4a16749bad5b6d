//! From a spec to a VM whose vCPUs run: files, devices, streams, hypervisor.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use mote_protocol::{CONTROL_PORT, FIRST_STREAM_PORT, Stdio};
use mote_vmm::{
    Config, KernelLog, Milestones, Vm,
    virtio::{
        Device,
        block::Block,
        vsock::{Endpoint, Vsock},
    },
};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{
    Error,
    agent::Agent,
    assets, choice,
    clock::instant_ns,
    error::{Kind, errno, host},
    shares,
    spec::{Rootfs, Spec, Streams},
    terminal,
    timeline::{Mark, Timeline},
};

/// The guest's address on its vsock; every VM has a vsock of its own, so all guests can have the same.
const GUEST_CID: u32 = 3;

/// A VM on its way up, and the host's ends of everything that leads into it.
pub(super) struct Booted {
    pub(super) vm: Box<dyn Vm>,
    pub(super) log: KernelLog,
    pub(super) agent: Agent,
    pub(super) stdio: Stdio,
    pub(super) outputs: Outputs,
    pub(super) milestones: Arc<Mutex<Timeline>>,
}

/// How many output streams are still open. The descriptor is readable when one has closed.
pub(super) struct Outputs {
    pub(super) closed: Arc<EventFd>,
    pub(super) open: u64,
}

impl Outputs {
    fn new() -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let closed = EventFd::from_flags(flags).map_err(errno("create an event descriptor"))?;
        Ok(Self { closed: Arc::new(closed), open: 0 })
    }

    /// An endpoint for guest output that counts as open until its last byte was passed on.
    fn endpoint(&mut self, fd: OwnedFd) -> Endpoint {
        self.open += 1;
        let closed = Arc::clone(&self.closed);
        Endpoint::output(fd).on_close(move || {
            // Fails only when the counter is full, and then the descriptor is readable.
            let _ = closed.write(1);
        })
    }

    /// Takes note of the streams that have closed since the last call.
    pub(super) fn update(&mut self) {
        self.open = self.open.saturating_sub(self.closed.read().unwrap_or(0));
    }
}

pub(super) fn boot(spec: &Spec) -> Result<Booted, Error> {
    let hypervisor = choice::hypervisor(spec.hypervisor)?;
    let kernel = File::open(&spec.kernel)
        .map_err(|error| Error::because(Kind::Kernel, format!("kernel {}", spec.kernel.display()), &error))?;
    let initrd = match &spec.initrd {
        Some(path) => read_initrd(path)?,
        None => assets::initrd(),
    };
    let log = kernel_log(spec.console.as_deref())?;
    let rootfs = match &spec.rootfs {
        Rootfs::Image(path) => Some(Block::open(path, true).map_err(|error| {
            Error::because(Kind::Rootfs, format!("root file system {}", path.display()), &error)
        })?),
        Rootfs::Share(_) => None,
    };
    let shares = shares::device(spec)?;

    let (vsock, ports) = Vsock::new(GUEST_CID).map_err(host("set up the vsock device"))?;
    let (ours, theirs) = UnixStream::pair().map_err(host("create a socket pair"))?;
    ours.set_nonblocking(true).map_err(host("set up a socket"))?;
    ports.accept_once(CONTROL_PORT, Endpoint::socket(theirs));

    let mut outputs = Outputs::new()?;
    let keep =
        |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(host("keep a standard stream"));
    let (stdin, stdout, stderr) = (FIRST_STREAM_PORT, FIRST_STREAM_PORT + 1, FIRST_STREAM_PORT + 2);
    ports.accept_once(stdin, Endpoint::input(keep(std::io::stdin().as_fd())?));
    ports.accept_once(stdout, outputs.endpoint(keep(std::io::stdout().as_fd())?));
    let mut stdio = Stdio { stdin: Some(stdin), stdout: Some(stdout), stderr: None, terminal: None };
    match spec.process.streams {
        Streams::Pipes => {
            ports.accept_once(stderr, outputs.endpoint(keep(std::io::stderr().as_fd())?));
            stdio.stderr = Some(stderr);
        }
        Streams::Terminal => stdio.terminal = Some(terminal::window_size().unwrap_or(terminal::DEFAULT_SIZE)),
    }

    let milestones = Arc::new(Mutex::new(Timeline::default()));
    let reached = Arc::clone(&milestones);
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(vsock)];
    devices.extend(rootfs.map(|device| Box::new(device) as Box<dyn Device>));
    devices.extend(shares.map(|device| Box::new(device) as Box<dyn Device>));
    let vm = hypervisor.start(Config {
        vcpus: spec.vcpus,
        memory: spec.memory,
        kernel,
        kernel_path: spec.kernel.clone(),
        initrd,
        cmdline: spec.kernel_options.clone(),
        devices,
        log: log.clone(),
        verbose_log: spec.console.is_some(),
        milestones: Milestones::new(move |milestone, at| {
            let mut timeline = reached.lock().unwrap_or_else(PoisonError::into_inner);
            timeline.add(Mark::from(milestone), instant_ns(at));
        }),
    })?;
    Ok(Booted { vm, log, agent: Agent::new(ours), stdio, outputs, milestones })
}

/// An initial ramdisk of the user's, kept for as long as the process lives, as the embedded one is.
fn read_initrd(path: &Path) -> Result<&'static [u8], Error> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|error| {
        Error::because(Kind::Kernel, format!("initial ramdisk {}", path.display()), &error)
    })?;
    Ok(bytes.leak())
}

fn kernel_log(console: Option<&Path>) -> Result<KernelLog, Error> {
    let Some(path) = console else { return Ok(KernelLog::new()) };
    let file = File::create(path).map_err(|error| {
        Error::because(Kind::Host, format!("cannot write the kernel log to {}", path.display()), &error)
    })?;
    Ok(KernelLog::with_file(Box::new(file)))
}
