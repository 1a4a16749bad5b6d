//! Hooks: programs of the operator's that are told of a container's state at points of its life.
//!
//! | hook | when | where | if it fails |
//! |---|---|---|---|
//! | prestart, createRuntime | in `create`, while the VM boots | host | `create` fails |
//! | createContainer | after those | host, in the container's network namespace | `create` fails |
//! | startContainer | in `start`, before the program | guest (part of the program) | `start` fails |
//! | poststart | in `start`, after the program has begun | host | the container is killed, `start` fails |
//! | poststop | in `delete` | host | a warning |
//!
//! The runtime specification has createContainer in the container's mount namespace, too, before the root is changed. In that of a
//! sandbox process there are the container's files alone: a hook would load its libraries from the image, and so the image's code would
//! run on the host. What it would mount there the guest would not see, either.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::Hook;

use super::state::View;
use crate::{Error, error::Kind};

/// Like [`run`], in the network namespace of the state's process.
pub(super) fn run_in_network(kind: &str, hooks: Option<&Vec<Hook>>, state: &View) -> Result<(), Error> {
    if hooks.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let cannot =
        |error: std::io::Error| failed(kind, 0, &format!("the container's network namespace: {error}"));
    let namespace = File::open(format!("/proc/{}/ns/net", state.pid)).map_err(cannot)?;
    // A namespace is a thread's, and what it starts inherits it.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| cannot(error.into()))?;
            run(kind, hooks, state)
        });
        thread.join().unwrap_or_else(|_| Err(failed(kind, 0, "its thread panicked")))
    })
}

/// Runs hooks of one kind, one after the other; the first that fails is the end.
pub(super) fn run(kind: &str, hooks: Option<&Vec<Hook>>, state: &View) -> Result<(), Error> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else { return Ok(()) };
    let input = serde_json::to_vec(state).map_err(|error| failed(kind, 0, &error.to_string()))?;
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, &input).map_err(|why| failed(kind, index, &why))?;
    }
    Ok(())
}

fn failed(kind: &str, index: usize, why: &str) -> Error {
    Error::new(Kind::Container, format!("error running {kind} hook #{index}: {why}"))
}

fn run_one(hook: &Hook, input: &[u8]) -> Result<(), String> {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", hook.path().display()))?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let timeout =
        hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let watchdog = timeout.map(|seconds| Watchdog::start(&child, Duration::from_secs(seconds)));
    // A hook need not read all of it.
    let _ = stdin.map(|mut stdin| stdin.write_all(input));
    let status = child.wait().map_err(|error| error.to_string());
    let timed_out = watchdog.is_some_and(Watchdog::stop);
    let status = status?;
    if timed_out {
        return Err(format!("did not end within {} seconds", timeout.unwrap_or(0)));
    }
    if status.success() {
        return Ok(());
    }
    let how = match status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => format!("exit status {}", status.code().unwrap_or(-1)),
    };
    let text = |receiver: mpsc::Receiver<Vec<u8>>| {
        String::from_utf8_lossy(&receiver.recv().unwrap_or_default()).into_owned()
    };
    Err(format!("{how}, stdout: {}, stderr: {}", text(stdout), text(stderr)))
}

/// Reads a stream to its end, so that its writer never has to wait.
fn collect(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    receiver
}

/// Kills a process that takes too long.
struct Watchdog {
    done: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(child: &Child, limit: Duration) -> Self {
        let (done, ended) = mpsc::channel();
        let pid = i32::try_from(child.id()).map(nix::unistd::Pid::from_raw);
        let thread = std::thread::spawn(move || {
            if ended.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout) {
                return false;
            }
            // Nobody has waited for it yet: that comes after `stop`, or with the kill.
            let _ = pid.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL));
            true
        });
        Self { done, thread }
    }

    /// Calls it off; whether it had to act.
    fn stop(self) -> bool {
        let _ = self.done.send(());
        self.thread.join().unwrap_or(false)
    }
}
