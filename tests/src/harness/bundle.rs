//! A bundle, and containers of it, as an engine would have them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
};

use super::{HANG, Output, hypervisor, process_ended, program, run, temporary, text};

/// What busybox is called by in a bundle's root.
const NAMES: [&str; 14] =
    ["sh", "cat", "echo", "id", "kill", "ls", "sleep", "stty", "true", "tty", "touch", "head", "yes", "ps"];

/// A bundle whose root has busybox in it, and a folder for the state of its containers.
#[derive(Debug)]
pub struct Bundle {
    folder: tempfile::TempDir,
}

impl Bundle {
    /// A bundle with `mote spec`'s configuration, but without a terminal, whose program is `sh -c SCRIPT`.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new(script: &str) -> Self {
        let folder = temporary();
        let bin = folder.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap_or_else(|error| panic!("{}: {error}", bin.display()));
        for name in ["etc", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(folder.path().join("rootfs").join(name))
                .unwrap_or_else(|error| panic!("{error}"));
        }
        let busybox = bin.join("busybox");
        fs::copy("/bin/busybox", &busybox).unwrap_or_else(|error| panic!("/bin/busybox: {error}"));
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|error| panic!("{error}"));
        for name in NAMES {
            symlink("busybox", bin.join(name)).unwrap_or_else(|error| panic!("{error}"));
        }
        let bundle = Self { folder };
        let output = bundle.mote(&["spec", "--bundle", &text(bundle.folder.path())]);
        assert_eq!(output.status, 0, "{output:?}");
        bundle.edit("\"terminal\": true", "\"terminal\": false");
        let script = script.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        bundle.edit("\"args\": [\n      \"sh\"\n    ]", &format!("\"args\": [\"sh\", \"-c\", \"{script}\"]"));
        bundle.edit("\"readonly\": true", "\"readonly\": false");
        bundle
    }

    /// Replaces a part of `config.json`, which must be there.
    ///
    /// # Panics
    /// It is not.
    pub fn edit(&self, old: &str, new: &str) {
        let path = self.path("config.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text.contains(old), "no {old} in {text}");
        fs::write(&path, text.replacen(old, new, 1)).unwrap_or_else(|error| panic!("{error}"));
    }

    /// A path in the bundle's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A call of `mote` for containers of this bundle.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(["--container-hypervisor", &hypervisor()])
            .args(arguments);
        command
    }

    /// Calls `mote`.
    #[must_use]
    pub fn mote(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), b"")
    }

    /// Calls `mote`, which must succeed; returns what it printed.
    ///
    /// # Panics
    /// It failed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.mote(arguments);
        assert_eq!(output.status, 0, "{arguments:?}: {output:?}");
        output.text()
    }

    /// Creates a container; its output goes to the file `ID.out`. Returns the process that stands for it, whose parent is the test
    /// program once [`adopt_orphans`] was called.
    ///
    /// # Panics
    /// It failed.
    #[must_use]
    pub fn create(&self, id: &str) -> u32 {
        let output = self.create_with(id, &[]);
        assert_eq!(output.0, 0, "{}", output.1);
        self.pid(&format!("{id}.pid"))
    }

    /// `create` with options; its status and what it had to say.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn create_with(&self, id: &str, options: &[&str]) -> (i32, String) {
        let file = |name: &str| {
            let path = self.path(&format!("{id}.{name}"));
            fs::File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let pid_file = self.path(&format!("{id}.pid"));
        let mut child = self
            .command(&["create", "--bundle", &text(self.folder.path()), "--pid-file", &text(&pid_file)])
            .args(options)
            .arg(id)
            .stdin(std::process::Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap_or_else(|error| panic!("create: {error}"));
        let status = super::shell_status(super::wait(&mut child));
        (status, fs::read_to_string(self.path(&format!("{id}.err"))).unwrap_or_default())
    }

    /// What the container has printed.
    #[must_use]
    pub fn output(&self, id: &str) -> String {
        fs::read_to_string(self.path(&format!("{id}.out"))).unwrap_or_default()
    }

    /// The number in a pid file.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn pid(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        text.parse().unwrap_or_else(|_| panic!("{name}: {text:?}"))
    }

    /// The word that `state` has for how a container is.
    ///
    /// # Panics
    /// There is no such container.
    #[must_use]
    pub fn status(&self, id: &str) -> String {
        let state = self.ok(&["state", id]);
        let (_, rest) = state.split_once("\"status\": \"").unwrap_or_else(|| panic!("{state}"));
        rest.split('"').next().unwrap_or_default().to_owned()
    }
}

/// Makes the test program the parent of orphans below it, as engines do with themselves.
///
/// # Panics
/// The kernel refuses.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).unwrap_or_else(|error| panic!("subreaper: {error}"));
}

/// Waits for a process that was adopted; its status as a shell shows it.
///
/// # Panics
/// It does not end, or is not ours.
#[must_use]
pub fn reap(pid: u32) -> i32 {
    use nix::sys::wait::{WaitStatus, waitpid};
    assert!(process_ended(pid, HANG), "process {pid} hung");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(0));
    match waitpid(pid, None).unwrap_or_else(|error| panic!("wait for {pid}: {error}")) {
        WaitStatus::Exited(_, status) => status,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}
