//! A machine with nothing in it but the meter as its `/init`, a vsock and a disk: the devices, without anything above them.

use std::{
    fs::File,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    thread::JoinHandle,
};

use anyhow::Context;
use mote_protocol::meter::PORT;
use mote_vmm::{
    Config, KernelLog, Milestones, Vm,
    virtio::{
        block::Block,
        vsock::{Endpoint, Vsock},
    },
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bench::args::IoOptions;

/// The guest's address on its vsock.
const CID: u32 = 3;

/// The machine, and the host's end of the stream that its meter opens.
pub(super) struct Machine {
    vm: Box<dyn Vm>,
    log: KernelLog,
    pub(super) stream: UnixStream,
    /// Ends the stream when the machine ends.
    watch: Option<JoinHandle<()>>,
}

impl Machine {
    /// Starts it. `disk` is attached read-only; it was found at `path`.
    pub(super) fn start(options: &IoOptions, disk: File, path: &Path) -> anyhow::Result<Self> {
        let kernel_path = mote_runtime::kernel(options.kernel.as_deref())?;
        let kernel = mote_runtime::named_file::open(&kernel_path)
            .with_context(|| format!("kernel {}", kernel_path.display()))?;
        let (vsock, ports) = Vsock::new(CID).context("cannot set up the vsock device")?;
        let (stream, theirs) = UnixStream::pair().context("cannot create a socket pair")?;
        ports.accept_once(PORT, Endpoint::socket(theirs));
        let disk = Block::from_file(disk, path, true).context("cannot set up the disk")?;
        let log = KernelLog::new();
        let vm = mote_runtime::hypervisor(options.hypervisor.into())?.start(Config {
            vcpus: options.cpus,
            memory: options.memory.bytes(),
            kernel,
            kernel_path,
            initrd: mote_runtime::meter_initrd()?,
            // The meter does not start them itself.
            cmdline: format!("maxcpus={}", options.cpus),
            devices: vec![Box::new(vsock), Box::new(disk)],
            log: log.clone(),
            verbose_log: false,
            milestones: Milestones::ignored(),
            seccomp: mote_vmm::seccomp::Mode::Enforce,
            before_entry: Box::new(|| Ok(())),
        })?;
        let mut machine = Self { vm, log, stream, watch: None };
        machine.watch()?;
        Ok(machine)
    }

    /// Has the stream shut down when the machine ends: who waits for an answer must not wait for ever.
    fn watch(&mut self) -> anyhow::Result<()> {
        let ended = self.vm.ended_fd().try_clone_to_owned().context("cannot watch the machine")?;
        let stream = self.stream.try_clone().context("cannot watch the machine")?;
        let watch = move || {
            let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            while poll(&mut fds, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
            // It fails if it has been shut down already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(watch);
        self.watch = Some(thread.context("cannot start a thread")?);
        Ok(())
    }

    /// What the kernel said last, for messages.
    pub(super) fn last_words(&self) -> Vec<String> {
        self.log.last_lines(5)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.vm.stop();
        if let Some(watch) = self.watch.take() {
            // A panic was reported by the panic hook.
            let _ = watch.join();
        }
    }
}
