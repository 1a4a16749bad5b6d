//! KVM: guest memory, vCPU threads and the device loop, all in this process.
//!
//! **Owns** everything that a VM on KVM is made of. **Callers:** whoever holds a [`Kvm`] as its
//! [`Hypervisor`].
//!
//! Threads: one a vCPU, one device loop, and one more for each device that needs its own. They share the devices (each behind its lock) and nothing else. The
//! first thread that sees the end of the VM records it; stopping makes every vCPU leave `KVM_RUN` and joins all threads,
//! and only then is guest memory unmapped.

mod bus;
mod device_loop;
mod ending;
mod gate;
mod memory;
pub mod probe;
mod statistics;
mod vcpu;

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    thread::JoinHandle,
};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use vm_memory::{GuestMemory, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use self::{
    bus::Bus, device_loop::DeviceLoop, ending::Ending, gate::Gate, memory::GuestRam, statistics::Statistics,
    vcpu::VcpuThread,
};
use crate::{
    Config, Error, Exit, Hypervisor, Milestone, Vm,
    arch::{self, layout},
    seccomp::{self, Filter},
    virtio::mmio::{MmioDevice, QUEUE_NOTIFY_OFFSET},
};

/// The version of KVM's interface; it has not changed since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// The KVM hypervisor, with a VM that has nothing in it yet: it can be started after files can no longer be opened.
#[derive(Debug)]
pub struct Kvm {
    kvm: kvm_ioctls::Kvm,
}

/// Adapts an error of KVM's to ours.
fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm(what, error.into())
}

fn host(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Host(what, error)
}

impl Kvm {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// It is not there, not for this user, or another KVM than we know.
    pub fn open() -> Result<Self, Error> {
        let kvm = kvm_ioctls::Kvm::new().map_err(failed("open /dev/kvm"))?;
        if kvm.get_api_version() != API_VERSION {
            return Err(Error::Kvm(
                "this kernel's KVM has another API",
                std::io::ErrorKind::Unsupported.into(),
            ));
        }
        Ok(Self { kvm })
    }
}

impl Hypervisor for Kvm {
    fn start(self: Box<Self>, mut config: Config) -> Result<Box<dyn Vm>, Error> {
        config.check()?;
        let Self { kvm } = *self;
        let mut cmdline = arch::base_cmdline(config.verbose_log, config.vcpus);
        for index in (0u32..).take(config.devices.len()) {
            cmdline.push(' ');
            cmdline.push_str(&arch::virtio_mmio_option(index));
        }
        cmdline.push(' ');
        cmdline.push_str(&config.cmdline);

        let ram = GuestRam::new(config.memory)?;
        config.milestones.reached(Milestone::MemoryReady);
        let (kernel, path) = (&mut config.kernel, &config.kernel_path);
        let entry = arch::load(ram.memory(), &ram, kernel, path, config.initrd, &cmdline, config.vcpus)?;
        config.milestones.reached(Milestone::KernelLoaded);
        // KVM gives each VM a helper thread and moves it to this process's cgroup, for which the host's kernel waits for a grace period
        // of RCU: up to three of its timer ticks, but none if it has just waited for one. Whoever moves this process to a cgroup has
        // made it do that, and the wait passes while memory is being filled: so the VM comes as late as it can.
        let vm = kvm.create_vm().map_err(failed("create a VM"))?;
        config.milestones.reached(Milestone::VmCreated);
        map_memory(&vm, &ram)?;
        vm.set_tss_address(layout::KVM_TSS).map_err(failed("set the TSS address"))?;
        vm.create_irq_chip().map_err(failed("create the interrupt controllers"))?;

        let mut devices = Vec::new();
        let mut device_loops = vec![("devices", &seccomp::DEVICES, DeviceLoop::new()?)];
        for (index, mut device) in (0u32..).zip(config.devices) {
            device.prepare().map_err(host("start a device's threads"))?;
            if device.needs_own_thread() {
                let mut own = DeviceLoop::new()?;
                let (name, kind) = (device.name(), seccomp::of_device(device.device_type(), false));
                devices.push(attach(&vm, &ram, index, device, &mut own)?);
                device_loops.push((name, kind, own));
            } else {
                devices.push(attach(&vm, &ram, index, device, &mut device_loops[0].2)?);
            }
        }

        let ending = Arc::new(Ending::new().map_err(host("create an event descriptor"))?);
        let on_halt = Arc::clone(&ending);
        config.log.on_halt(Box::new(move || on_halt.record(Exit::PowerOff)));
        let bus = Arc::new(Bus::new(devices, &config.log));
        let supported = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("read the CPUID leaves"))?;

        let mut vcpus = Vec::new();
        for index in 0..config.vcpus {
            let fd = vm.create_vcpu(index.into()).map_err(failed("create a vCPU"))?;
            fd.set_cpuid2(&arch::cpuid_for_vcpu(&supported, index, config.vcpus))
                .map_err(failed("set CPUID"))?;
            arch::enable_extended_state(&fd, &supported).map_err(failed("set extended state"))?;
            let msrs = arch::boot_msrs()
                .map_err(|_| Error::Kvm("list registers", std::io::Error::other("too many")))?;
            fd.set_msrs(&msrs).map_err(failed("set registers"))?;
            if index == 0 {
                arch::enter_kernel(&fd, entry).map_err(failed("set the entry point"))?;
            }
            vcpus.push(fd);
        }

        // Costs a few system calls, so only for those who look.
        let counts = tracing::enabled!(tracing::Level::DEBUG).then(|| Statistics::of(&vm, &vcpus));
        let mut running = KvmVm {
            _vm: vm,
            ram,
            ending,
            log: config.log,
            vcpus: Vec::new(),
            device_loops: Vec::new(),
            counts,
        };
        // From here on, dropping `running` ends the threads that are there: they are let in, and find the end recorded.
        let gate = Gate::new();
        let opened = gate.keeper();
        let threads = device_loops.len() + vcpus.len();
        for (name, kind, device_loop) in device_loops {
            let filter = Filter::compile(kind, config.seccomp)?;
            running.device_loops.push(device_loop.spawn(name, filter, Arc::clone(&gate))?);
        }
        let filter = Arc::new(Filter::compile(&seccomp::VCPU, config.seccomp)?);
        for (index, fd) in (0u8..).zip(vcpus) {
            let (bus, ending) = (Arc::clone(&bus), Arc::clone(&running.ending));
            running.vcpus.push(VcpuThread::spawn(index, fd, bus, ending, Arc::clone(&filter), &gate)?);
        }
        gate.wait_for(threads)?;
        (config.before_entry)()?;
        config.milestones.reached(Milestone::FirstEntry);
        opened.open();
        Ok(Box::new(running))
    }
}

fn map_memory(vm: &VmFd, ram: &GuestRam) -> Result<(), Error> {
    for (slot, region) in (0u32..).zip(ram.memory().iter()) {
        let mapping = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is mapped for as long as `ram` lives, which outlives the VM and its vCPUs (see `KvmVm`), and
        // nothing else in this process uses it but through `Memory`, whose accesses are volatile.
        unsafe { vm.set_user_memory_region(mapping) }.map_err(failed("map guest memory"))?;
    }
    Ok(())
}

/// Puts a device into its window: its queues' notifications and its interrupt go through event descriptors in the kernel.
fn attach(
    vm: &VmFd,
    ram: &GuestRam,
    index: u32,
    device: Box<dyn crate::virtio::Device>,
    device_loop: &mut DeviceLoop,
) -> Result<Arc<MmioDevice>, Error> {
    let irq = layout::FIRST_IRQ + index;
    if irq >= layout::IRQ_LINES.into() {
        return Err(Error::Kvm(
            "give a device an interrupt line",
            std::io::Error::other("all lines are in use"),
        ));
    }
    if !vm.check_extension(Cap::Ioeventfd) || !vm.check_extension(Cap::Irqfd) {
        return Err(Error::Kvm("bind event descriptors", std::io::ErrorKind::Unsupported.into()));
    }
    let nonblocking =
        nix::sys::eventfd::EfdFlags::EFD_NONBLOCK.bits() | nix::sys::eventfd::EfdFlags::EFD_CLOEXEC.bits();
    let interrupt = EventFd::new(nonblocking).map_err(host("create an event descriptor"))?;
    vm.register_irqfd(&interrupt, irq).map_err(failed("bind an interrupt"))?;
    let queues = device.queue_sizes().len();
    let device = MmioDevice::new(device, ram.memory().clone(), interrupt)
        .map_err(|error| Error::Kvm("set up a device", std::io::Error::other(error)))?;
    let window = layout::MMIO_START + u64::from(index) * layout::MMIO_WINDOW;
    for queue in 0..queues {
        let kick = EventFd::new(nonblocking).map_err(host("create an event descriptor"))?;
        let number = u32::try_from(queue)
            .map_err(|_| Error::Kvm("bind a queue", std::io::ErrorKind::Unsupported.into()))?;
        vm.register_ioevent(&kick, &IoEventAddress::Mmio(window + QUEUE_NOTIFY_OFFSET), number)
            .map_err(failed("bind a queue"))?;
        device_loop.add_queue(Arc::clone(&device), queue, kick)?;
    }
    device_loop.add_events(&device)?;
    Ok(device)
}

/// A VM that runs. The order of the fields is the order in which they go: KVM's own view of the memory before the memory.
struct KvmVm {
    vcpus: Vec<VcpuThread>,
    device_loops: Vec<(EventFd, JoinHandle<()>)>,
    _vm: VmFd,
    ram: GuestRam,
    ending: Arc<Ending>,
    log: crate::KernelLog,
    /// Logged once, when the VM stops.
    counts: Option<Statistics>,
}

impl Vm for KvmVm {
    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.ending.as_fd()
    }

    fn wait(&mut self) -> Exit {
        let exit = self.ending.wait();
        self.stop();
        match exit {
            // A restart and a panic end in a triple fault as well; the kernel's words tell them apart.
            Exit::TripleFault => self.log.last_words().unwrap_or(Exit::TripleFault),
            exit => exit,
        }
    }

    fn stop(&mut self) {
        if let Some(counts) = self.counts.take() {
            counts.log();
        }
        self.ending.record(Exit::Stopped);
        for vcpu in &self.vcpus {
            vcpu.kick();
        }
        for vcpu in self.vcpus.drain(..) {
            vcpu.join();
        }
        for (stop, thread) in self.device_loops.drain(..) {
            // Both fail only if the thread is gone already.
            let _ = stop.write(1);
            let _ = thread.join();
        }
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        self.stop();
        debug_assert!(self.ram.memory().num_regions() > 0);
    }
}
