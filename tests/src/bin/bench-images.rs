//! Measures images: how long an import takes beside the tools that do the same, and what `mote run IMAGE` costs over
//! `mote run --rootfs`.
//!
//! The import is measured on this machine, so it is shown as a ratio: both sides run in turn, on the same files. The start is measured
//! in the lab, in virtual time. The program copies itself there and runs with `--inside`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, ensure};
use clap::Parser;
use flate2::{Compression, write::GzEncoder};
use mote_tests::lab::Lab;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The image that is imported: so many files, so many bytes.
const FILES: usize = 20_000;
const BYTES: usize = 500 << 20;
/// How often each import is measured; the best one counts, as only other work on the machine makes it slower.
const ROUNDS: usize = 3;
/// Starts in the lab.
const WARM_UP: usize = 2;
const RUNS: usize = 7;

/// Measures the import of images, and their start in the lab.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure starts here, with the `mote` in PATH.
    #[arg(long, hide = true)]
    inside: bool,
    /// The program to measure.
    #[arg(required_unless_present = "inside")]
    mote: Option<PathBuf>,
    /// The guest kernel.
    #[arg(required_unless_present = "inside")]
    vmlinux: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let (Some(mote), Some(vmlinux)) = (arguments.mote, arguments.vmlinux) else {
        starts()?;
        return Ok(ExitCode::SUCCESS);
    };
    let real = |path: &Path| fs::canonicalize(path).with_context(|| format!("{}", path.display()));
    let mote = real(&mote)?;
    imports(&mote)?;
    let lab = Lab::new()?
        .file(&mote, "/usr/bin/mote")
        .file(real(&vmlinux)?, "/usr/lib/mote/vmlinux")
        .file(std::env::current_exe()?, "/usr/bin/bench-images");
    let status = lab.run_to(&["/usr/bin/bench-images", "--inside"], &mut std::io::stdout())?;
    Ok(ExitCode::from(status))
}

/// Words and noise, half of each: about as compressible as programs are.
fn content(number: usize, length: usize) -> Vec<u8> {
    let mut state = u64::try_from(number).unwrap_or(0).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 64);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"as usual");
    }
    bytes.truncate(length);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes an OCI layout with the image, its one layer compressed with gzip.
fn make_layout(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path.join("blobs/sha256"))?;
    let mut archive = tar::Builder::new(Vec::with_capacity(BYTES + (BYTES >> 4)));
    let add = |archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes)
    };
    // Three quarters of the files are small, as in a distribution; what is left of the bytes is in large ones.
    let mut left = BYTES;
    for number in 0..FILES {
        let length = if number % 4 == 0 { 20_000 + number % 50_000 } else { number * 37 % 6000 };
        let length = if number + 10 >= FILES { left / (FILES - number) } else { length };
        left = left.saturating_sub(length);
        add(
            &mut archive,
            &format!("usr/d{}/s{}/file{number}", number % 97, number % 13),
            &content(number, length),
        )?;
    }
    let archive = archive.into_inner()?;
    let id = hex(&archive);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(&archive)?;
    let layer = encoder.finish()?;
    let blob = |media_type: &str, bytes: &[u8]| -> anyhow::Result<serde_json::Value> {
        let digest = hex(bytes);
        fs::write(path.join("blobs/sha256").join(&digest), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
    };
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{id}")] },
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let layer = blob("application/vnd.oci.image.layer.v1.tar+gzip", &layer)?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] });
    let mut manifest = blob(media_type, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    fs::write(path.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())?;
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Runs a program and returns its peak resident memory in KiB. What the kernel tells of a child that has ended is no good here: it
/// counts the memory of this process, from before the child became another program.
fn peak_memory(command: &mut Command) -> anyhow::Result<u64> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        // A process that has ended has no memory, and no such line.
        peak = now.unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{command:?} failed ({status})");
            return Ok(peak);
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<f64> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(seconds)
}

fn imports(mote: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (layout, store, bundle) =
        (folder.path().join("layout"), folder.path().join("store"), folder.path().join("bundle"));
    make_layout(&layout)?;
    let mut best: HashMap<&str, f64> = HashMap::new();
    let mut peak = 0;
    for round in 0..ROUNDS {
        let mut measured = |what: &'static str, command: &mut Command| -> anyhow::Result<()> {
            let seconds = run(command)?;
            best.entry(what).and_modify(|best| *best = best.min(seconds)).or_insert(seconds);
            Ok(())
        };
        let mut import = Command::new(mote);
        import.args(["image", "import", "--quiet", "--store"]).arg(&store).arg(&layout);
        measured("mote", &mut import)?;
        if round == 0 {
            fs::remove_dir_all(&store)?;
            peak = peak_memory(&mut import)?;
        }
        let image = format!("{}:latest", layout.display());
        measured("umoci", Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle))?;
        let mut mkfs = Command::new("mkfs.erofs");
        measured("mkfs", mkfs.arg("--quiet").arg(folder.path().join("erofs")).arg(bundle.join("rootfs")))?;
        for path in [&store, &bundle] {
            fs::remove_dir_all(path)?;
        }
    }
    let of = |what: &str| best.get(what).copied().unwrap_or(f64::NAN);
    let theirs = of("umoci") + of("mkfs");
    println!("import of {} MiB in {FILES} files, best of {ROUNDS}:", BYTES >> 20);
    println!("  mote image import                {:>8.2} s", of("mote"));
    println!(
        "  umoci unpack, mkfs.erofs         {:>8.2} s  ({:.2} + {:.2})",
        theirs,
        of("umoci"),
        of("mkfs")
    );
    print("  mote's share of that", of("mote") / theirs, 1.0, "");
    #[allow(clippy::cast_precision_loss)]
    print("  mote, peak resident memory", peak as f64 / 1024.0, 64.0, "MiB");
    Ok(())
}

/// One line of the result.
fn print(what: &str, value: f64, limit: f64, unit: &str) {
    let verdict = if value <= limit { "" } else { "  OVER" };
    println!("{what:<56} {value:>9.2} {unit:<3}  limit {limit:>7.1}{verdict}");
}

/// Compares the two ways to start, in virtual time.
fn starts() -> anyhow::Result<()> {
    // A start waits for a tick of the host's, or does not: 4 ms, which of two ways to start gets them is chance.
    run(Command::new("mount").args(["-o", "remount,favordynmods", "/sys/fs/cgroup"]))?;
    let root = Path::new("/tmp/root");
    fs::create_dir_all(root.join("bin"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", root.join("bin/true"))?;
    let passwd: String =
        (0..40).map(|number| format!("user{number}:x:{number}:{number}::/home/{number}:/bin/sh\n")).collect();
    fs::create_dir(root.join("etc"))?;
    fs::write(root.join("etc/passwd"), passwd)?;
    let store = "/tmp/store";
    run(Command::new("mote")
        .args(["image", "import", "--quiet", "--store", store])
        .arg(root)
        .arg("localhost/bench"))?;
    let images = fs::read_dir(format!("{store}/images"))?.next().context("no image was made")??;
    let mut by_file = Command::new("mote");
    by_file.args(["run", "--hypervisor", "kvm", "--rootfs"]).arg(images.path()).args(["--", "/bin/true"]);
    let mut by_name = Command::new("mote");
    by_name.args(["run", "--hypervisor", "kvm", "--store", store, "bench", "/bin/true"]);
    let median = |command: &mut Command| -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for round in 0..WARM_UP + RUNS {
            let seconds = run(command)?;
            if round >= WARM_UP {
                times.push(seconds * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        times.get(RUNS / 2).copied().context("nothing was measured")
    };
    let (file, name) = (median(&mut by_file)?, median(&mut by_name)?);
    println!("a stored image, KVM in the lab without waiting for ticks, virtual time, median of {RUNS}:");
    println!("  mote run --rootfs IMAGE.erofs    {file:>8.2} ms");
    println!("  mote run IMAGE                   {name:>8.2} ms");
    print("  the difference", name - file, 1.0, "ms");
    let size = File::open("/usr/bin/mote")?.metadata()?.len();
    #[allow(clippy::cast_precision_loss)]
    print("  mote, size of the program", size as f64 / f64::from(1 << 20), 12.0, "MiB");
    Ok(())
}
