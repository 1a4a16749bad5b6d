//! A vCPU and the thread that runs it.
//!
//! **Stopping.** A vCPU thread sits in `KVM_RUN`, possibly for ever: a guest that waits for an interrupt. To get it out,
//! `immediate_exit` in the shared run structure is set first and a signal is sent second: wherever the thread is between its
//! check and the system call, one of the two makes `KVM_RUN` return.

use std::{
    os::unix::thread::JoinHandleExt,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::{
    errno::Errno,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use super::{bus::Bus, ending::Ending, gate::Gate, host};
use crate::{Error, Exit, seccomp::Filter};

/// A vCPU thread calls devices' register handlers and little else.
const STACK: usize = 128 * 1024;
/// Interrupts `KVM_RUN`; its handler does nothing. Nobody else in a sandbox process uses it.
const KICK: Signal = Signal::SIGURG;

/// Points to the run structure while the thread owns the vCPU, and is empty afterwards.
struct RunStructure(Option<NonNull<kvm_run>>);

// SAFETY: the pointer is only dereferenced under the lock that holds this value, and is taken out before the mapping goes.
unsafe impl Send for RunStructure {}

/// What a thread gets once there is a VM.
type Given = Arc<Mutex<Option<VcpuFd>>>;

pub(super) struct VcpuThread {
    thread: JoinHandle<()>,
    vcpu: Given,
    run: Arc<Mutex<RunStructure>>,
}

impl VcpuThread {
    /// Starts the thread, which installs `filter` and waits at `gate`. It must be [given](Self::give) its vCPU before the gate opens.
    pub(super) fn spawn(
        index: u8,
        bus: Arc<Bus>,
        ending: Arc<Ending>,
        filter: Arc<Filter>,
        gate: &Arc<Gate>,
    ) -> Result<Self, Error> {
        extern "C" fn nothing(_: i32) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it is async-signal-safe; the signal is not used for anything else.
        unsafe { sigaction(KICK, &action) }.map_err(|e| host("install a signal handler")(e.into()))?;
        let (vcpu, run) = (Given::default(), Arc::new(Mutex::new(RunStructure(None))));
        let (given, shared) = (Arc::clone(&vcpu), Arc::clone(&run));
        let gate = Arc::clone(gate);
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(STACK)
            .spawn(move || {
                let entered = gate.arrive(filter.install().map_err(Error::from));
                let mut vcpu = given.lock().unwrap_or_else(PoisonError::into_inner).take();
                let exit = match &mut vcpu {
                    Some(fd) if entered => run_until_end(fd, &bus, &ending),
                    _ => Exit::Stopped,
                };
                shared.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
                ending.record(exit);
            })
            .map_err(host("start a vCPU thread"))?;
        Ok(Self { thread, vcpu, run })
    }

    /// Gives the thread the vCPU that it is to run.
    pub(super) fn give(&self, mut vcpu: VcpuFd) {
        let run = NonNull::from(vcpu.get_kvm_run());
        self.run.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(run);
        *self.vcpu.lock().unwrap_or_else(PoisonError::into_inner) = Some(vcpu);
    }

    /// Makes the thread leave `KVM_RUN`. The end must be recorded before, or the thread goes on.
    pub(super) fn kick(&self) {
        let run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = run.0 {
            // SAFETY: the run structure is mapped while the pointer is there: the thread takes it out, under this lock, before
            // it drops the vCPU. The kernel reads this byte at the start of `KVM_RUN` and expects it to change at any time.
            unsafe { (&raw mut (*run.as_ptr()).immediate_exit).write_volatile(1) };
            // The thread has not been joined, so its handle is valid.
            if let Err(error) = nix::sys::pthread::pthread_kill(self.thread.as_pthread_t(), KICK) {
                tracing::error!(%error, "a vCPU thread cannot be interrupted");
            }
        }
    }

    pub(super) fn join(self) {
        // A panic of the thread was reported by the panic hook.
        let _ = self.thread.join();
    }
}

fn run_until_end(fd: &mut VcpuFd, bus: &Bus, ending: &Ending) -> Exit {
    loop {
        match fd.run() {
            Ok(VcpuExit::MmioRead(address, data)) => bus.mmio_read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => bus.mmio_write(address, data),
            Ok(VcpuExit::IoIn(port, data)) => bus.port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => bus.port_write(port, data),
            Ok(VcpuExit::Shutdown) => return Exit::TripleFault,
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
            Ok(VcpuExit::InternalError) => return Exit::Failed(internal_error(fd)),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Exit::Failed(format!(
                    "the processor refused to enter the guest (reason {reason:#x})"
                ));
            }
            Ok(other) => return Exit::Failed(format!("unexpected KVM exit {other:?}")),
            Err(error) if matches!(Errno::from_raw(error.errno()), Errno::EINTR | Errno::EAGAIN) => {
                if ending.is_recorded() {
                    return Exit::Stopped;
                }
            }
            Err(error) => return Exit::Failed(format!("KVM_RUN: {error}")),
        }
    }
}

/// What KVM says about an instruction that it could neither execute nor emulate (`KVM_EXIT_INTERNAL_ERROR`).
fn internal_error(fd: &mut VcpuFd) -> String {
    // SAFETY: `KVM_RUN` has just returned with this exit reason, for which KVM fills in this member of the union.
    let suberror = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
    format!(
        "KVM cannot run the guest's code (internal error, suberror {suberror}); is nested virtualisation usable here?"
    )
}
