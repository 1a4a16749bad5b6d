//! A device of a VM's: its window, its interrupt line, and what leads its queues' notifications to the thread that works for it.
//!
//! Made before there is a VM, so that threads can restrict themselves meanwhile, and bound to the VM afterwards.

use std::sync::Arc;

use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use nix::sys::eventfd::EfdFlags;
use vmm_sys_util::eventfd::EventFd;

use super::{
    device_loop::DeviceLoop,
    failed, host,
    io_apic::{IoApic, Pin},
    memory::GuestRam,
};
use crate::{
    Error,
    arch::layout,
    virtio::{
        Device,
        mmio::{MmioDevice, QUEUE_NOTIFY_OFFSET},
    },
};

/// A device in its window, with the event descriptors that lead to it.
pub(super) struct Attached {
    pub(super) device: Arc<MmioDevice>,
    /// Its place among the VM's devices: that of its window, its port and its interrupt line.
    number: u8,
    /// One for each queue.
    kicks: Vec<EventFd>,
}

impl Attached {
    /// Has `device_loop` work for `device`.
    pub(super) fn new(
        number: u8,
        device: Box<dyn Device>,
        io_apic: &Arc<IoApic>,
        ram: &GuestRam,
        device_loop: &mut DeviceLoop,
    ) -> Result<Self, Error> {
        let queues = device.queue_sizes().len();
        let pin = Pin { io_apic: Arc::clone(io_apic), line: layout::FIRST_IRQ.saturating_add(number) };
        let device = MmioDevice::new(device, ram.memory().clone(), Box::new(pin), notify_port(number))
            .map_err(|error| Error::Kvm("set up a device", std::io::Error::other(error)))?;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let mut kicks = Vec::new();
        for queue in 0..queues {
            let kick = EventFd::new(flags.bits()).map_err(host("create an event descriptor"))?;
            let ours = kick.try_clone().map_err(host("create an event descriptor"))?;
            device_loop.add_queue(Arc::clone(&device), queue, ours)?;
            kicks.push(kick);
        }
        device_loop.add_events(&device)?;
        Ok(Self { device, number, kicks })
    }

    /// Binds its queues' notifications to the event descriptors, in the host's kernel, which keeps them.
    pub(super) fn bind(self, vm: &VmFd) -> Result<(), Error> {
        if !vm.check_extension(Cap::Ioeventfd) {
            return Err(Error::Kvm("bind event descriptors", std::io::ErrorKind::Unsupported.into()));
        }
        let window = layout::MMIO_START + u64::from(self.number) * layout::MMIO_WINDOW;
        let addresses = [
            IoEventAddress::Mmio(window + QUEUE_NOTIFY_OFFSET),
            // The host's kernel has to decode an instruction for the other one.
            IoEventAddress::Pio(notify_port(self.number).into()),
        ];
        for (queue, kick) in (0u32..).zip(&self.kicks) {
            for address in &addresses {
                vm.register_ioevent(kick, address, queue).map_err(failed("bind a queue"))?;
            }
        }
        Ok(())
    }
}

/// The I/O port of the device with this number.
fn notify_port(number: u8) -> u16 {
    layout::NOTIFY_PORTS + layout::NOTIFY_PORT_BYTES * u16::from(number)
}
