//! Where a vCPU's accesses to ports and to memory without RAM go.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use vm_superio::{Serial, Trigger, serial::NoEvents};

use super::io_apic::IoApic;
use crate::{KernelLog, LogSink, arch::layout, virtio::mmio::MmioDevice};

/// The first serial port's registers.
const SERIAL: std::ops::Range<u16> = 0x3f8..0x400;

/// A 16550 whose interrupt goes nowhere: the early console polls.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The devices by address. Reads of what is not there give all ones, writes to it are dropped, as on a PC.
pub(super) struct Bus {
    windows: Vec<Arc<MmioDevice>>,
    io_apic: Arc<IoApic>,
    serial: Mutex<Serial<NoInterrupt, NoEvents, LogSink>>,
}

impl Bus {
    /// `windows` in the order of their addresses.
    pub(super) fn new(windows: Vec<Arc<MmioDevice>>, io_apic: Arc<IoApic>, log: &KernelLog) -> Self {
        Self { windows, io_apic, serial: Mutex::new(Serial::new(NoInterrupt, log.sink())) }
    }

    pub(super) fn mmio_read(&self, address: u64, data: &mut [u8]) {
        if let Some((device, offset)) = self.window(address) {
            device.read(offset, data);
        } else if let Some(offset) = io_apic_offset(address) {
            self.io_apic.read(offset, data);
        } else {
            data.fill(0xff);
        }
    }

    pub(super) fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.window(address) {
            device.write(offset, data);
        } else if let Some(offset) = io_apic_offset(address) {
            self.io_apic.write(offset, data);
        }
    }

    pub(super) fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let (Some(register), [byte]) = (serial_register(port), data) {
            *byte = self.serial.lock().unwrap_or_else(PoisonError::into_inner).read(register);
        }
    }

    pub(super) fn port_write(&self, port: u16, data: &[u8]) {
        if let (Some(register), [byte]) = (serial_register(port), data) {
            // The log takes everything, and the interrupt cannot fail.
            let _ = self.serial.lock().unwrap_or_else(PoisonError::into_inner).write(register, *byte);
        }
    }

    fn window(&self, address: u64) -> Option<(&MmioDevice, u64)> {
        let offset = address.checked_sub(layout::MMIO_START)?;
        let index = usize::try_from(offset / layout::MMIO_WINDOW).ok()?;
        Some((self.windows.get(index)?, offset % layout::MMIO_WINDOW))
    }
}

fn io_apic_offset(address: u64) -> Option<u64> {
    address.checked_sub(layout::IO_APIC.into()).filter(|offset| *offset < layout::IO_APIC_WINDOW)
}

fn serial_register(port: u16) -> Option<u8> {
    port.checked_sub(SERIAL.start).filter(|_| port < SERIAL.end).and_then(|offset| u8::try_from(offset).ok())
}
