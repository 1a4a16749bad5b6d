//! KVM: guest memory, vCPU threads and the device loop, all in this process.
//!
//! **Owns** everything that a VM on KVM is made of. **Callers:** whoever holds a [`Kvm`] as its
//! [`Hypervisor`].
//!
//! Threads: one a vCPU, one device loop, and one more for each device that needs its own. They share the devices (each behind its lock) and nothing else. The
//! first thread that sees the end of the VM records it; stopping makes every vCPU leave `KVM_RUN` and joins all threads,
//! and only then is guest memory unmapped.

mod attached;
mod bus;
mod device_loop;
mod ending;
mod gate;
mod io_apic;
mod memory;
pub mod probe;
mod statistics;
mod threads;
mod vcpu;

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use vm_memory::{GuestMemory, GuestMemoryRegion};

use self::{
    attached::Attached, bus::Bus, device_loop::DeviceLoop, ending::Ending, gate::Gate, io_apic::IoApic,
    memory::GuestRam, statistics::Statistics, threads::Threads, vcpu::VcpuThread,
};
use crate::{
    Config, Error, Exit, Hypervisor, Milestone, Vm,
    arch::{self, layout},
    seccomp::{self, Filter},
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

        let irq_lines = layout::irq_lines(config.devices.len()).ok_or_else(|| {
            Error::Kvm("give each device an interrupt line", std::io::Error::other("all are in use"))
        })?;

        let ram = GuestRam::new(config.memory)?;
        // It will hold the VM, which must go before the memory, whatever fails.
        let io_apic = Arc::new(IoApic::new(irq_lines));
        config.milestones.reached(Milestone::MemoryReady);
        let (kernel, path) = (&mut config.kernel, &config.kernel_path);
        let processors = arch::Processors { vcpus: config.vcpus, irq_lines };
        let entry = arch::load(ram.memory(), &ram, kernel, path, config.initrd, &cmdline, processors)?;
        config.milestones.reached(Milestone::KernelLoaded);
        let supported = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("read the CPUID leaves"))?;

        let mut devices = Vec::new();
        let mut device_loops = vec![("devices", &seccomp::DEVICES, DeviceLoop::new()?)];
        for (number, mut device) in (0..).zip(config.devices) {
            device.prepare().map_err(host("start a device's threads"))?;
            if device.needs_own_thread() {
                let mut own = DeviceLoop::new()?;
                let (name, kind) = (device.name(), seccomp::of_device(device.device_type(), false));
                devices.push(Attached::new(number, device, &io_apic, &ram, &mut own)?);
                device_loops.push((name, kind, own));
            } else {
                devices.push(Attached::new(number, device, &io_apic, &ram, &mut device_loops[0].2)?);
            }
        }

        let ending = Arc::new(Ending::new().map_err(host("create an event descriptor"))?);
        let on_halt = Arc::clone(&ending);
        config.log.on_halt(Box::new(move || on_halt.record(Exit::PowerOff)));
        let windows = devices.iter().map(|attached| Arc::clone(&attached.device)).collect();
        let bus = Arc::new(Bus::new(windows, Arc::clone(&io_apic), &config.log));

        let mut threads = Threads { ending, vcpus: Vec::new(), device_loops: Vec::new() };
        // From here on, dropping `threads` ends those that are there: they are let in, and find the end recorded.
        let gate = Gate::new();
        let opened = gate.keeper();
        for (name, kind, device_loop) in device_loops {
            let filter = Filter::compile(kind, config.seccomp)?;
            threads.device_loops.push(device_loop.spawn(name, filter, Arc::clone(&gate))?);
        }
        let filter = Arc::new(Filter::compile(&seccomp::VCPU, config.seccomp)?);
        for index in 0..config.vcpus {
            let (bus, ending) = (Arc::clone(&bus), Arc::clone(&threads.ending));
            threads.vcpus.push(VcpuThread::spawn(index, bus, ending, Arc::clone(&filter), &gate)?);
        }

        // KVM gives each VM a helper thread and moves it to this process's cgroup, for which the host's kernel waits for a grace period
        // of RCU: up to three of its timer ticks, but none if it has just waited for one. Whoever moves this process to a cgroup has
        // made it do that, and the wait passes while memory is being filled: so the VM comes as late as it can, and the threads restrict
        // themselves meanwhile.
        let vm = Arc::new(kvm.create_vm().map_err(failed("create a VM"))?);
        config.milestones.reached(Milestone::VmCreated);
        map_memory(&vm, &ram)?;
        vm.set_tss_address(layout::KVM_TSS).map_err(failed("set the TSS address"))?;
        create_local_apics(&vm)?;
        io_apic.connect(Arc::clone(&vm));
        for attached in devices {
            attached.bind(&vm)?;
        }

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
        for (thread, fd) in threads.vcpus.iter().zip(vcpus) {
            thread.give(fd);
        }
        gate.wait_for(threads.device_loops.len() + threads.vcpus.len())?;
        (config.before_entry)()?;
        config.milestones.reached(Milestone::FirstEntry);
        opened.open();
        Ok(Box::new(KvmVm { threads, _vm: vm, ram, log: config.log, counts }))
    }
}

/// Has KVM be the local APICs, and leave the I/O APIC to us. There is no other interrupt controller.
fn create_local_apics(vm: &VmFd) -> Result<(), Error> {
    if !vm.check_extension(Cap::SignalMsi) {
        return Err(Error::Kvm("send interrupts", std::io::ErrorKind::Unsupported.into()));
    }
    // How many routes are kept for lines of ours that are level-triggered: none.
    let split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..kvm_enable_cap::default() };
    vm.enable_cap(&split).map_err(failed("create the interrupt controllers"))
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

/// A VM that runs. The order of the fields is the order in which they go: KVM's own view of the memory before the memory.
struct KvmVm {
    threads: Threads,
    _vm: Arc<VmFd>,
    ram: GuestRam,
    log: crate::KernelLog,
    /// Logged once, when the VM stops.
    counts: Option<Statistics>,
}

impl Vm for KvmVm {
    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.threads.ending.as_fd()
    }

    fn wait(&mut self) -> Exit {
        let exit = self.threads.ending.wait();
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
        self.threads.stop();
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        self.stop();
        debug_assert!(self.ram.memory().num_regions() > 0);
    }
}
