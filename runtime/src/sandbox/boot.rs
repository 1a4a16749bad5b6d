//! From a machine on paper to a VM whose vCPUs run: files, devices, hypervisor.

use std::{
    fs::File,
    io::Read,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use mote_protocol::CONTROL_PORT;
use mote_vmm::{
    BeforeEntry, Config, KernelLog, Milestones, Vm,
    seccomp::Filter,
    virtio::{
        Device,
        block::Block,
        vsock::{Endpoint, Vsock},
    },
};

use nix::unistd::geteuid;

use super::{
    clients::{self, Clients},
    streams::{Endpoints, Ends, Streams},
};
use crate::{
    Error,
    agent::Agent,
    assets,
    choice::{self, Chosen},
    clock::instant_ns,
    error::{Kind, host},
    jail::{self, CONTAINER_SUPERVISOR, SUPERVISOR},
    lifeline::{self, Limited, Order},
    log_file::{self, Patient},
    named_file, shares,
    spec::{Network, Rootfs},
    timeline::{Mark, Timeline},
};

/// The guest's address on its vsock; every VM has a vsock of its own, so all guests can have the same.
const GUEST_CID: u32 = 3;

/// A VM on its way up, and the host's ends of everything that leads into it.
pub(super) struct Booted {
    pub(super) vm: Box<dyn Vm>,
    pub(super) log: KernelLog,
    pub(super) agent: Agent,
    pub(super) streams: Streams,
    pub(super) milestones: Arc<Mutex<Timeline>>,
    pub(super) clients: Clients,
}

/// Also makes the first process's streams and the control socket ready, which takes what is given up before the guest runs.
pub(super) fn boot(
    order: &Order,
    ends: Ends,
    control: Option<UnixListener>,
    lifeline: &UnixStream,
) -> Result<(Booted, Endpoints), Error> {
    let (machine, user) = (&order.machine, geteuid());
    let Chosen { hypervisor, mut jail } = choice::choose(machine.hypervisor, order.jail_uid)?;
    let kernel = named_file::open(&machine.kernel).map_err(|error| {
        Error::because(Kind::Kernel, format!("kernel {}", machine.kernel.display()), &error)
    })?;
    let kernel = jail.keep_readable(kernel).map_err(host("keep the kernel readable"))?;
    let initrd = match &machine.initrd {
        Some(path) => read_initrd(path)?,
        None => assets::initrd(),
    };
    let log = kernel_log(machine.console.as_deref())?;

    let rootfs = match &machine.rootfs {
        Rootfs::Image(path) => Some(Block::open(path, true).map_err(|error| {
            Error::because(Kind::Rootfs, format!("root file system {}", path.display()), &error)
        })?),
        Rootfs::Share(_) => None,
    };
    let shares = shares::device(machine)?;
    let limited_first = jail.starts_a_program();
    jail.serve_files(&machine.shares).map_err(host("open what is shared"))?;
    if order.container {
        // An engine and hooks put its interfaces where the process is.
        jail.network = jail::Network::Keep;
    } else if let Network::Empty(mark) = order.network
        && !jail.starts_a_program()
    {
        jail.network = jail::Network::Common(mark);
    }
    jail.view = order.view.clone().map(|view| (view, machine.shares.clone()));
    // All that is ever needed is open, and there is one thread.
    let layers = jail.enter()?;
    let peers = match jail::in_user_namespace(&layers) {
        true => clients::PEERS_IN_USER_NAMESPACE,
        false => clients::peers_of(user),
    };
    let clients = Clients::new(control, peers).map_err(host("serve the control socket"))?;

    let (vsock, ports) = Vsock::new(GUEST_CID).map_err(host("set up the vsock device"))?;
    let (ours, theirs) = UnixStream::pair().map_err(host("create a socket pair"))?;
    ours.set_nonblocking(true).map_err(host("set up a socket"))?;
    ports.accept_once(CONTROL_PORT, Endpoint::socket(theirs));
    let endpoints = ends.ready();
    let streams = Streams::new(ports)?;

    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(vsock)];
    devices.extend(rootfs.map(|device| Box::new(device) as Box<dyn Device>));
    devices.extend(shares.map(|device| Box::new(device) as Box<dyn Device>));

    let milestones = Arc::new(Mutex::new(Timeline::default()));
    let reached = Arc::clone(&milestones);
    if limited_first && !order.container {
        wait_for_limits(lifeline)?;
    }
    let vm = hypervisor.start(Config {
        vcpus: machine.vcpus,
        memory: machine.memory,
        kernel,
        kernel_path: machine.kernel.clone(),
        initrd,
        cmdline: machine.kernel_options.clone(),
        devices,
        log: log.clone(),
        verbose_log: machine.console.is_some(),
        milestones: Milestones::new(move |milestone, at| {
            let mut timeline = reached.lock().unwrap_or_else(PoisonError::into_inner);
            timeline.add(Mark::from(milestone), instant_ns(at));
        }),
        seccomp: machine.seccomp.into(),
        before_entry: before_entry(order, lifeline, !limited_first)?,
    })?;
    Ok((Booted { vm, log, agent: Agent::new(ours), streams, milestones, clients }, endpoints))
}

/// What this thread does when all is ready: waits until its caller has set its limits, and gives up what only the start needed. A
/// container's limits were set before.
fn before_entry(order: &Order, lifeline: &UnixStream, wait: bool) -> Result<BeforeEntry, Error> {
    let caller = lifeline.try_clone().map_err(host("keep the lifeline"))?;
    let (kind, wait) = if order.container { (&CONTAINER_SUPERVISOR, false) } else { (&SUPERVISOR, wait) };
    let filter = Filter::compile(kind, order.machine.seccomp.into()).map_err(mote_vmm::Error::from)?;
    Ok(Box::new(move || {
        if wait {
            wait_for_limits(&caller)?;
        }
        Ok(filter.install()?)
    }))
}

/// Waits until the caller has set the limits of this process. What is started before does not have them.
fn wait_for_limits(mut caller: &UnixStream) -> Result<(), mote_vmm::Error> {
    let waited = lifeline::receive::<Limited>(&mut caller);
    waited.map(drop).map_err(|error| mote_vmm::Error::Host("learn its limits from the caller", error))
}

/// An initial ramdisk of the user's, kept for as long as the process lives, as the embedded one is.
fn read_initrd(path: &Path) -> Result<&'static [u8], Error> {
    let mut bytes = Vec::new();
    named_file::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|error| {
        Error::because(Kind::Kernel, format!("initial ramdisk {}", path.display()), &error)
    })?;
    Ok(bytes.leak())
}

fn kernel_log(console: Option<&Path>) -> Result<KernelLog, Error> {
    let Some(path) = console else { return Ok(KernelLog::new()) };
    let file = log_file::open(path, File::options().truncate(true)).map_err(|error| {
        Error::because(Kind::Host, format!("cannot write the kernel log to {}", path.display()), &error)
    })?;
    Ok(KernelLog::with_file(Box::new(Patient(file))))
}
