//! QEMU's command line.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::Accel;
use crate::virtio::DeviceType;

/// A device that waits for QEMU behind a vhost-user socket.
pub(super) struct Attachment {
    pub(super) device_type: DeviceType,
    /// The name by which the guest finds it, for those that QEMU itself tells it of.
    pub(super) tag: Option<String>,
    /// The sizes of its queues.
    pub(super) queues: &'static [u16],
    pub(super) socket: OwnedFd,
}

/// The machine that QEMU is to be, and the descriptors that it inherits.
pub(super) struct Machine {
    pub(super) accel: Accel,
    pub(super) vcpus: u8,
    /// In bytes.
    pub(super) memory: u64,
    pub(super) kernel: OwnedFd,
    pub(super) initrd: OwnedFd,
    pub(super) cmdline: String,
    /// What the guest writes to its first serial port goes here.
    pub(super) serial: OwnedFd,
    /// QEMU's monitor (QMP) listens here.
    pub(super) monitor: OwnedFd,
    /// QEMU's standard error.
    pub(super) complaints: OwnedFd,
    pub(super) devices: Vec<Attachment>,
}

impl Machine {
    /// The descriptors that QEMU inherits. They keep their numbers.
    pub(super) fn inherited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let files = [&self.kernel, &self.initrd, &self.serial, &self.monitor];
        files.into_iter().chain(self.devices.iter().map(|device| &device.socket)).map(AsFd::as_fd)
    }

    /// QEMU's arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        // Nothing that was not asked for. A guest that broke out into QEMU finds a process that starts no program, gains no
        // privileges and changes no limits.
        add("-display", "none".into());
        add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
        // The kernel is told of its virtio devices by QEMU, on the command line, and calibrates its clocks with the PIT.
        add(
            "-M",
            "microvm,acpi=off,pit=on,pic=on,rtc=off,isa-serial=on,x-option-roms=off,memory-backend=ram"
                .into(),
        );
        add("-global", "virtio-mmio.force-legacy=false".into());
        match self.accel {
            Accel::Tcg => {
                add("-accel", "tcg".into());
                add("-cpu", "max".into());
            }
            Accel::Kvm => {
                add("-accel", "kvm".into());
                add("-cpu", "host".into());
            }
        }
        add("-smp", self.vcpus.to_string());
        add("-m", format!("{}M", self.memory >> 20));
        // Shared, so that our devices see it.
        add("-object", format!("memory-backend-memfd,id=ram,share=on,size={}", self.memory));
        add("-kernel", format!("/proc/self/fd/{}", self.kernel.as_raw_fd()));
        add("-initrd", format!("/proc/self/fd/{}", self.initrd.as_raw_fd()));
        add("-append", self.cmdline.clone());
        add("-chardev", format!("socket,id=serial,fd={}", self.serial.as_raw_fd()));
        add("-serial", "chardev:serial".into());
        add("-chardev", format!("socket,id=monitor,fd={}", self.monitor.as_raw_fd()));
        add("-mon", "chardev=monitor,mode=control".into());
        // QEMU gives the first device the slot with the highest address, the next one the slot below, and lists them for the
        // kernel in this order, which is the order in which the kernel finds them.
        for (index, device) in self.devices.iter().enumerate() {
            add("-chardev", format!("socket,id=device{index},fd={}", device.socket.as_raw_fd()));
            add("-device", device_option(device, &format!("device{index}")));
        }
        arguments.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(String::from));
        arguments
    }
}

fn device_option(device: &Attachment, chardev: &str) -> String {
    match device.device_type {
        DeviceType::Vsock => format!("vhost-user-vsock-device,chardev={chardev}"),
        DeviceType::Block => format!(
            "vhost-user-blk,chardev={chardev},num-queues={},queue-size={}",
            device.queues.len(),
            device.queues.iter().min().copied().unwrap_or_default()
        ),
        // One size for all queues: the largest, which the requests' queue needs.
        DeviceType::Fs => format!(
            "vhost-user-fs-device,chardev={chardev},tag={},num-request-queues={},queue-size={}",
            device.tag.as_deref().unwrap_or_default(),
            device.queues.len() - 1,
            device.queues.iter().max().copied().unwrap_or_default()
        ),
    }
}
