//! The caller's side of a sandbox: starts its process, forwards signals, keeps the terminal, waits.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::ExitStatus,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Error,
    cgroup::{Bound, Limits, PERIOD, Passing},
    choice::HypervisorChoice,
    error::{Kind, errno, host},
    jail::EmptyNetwork,
    lifeline::{self, Go, Limited, News, Order, Report},
    program::Program,
    signals::Signals,
    spawn::{Child, Inheritance, Spawned, spawn},
    spec::{Machine, Network, Spec, Streams, Terminal},
    terminal::Restore,
    timeline::Timeline,
};

/// How a sandbox ended.
#[derive(Debug)]
pub struct Outcome {
    /// The command's status, or why there is none.
    pub result: Result<u8, Error>,
    /// What was reached when, as far as it came.
    pub timeline: Timeline,
    /// The sandbox process, if it was not waited for: it has said all it had to say and has closed its streams, and the host's
    /// kernel takes its VM apart, which can be tens of milliseconds of waiting for grace periods. A caller that ends at once can
    /// leave that to the kernel; one that lives on has to [`wait`](Child::wait) for it at some time.
    pub leaving: Option<Child>,
}

/// Runs `spec` in a sandbox process of its own: this program, called with `arguments`, which must lead it to
/// [`sandbox_main`](crate::sandbox_main). Standard streams are the caller's. Returns when the command has ended.
///
/// Call it from a program without other threads: it takes signals for the whole process.
#[must_use]
pub fn run(spec: &Spec, arguments: &[std::ffi::OsString], mut timeline: Timeline) -> Outcome {
    let mut leaving = None;
    let result = run_inner(spec, arguments, &mut timeline, &mut leaving);
    Outcome { result, timeline, leaving }
}

fn run_inner(
    spec: &Spec,
    arguments: &[std::ffi::OsString],
    timeline: &mut Timeline,
    leaving: &mut Option<Child>,
) -> Result<u8, Error> {
    let signals = Signals::take(&[Signal::SIGWINCH])?;
    let program = Program::compile(spec)?;
    let stdin = std::io::stdin();
    let (restore, terminal) = match spec.process.streams {
        Streams::Terminal => (Some(Restore::later(stdin.as_fd())?), Terminal::Callers),
        Streams::Pipes => (None, Terminal::None),
    };
    let cgroup = cgroup(&spec.machine)?;
    let cradle = cgroup.as_ref().and_then(Passing::cradle);
    let network = cgroup.as_ref().and_then(|cgroup| EmptyNetwork::of_a_neighbour(cgroup.neighbours()));
    let in_network = network.as_ref().map(EmptyNetwork::mark);
    let order = Order {
        machine: spec.machine.clone(),
        network: in_network.map_or(Network::Callers, Network::Empty),
        terminal,
        container: false,
        host_memory: None,
        jail_uid: spec.jail_uid,
        stop_signal: spec.process.stop_signal,
        view: None,
    };
    let inheritance = Inheritance {
        words: lifeline::frame(&order).map_err(host("tell the sandbox process"))?,
        cgroup: cradle,
        network: network.map(OwnedFd::from),
        ..Inheritance::default()
    };
    let Spawned { mut child, mut lifeline } = spawn(arguments, inheritance)?;
    // Meanwhile it sets up its VM, and waits for this before the guest runs.
    if let Some(Err(error)) = cgroup.as_ref().map(|cgroup| cgroup.take_in(child.id())) {
        // Told by the end of the lifeline, it ends.
        drop(lifeline);
        let _ = child.wait();
        return Err(host("limit the sandbox process")(error));
    }
    let _ = lifeline::send(&mut &lifeline, &Limited)
        .and_then(|()| lifeline::send(&mut &lifeline, &Go { program: program.into_bytes() }));
    // From now on somebody removes it, whoever is killed.
    if let Some(cgroup) = cgroup {
        cgroup.remove_after(child.id());
    }
    let report = supervise(&mut child, &mut lifeline, &signals)?;
    drop(restore);
    match report {
        Some(report) => {
            *leaving = Some(child);
            timeline.marks.extend(report.timeline.marks);
            report.result.map_err(|failure| Error(Box::new(failure)))
        }
        None => Err(died(child.wait().map_err(host("wait for the sandbox process"))?)),
    }
}

pub(crate) fn died(status: ExitStatus) -> Error {
    match status.signal() {
        Some(signal) => {
            let name = Signal::try_from(signal).map_or("an unknown signal", Signal::as_str);
            Error::new(Kind::Interrupted(signal), format!("the sandbox process was ended by {name}"))
        }
        None => Error::new(Kind::Host, format!("the sandbox process ended without a word ({status})")),
    }
}

/// What a sandbox process needs besides the guest's memory, in bytes: 4 MiB, and room for the kernel's own accounts.
const OVERHEAD: u64 = 64 << 20;
/// What QEMU needs: most of it for translated code.
const QEMU_OVERHEAD: u64 = 1536 << 20;
/// Threads besides the vCPUs. QEMU starts some to wait for disks.
const THREADS: u64 = 96;
/// CPUs besides the vCPUs: for the devices.
const DEVICE_CPUS: u64 = 1;

/// A cgroup for the sandbox process of `machine`, if this user can have one.
fn cgroup(machine: &Machine) -> Result<Option<Passing>, Error> {
    let overhead = if machine.hypervisor == HypervisorChoice::Kvm { OVERHEAD } else { QEMU_OVERHEAD };
    let limits = Limits {
        memory: Some(Bound::AtMost(machine.memory + overhead)),
        pids: Some(u64::from(machine.vcpus) + THREADS),
        cpu_shares: None,
        cpu_quota: Some(Bound::AtMost((u64::from(machine.vcpus) + DEVICE_CPUS) * PERIOD)),
        cpu_period: Some(PERIOD),
    };
    match Passing::create(&limits).map_err(host("limit the sandbox process"))? {
        Ok(cgroup) => {
            tracing::debug!("jail: cgroup: {limits:?}");
            Ok(Some(cgroup))
        }
        Err(why) => {
            tracing::debug!("jail: cgroup: not in force, {why}");
            Ok(None)
        }
    }
}

/// Forwards signals until the sandbox has sent its report, or has died without one.
fn supervise(
    child: &mut Child,
    lifeline: &mut UnixStream,
    signals: &Signals,
) -> Result<Option<Report>, Error> {
    let pid = Pid::from_raw(
        i32::try_from(child.id()).map_err(|_| Error::new(Kind::Host, "impossible process id"))?,
    );
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(lifeline.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(errno("wait for the sandbox process")(error)),
        }
        let [_, spoke] = fds.map(|fd| fd.any().unwrap_or(false));
        while let Some(signal) = signals.next() {
            // The child has not been waited for, so the process id is its own.
            let _ = kill(pid, signal);
        }
        if spoke {
            match lifeline::receive(&mut &*lifeline) {
                Ok(News::Prepared | News::Created) => {}
                Ok(News::Report(report)) => return Ok(Some(report)),
                Err(_) => return Ok(None),
            }
        }
    }
}
