//! A container whose guest attacks the file server: its control socket answers before, meanwhile, and after.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use mote_tests::harness::{
    Bundle, HANG, Leftovers, adopt_orphans, collect, program, reap, received, run, shell_status, text, wait,
};
use nix::{
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::hostile::GUEST;

/// What stands before the attack's name in the guest's file.
const CHOICE: &[u8] = b"attack of a container: ";

/// A bundle, and an installation of `mote` whose guest kernel is the hostile guest.
struct Hostile {
    bundle: Bundle,
    mote: PathBuf,
}

impl Hostile {
    fn new(attack: &str) -> Self {
        let bundle = Bundle::new("true");
        for name in ["rootfs", "read-only"] {
            fs::create_dir_all(bundle.path(name).join("folder")).unwrap();
            fs::write(bundle.path(name).join("file"), "shared\n").unwrap();
            symlink("../outside", bundle.path(name).join("link")).unwrap();
        }
        fs::create_dir(bundle.path("outside")).unwrap();
        fs::write(bundle.path("outside/secret"), "secret").unwrap();
        let mount = format!(
            r#""mounts": [{{"destination": "/read-only", "source": "{}", "type": "bind", "options": ["bind", "ro"]}},"#,
            text(&bundle.path("read-only"))
        );
        bundle.edit("\"mounts\": [", &mount);

        let mut guest = GUEST.to_vec();
        let at = guest.windows(CHOICE.len()).position(|bytes| bytes == CHOICE).unwrap() + CHOICE.len();
        guest[at..at + attack.len()].copy_from_slice(attack.as_bytes());
        let [bin, lib] = ["installed/bin", "installed/lib/mote"].map(|folder| bundle.path(folder));
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("vmlinux"), guest).unwrap();
        fs::set_permissions(lib.join("vmlinux"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::copy(program(), bin.join("mote")).unwrap();
        let mote = bin.join("mote");
        Self { bundle, mote }
    }

    fn call(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.mote);
        command.args(self.bundle.command(arguments).get_args());
        command
    }

    /// What the control socket says, or `None` if there is no container yet.
    fn state(&self) -> Option<Value> {
        let output = run(&mut self.call(&["state", "c"]), b"");
        if output.stderr.contains("does not exist") {
            return None;
        }
        let state: Value = serde_json::from_str(&output.text()).unwrap();
        // With a sandbox process that is alive but does not answer, it would be another one.
        assert_eq!(state["status"], "creating", "{output:?}");
        Some(state)
    }
}

fn answers_during(attack: &str) {
    adopt_orphans();
    let before = Leftovers::before();
    let hostile = Hostile::new(attack);
    let at = |name: &str| hostile.bundle.path(name);
    let mut create = hostile.call(&["create", "--bundle", &text(&at("")), "c"]);
    // Few enough that a guest comes to the end of them.
    // SAFETY: the closure makes one system call between fork and exec.
    unsafe { create.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_NOFILE, 512, 512)?)) };
    create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut create = create.spawn().unwrap();
    let end = Instant::now() + HANG;
    let not_hanging = |what: &str| assert!(Instant::now() < end, "{what}");

    let state = loop {
        not_hanging("there is no container");
        if let Some(state) = hostile.state() {
            break state;
        }
    };
    fs::write(at("rootfs/go"), "").unwrap();
    let mut answers = 0;
    while !fs::exists(at("rootfs/done")).unwrap() {
        not_hanging("the attack does not end");
        assert_eq!(hostile.state().as_ref(), Some(&state));
        answers += 1;
    }
    assert_eq!(hostile.state().as_ref(), Some(&state));
    println!("{answers} answers meanwhile");
    assert_eq!(fs::read_to_string(at("outside/secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(at("read-only/file")).unwrap(), "shared\n");

    // The guest never gets any further, so `create` is still at it.
    kill(Pid::from_raw(i32::try_from(create.id()).unwrap()), Signal::SIGTERM).unwrap();
    let said = received(&collect(create.stderr.take()));
    assert_eq!(shell_status(wait(&mut create)), 128 + 15, "{}", String::from_utf8_lossy(&said));
    reap(u32::try_from(state["pid"].as_u64().unwrap()).unwrap());
    let deleted = run(&mut hostile.call(&["delete", "--force", "c"]), b"");
    assert_eq!(deleted.status, 0, "{deleted:?}");
    assert_eq!(fs::read_dir(at("state")).unwrap().count(), 0);
    drop(hostile);
    before.check();
}

macro_rules! attacks {
    ($($name:ident: $attack:literal;)+) => {
        $(
            #[test]
            fn $name() {
                answers_during($attack);
            }
        )+
    };
}

attacks! {
    requests_with_lying_lengths: "fs-lengths";
    requests_before_hello_and_hello_again: "fs-before-hello";
    requests_about_nobody: "fs-nobody";
    names_that_lead_out: "fs-names";
    changes_of_a_read_only_share: "fs-read-only";
    links_where_folders_were: "fs-links";
    positions_that_cannot_be: "fs-positions";
    files_that_are_never_closed: "fs-open-for-ever";
    a_storm_of_forgets: "fs-forgets";
}
