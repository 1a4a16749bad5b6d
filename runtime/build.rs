//! Builds the guest agent and packs it into the initial ramdisk that `mote` carries; and the meter, which measures from within.
//!
//! The agent needs its own flags: no start files, no libraries, a fixed address. Cargo cannot give one workspace member
//! flags of its own, so it is built by a cargo of its own, in its own folder, from the same sources and lock file.

use std::{env, error::Error, fs, path::Path, process::Command};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What makes the agent a static, position-dependent program that begins at its own `_start`, and small.
const FLAGS: &[&str] = &[
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-Wl,--gc-sections,--build-id=none,-z,norelro,-z,max-page-size=4096",
];

fn main() -> Result<(), Box<dyn Error>> {
    for path in ["agent", "protocol", "initrd", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed=../{path}");
    }
    let out = env::var("OUT_DIR")?;
    let target_dir = Path::new(&out).join("agent");
    let status = Command::new(env::var("CARGO")?)
        .args(["build", "--package", "mote-agent", "--features", "guest", "--profile", "agent"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .current_dir("..")
        // Cargo and clippy pass their own wishes to build scripts; none of them are meant for the guest.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .status()?;
    if !status.success() {
        return Err(format!("building the guest agent failed: {status}").into());
    }
    let built = target_dir.join(TARGET).join("agent");
    let agent = fs::read(built.join("mote-agent"))?;
    fs::write(Path::new(&out).join("initrd.cpio"), mote_initrd::pack_agent(&agent)?)?;
    println!("cargo::rustc-env=MOTE_AGENT_SIZE={}", agent.len());
    fs::copy(built.join("mote-meter"), Path::new(&out).join("meter"))?;
    Ok(())
}
