//! Hooks: programs of the operator's that are told of a container's state at points of its life.
//!
//! | hook | when | where | if it fails |
//! |---|---|---|---|
//! | prestart, createRuntime, createContainer | in `create`, while the VM boots | host | `create` fails |
//! | startContainer | in `start`, before the program | guest (part of the program) | `start` fails |
//! | poststart | in `start`, after the program has begun | host | the container is killed, `start` fails |
//! | poststop | in `delete` | host | a warning |

use std::{
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use oci_spec::runtime::Hook;

use super::state::View;
use crate::{Error, error::Kind};

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
