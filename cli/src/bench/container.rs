//! `mote bench container`: what an engine waits for, command by command.
//!
//! **Owns** a bundle, its containers, and a state folder of its own. A container is created, started, waited for and deleted, as an engine
//! does it; then processes are started in one that runs. What is left when a measurement fails, or is interrupted, is deleted.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::{
    sys::{
        prctl,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    args::ContainerOptions,
    children::{Measured, Undo},
    host::Host,
    print_json, progress,
    scratch::Scratch,
    stats::{Distribution, Summary, ms, nanoseconds},
    table::Table,
};

/// The memory that the containers' machines have, in bytes, with what the guest itself needs.
const LIMIT: u64 = 64 << 20;

pub(super) fn bench(options: &ContainerOptions) -> anyhow::Result<()> {
    prctl::set_child_subreaper(true).context("cannot adopt containers")?;
    let bar = progress::bar(usize::try_from(options.runs)? * 2, "containers");
    let mut lives: Vec<[u64; 5]> = Vec::new();
    let containers = Containers::new(options, &[&options.program])?;
    for number in 0..options.warm_up + options.runs {
        let life = containers.live()?;
        if number >= options.warm_up {
            lives.push(life);
            bar.inc(1);
        }
    }
    let containers = Containers::new(options, &["/bin/sleep", "1000000"])?;
    let execs = containers.execs(options, || bar.inc(1))?;
    bar.finish_and_clear();
    let mut steps = Vec::new();
    for (index, step) in ["create", "start", "end", "delete", "all of it"].into_iter().enumerate() {
        let times = lives.iter().filter_map(|life| life.get(index).copied());
        steps.push(Step { step, time: Distribution::of(times)?.summary() });
    }
    steps.push(Step { step: "exec", time: Distribution::of(execs)?.summary() });
    let report = Report {
        kind: "container",
        host: Host::here(),
        hypervisor: options.hypervisor.name(),
        rootfs: options.rootfs.display().to_string(),
        program: options.program.clone(),
        runs: options.runs,
        steps,
    };
    if options.output.json {
        print_json(&report)
    } else {
        print!("{}", report.text());
        Ok(())
    }
}

/// Containers of one bundle, one at a time.
struct Containers {
    // First of the fields to go.
    _undo: Undo,
    caller: Arc<Caller>,
    scratch: Scratch,
}

/// How `mote` is called for them.
struct Caller {
    arguments: Vec<std::ffi::OsString>,
    limit: Duration,
}

const ID: &str = "bench";

impl Containers {
    fn new(options: &ContainerOptions, program: &[&str]) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let state = folder.join("state");
        let arguments = [
            "--root".into(),
            state.into(),
            "--container-hypervisor".into(),
            options.hypervisor.name().into(),
        ];
        let limit = Duration::from_secs(options.limit.into());
        let caller = Arc::new(Caller { arguments: arguments.into(), limit });
        caller.call(&["spec", "--bundle", &text(folder)])?;
        let path = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let rootfs = fs::canonicalize(&options.rootfs);
        let rootfs = rootfs.with_context(|| format!("--rootfs {}", options.rootfs.display()))?;
        config["root"] = json!({ "path": rootfs, "readonly": true });
        config["process"]["args"] = json!(program);
        config["process"]["terminal"] = json!(false);
        config["linux"]["resources"]["memory"] = json!({ "limit": LIMIT });
        fs::write(&path, config.to_string())?;
        let last = Arc::clone(&caller);
        let undo = Undo::new(move || {
            // There is none any more, unless something has failed.
            let _ = last.command(&["delete", "--force", ID]).stderr(Stdio::null()).status();
        });
        Ok(Self { _undo: undo, caller, scratch })
    }

    /// Nanoseconds that each step took, and all of them.
    fn live(&self) -> anyhow::Result<[u64; 5]> {
        let begin = Instant::now();
        let pid = self.create()?;
        let created = nanoseconds(begin);
        self.caller.call(&["start", ID])?;
        let started = nanoseconds(begin);
        let status = waitpid(pid, None).context("cannot wait for the container")?;
        ensure!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "the program failed in the container: {status:?}"
        );
        let ended = nanoseconds(begin);
        self.caller.call(&["delete", ID])?;
        let all = nanoseconds(begin);
        Ok([created, started - created, ended - started, all - ended, all])
    }

    /// Nanoseconds that each process took.
    fn execs(&self, options: &ContainerOptions, done: impl Fn()) -> anyhow::Result<Vec<u64>> {
        let pid = self.create()?;
        self.caller.call(&["start", ID])?;
        let mut times = Vec::new();
        for number in 0..options.warm_up + options.runs {
            let begin = Instant::now();
            self.caller.call(&["exec", ID, &options.program])?;
            if number >= options.warm_up {
                times.push(nanoseconds(begin));
                done();
            }
        }
        self.caller.call(&["delete", "--force", ID])?;
        waitpid(pid, None).context("cannot wait for the container")?;
        Ok(times)
    }

    fn create(&self) -> anyhow::Result<Pid> {
        let (bundle, file) = (text(self.scratch.path()), text(&self.scratch.path().join("pid")));
        self.caller.call(&["create", "--bundle", &bundle, "--pid-file", &file, ID])?;
        let pid = fs::read_to_string(&file).context("cannot read the container's process id")?;
        Ok(Pid::from_raw(pid.trim().parse().context("the container has no process id")?))
    }
}

impl Caller {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args(&self.arguments).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Calls `mote`, which must succeed.
    fn call(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let verb = arguments.first().copied().unwrap_or_default();
        // A file and no pipe: a container keeps what it was given for as long as it lives.
        let words = tempfile::tempfile().context("cannot make a file for what mote says")?;
        let mut command = self.command(arguments);
        let mut process = Measured::spawn(command.stderr(words.try_clone()?)).context("cannot start mote")?;
        let deadline = process.kill_after(self.limit)?;
        // Only the process itself: the container is in a group of its own.
        let status = process.wait().with_context(|| format!("cannot wait for mote {verb}"))?;
        ensure!(!deadline.is_over(), "mote {verb} was not done within {} s (--limit)", self.limit.as_secs());
        ensure!(status.success(), "mote {verb} failed ({status}): {}", said(words).trim());
        Ok(())
    }
}

fn said(mut words: File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    // If that fails there is nothing to show.
    let _ = words.rewind().and_then(|()| words.read_to_string(&mut text));
    text
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[derive(Debug, Serialize)]
struct Report {
    kind: &'static str,
    host: Host,
    hypervisor: &'static str,
    rootfs: String,
    program: String,
    runs: u32,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    time: Summary,
}

impl Report {
    fn text(&self) -> String {
        let mut table = Table::new(&["ms", "min", "median", "p95", "p99", "max"]);
        for Step { step, time } in &self.steps {
            let times = [time.min_ns, time.median_ns, time.p95_ns, time.p99_ns, time.max_ns];
            let cells = times.map(|ns| format!("{:.3}", ms(ns)));
            table.line([(*step).to_owned()].into_iter().chain(cells));
        }
        let Self { hypervisor, rootfs, program, runs, .. } = self;
        let host = self.host.describe();
        format!(
            "{host}\n{program} in containers with {rootfs}, {hypervisor}; {runs} runs\n\n{}",
            table.render()
        )
    }
}
