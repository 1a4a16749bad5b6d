//! QEMU: a child process runs the VM, our devices stay in this process and reach it over vhost-user.
//!
//! **Owns** the child, the thread that supervises it, and one thread a device. **Callers:** whoever holds a [`Qemu`] as its
//! [`Hypervisor`]: machines without usable KVM, and those who want QEMU.
//!
//! QEMU gets its kernel, initial ramdisk, log and devices as open descriptors, and nothing else of ours: no file is made, no
//! name bound, so that nothing is left behind whichever process is killed when. It dies with this process.
//!
//! # What can go wrong
//!
//! QEMU is missing, refuses its command line, or has no memory: [`start`](Hypervisor::start) fails with what QEMU said last.
//! After that, whatever ends it is told by [`wait`](Vm::wait); see [`ending`] for how the ends are told apart.
//!
//! # Milestones
//!
//! What happens inside QEMU is not seen from here. [`VmCreated`](Milestone::VmCreated) is reported when the process was
//! started, [`FirstEntry`](Milestone::FirstEntry) when QEMU has answered on its monitor that it lets the vCPUs go. Those in between
//! are not reported.

mod command;
mod ending;
mod process;
mod streams;
mod supervisor;

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use self::{
    command::{Attachment, Machine},
    ending::Request,
    streams::{Stream, Streams},
    supervisor::Supervisor,
};
#[cfg(doc)]
use crate::Milestone;
use crate::{
    Config, Error, Exit, Hypervisor, Vm, arch,
    seccomp::{self, Filter},
    virtio::{Device, DeviceType, fs, vhost_user},
};

/// How many devices QEMU's microvm machine has room for.
const MAX_DEVICES: usize = 8;

/// The longest command line that the kernel takes (x86's `COMMAND_LINE_SIZE`, without the byte that ends it).
const MAX_CMDLINE: usize = 2047;
/// At least what QEMU appends for a device, ` virtio_mmio.device=512@0xfeb00e00:12`.
const DEVICE_OPTION: usize = 48;

/// How QEMU runs the guest's code.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Translated: works everywhere, an order of magnitude slower.
    #[default]
    Tcg,
    /// On the processor, through KVM.
    Kvm,
}

/// QEMU as a hypervisor.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// How it runs the guest's code.
    pub accel: Accel,
    /// The program: a name, looked for in `PATH`, or an absolute path.
    pub program: PathBuf,
}

impl Qemu {
    /// QEMU as it is installed.
    #[must_use]
    pub fn new(accel: Accel) -> Self {
        Self { accel, program: PathBuf::from("qemu-system-x86_64") }
    }
}

impl Default for Qemu {
    fn default() -> Self {
        Self::new(Accel::default())
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Host(what, error)
}

impl Hypervisor for Qemu {
    fn start(self: Box<Self>, mut config: Config) -> Result<Box<dyn Vm>, Error> {
        config.check()?;
        arch::check_kernel(&mut config.kernel, &config.kernel_path)?;
        if config.devices.len() > MAX_DEVICES {
            let devices = config.devices.len();
            return Err(Error::Qemu(format!(
                "{devices} devices asked for: its microvm machine has room for {MAX_DEVICES}"
            )));
        }

        let cmdline = format!("{} {}", arch::base_cmdline(config.verbose_log, config.vcpus), config.cmdline);
        if cmdline.len() + config.devices.len() * DEVICE_OPTION > MAX_CMDLINE {
            return Err(Error::CommandLine);
        }

        let pair = || UnixStream::pair().map_err(host("create a socket pair"));
        let (ended, end) = pair()?;
        let request = Arc::new(Request::new().map_err(host("create an event descriptor"))?);
        let mut vm = QemuVm {
            request: Arc::clone(&request),
            supervisor: None,
            ended,
            exit: None,
            devices: Vec::new(),
        };
        let mut attachments = Vec::new();
        for device in config.devices {
            let (device_type, queues, tag) =
                (device.device_type(), device.queue_sizes(), tag(device.as_ref()));
            let (socket, thread) =
                vhost_user::serve(device, config.seccomp).map_err(host("start a device"))?;
            vm.devices.push(thread);
            attachments.push(Attachment { device_type, tag, queues, socket: socket.into() });
        }
        let (serial, qemu_serial) = pair()?;
        let (complaints, qemu_complaints) = pair()?;
        let (monitor, qemu_monitor) = pair()?;
        let machine = Machine {
            accel: self.accel,
            vcpus: config.vcpus,
            memory: config.memory,
            kernel: config.kernel.into(),
            initrd: anonymous_file(config.initrd).map_err(host("create an anonymous file"))?,
            cmdline,
            serial: qemu_serial.into(),
            monitor: qemu_monitor.into(),
            complaints: qemu_complaints.into(),
            devices: attachments,
        };

        let on_halt = Arc::clone(&request);
        config.log.on_halt(Box::new(move || on_halt.halted()));
        let (go, going) = mpsc::channel();
        let (started, answer) = mpsc::channel();
        let monitor_input = monitor.try_clone().map_err(host("keep a socket"))?;
        let streams =
            vec![(Stream::Serial, serial), (Stream::Complaints, complaints), (Stream::Monitor, monitor)];
        let supervisor = Supervisor {
            program: self.program.clone(),
            streams: Streams::new(streams, config.log.sink()),
            request,
            log: config.log,
            milestones: config.milestones,
            filter: Filter::compile(&seccomp::QEMU, config.seccomp)?,
            going,
            started,
            monitor: monitor_input,
            _end: end,
        };
        let thread = std::thread::Builder::new().name("qemu".into()).spawn(move || supervisor.run(machine));
        vm.supervisor = Some(thread.map_err(host("start a thread"))?);
        let gone = || Error::Host("supervise QEMU", io::ErrorKind::BrokenPipe.into());
        // QEMU is there, and the guest stopped.
        answer.recv().map_err(|_| gone())??;
        (config.before_entry)()?;
        go.send(()).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())??;
        Ok(Box::new(vm))
    }
}

/// The tag in the configuration of a file system device, which QEMU shows to the guest instead of asking for it.
fn tag(device: &dyn Device) -> Option<String> {
    let mut tag = [0; fs::TAG_LEN];
    if device.device_type() != DeviceType::Fs {
        return None;
    }
    device.read_config(0, &mut tag);
    let end = tag.iter().position(|byte| *byte == 0).unwrap_or(tag.len());
    String::from_utf8(tag[..end].to_vec()).ok()
}

/// A file without a name.
fn anonymous_file(contents: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("initrd", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(contents)?;
    Ok(file.into())
}

/// A VM in a QEMU process. Also what is left of one whose start failed half-way: dropping it ends all threads.
struct QemuVm {
    request: Arc<Request>,
    supervisor: Option<JoinHandle<Exit>>,
    /// At its end, hence readable, when the supervisor is done.
    ended: UnixStream,
    exit: Option<Exit>,
    devices: Vec<JoinHandle<()>>,
}

impl Vm for QemuVm {
    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    fn wait(&mut self) -> Exit {
        if let Some(supervisor) = self.supervisor.take() {
            let lost = |_| Exit::Failed("the thread that supervises QEMU failed".into());
            self.exit = Some(supervisor.join().unwrap_or_else(lost));
        }
        // QEMU's ends of the sockets are closed, so these threads end.
        for device in self.devices.drain(..) {
            // A panic of the thread was reported by the panic hook.
            let _ = device.join();
        }
        self.exit.clone().unwrap_or(Exit::Stopped)
    }

    fn stop(&mut self) {
        self.request.stop();
        self.wait();
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
