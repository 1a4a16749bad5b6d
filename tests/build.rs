//! Builds the guest that attacks its host (`tests/guest`), for the end-to-end tests to carry with them.
//!
//! It needs its own flags, as the agent does (`runtime/build.rs`): no start files, no libraries, a fixed address.

use std::{env, error::Error, fs, path::Path, process::Command};

const TARGET: &str = "x86_64-unknown-linux-gnu";

const FLAGS: &[&str] = &[
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    // Where a kernel lies: above what the loader puts below 1 MiB.
    "-Clink-arg=-Wl,--image-base=0x200000,--build-id=none,-z,norelro,-z,max-page-size=4096,-z,noexecstack",
];

fn main() -> Result<(), Box<dyn Error>> {
    for path in ["guest", "../Cargo.toml", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = env::var("OUT_DIR")?;
    let target_dir = Path::new(&out).join("guest");
    let status = Command::new(env::var("CARGO")?)
        .args(["build", "--package", "mote-hostile-guest", "--features", "guest", "--profile", "agent"])
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
        return Err(format!("building the hostile guest failed: {status}").into());
    }
    fs::copy(target_dir.join(TARGET).join("agent/hostile-guest"), Path::new(&out).join("hostile-guest"))?;
    Ok(())
}
