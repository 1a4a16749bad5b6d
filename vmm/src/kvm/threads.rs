//! The threads of a VM: all of them end together.

use std::{sync::Arc, thread::JoinHandle};

use vmm_sys_util::eventfd::EventFd;

use super::{ending::Ending, vcpu::VcpuThread};
use crate::Exit;

/// The threads of a VM, and the end that they look out for. Dropping them ends them.
pub(super) struct Threads {
    pub(super) ending: Arc<Ending>,
    pub(super) vcpus: Vec<VcpuThread>,
    pub(super) device_loops: Vec<(EventFd, JoinHandle<()>)>,
}

impl Threads {
    pub(super) fn stop(&mut self) {
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

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}
