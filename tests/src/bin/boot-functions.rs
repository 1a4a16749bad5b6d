//! `boot-functions`: prints the functions of the guest's kernel that a boot needs, one a line, sorted: `kernel/boot-functions.txt`.
//!
//! Those are the ones that run, from the first instruction to the end of `mote run -- true` in the lab; and those that the kernel patches
//! while it boots, whether they run or not, because each page that is written to becomes the guest's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::Parser;
use mote_tests::lab::Lab;

/// Prints the functions of the guest's kernel that a boot runs or patches.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program.
    mote: PathBuf,
    /// The guest kernel; its `System.map` lies beside it.
    vmlinux: PathBuf,
    /// The default root file system.
    rootfs: PathBuf,
}

/// What the linker calls the ends of the kernel's text.
const TEXT: (&str, &str) = ("_text", "_etext");
/// The table of what is patched: its ends, and the size of an entry, which begins with the distance from itself to its place.
const PATCHED: (&str, &str, usize) = ("__alt_instructions", "__alt_instructions_end", 14);

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let vmlinux = fs::canonicalize(&arguments.vmlinux).context("the guest kernel")?;
    let symbols = Symbols::read(&vmlinux.with_file_name("System.map"))?;
    let mut places = run(&arguments, &symbols)?;
    places.extend(patched(&fs::read(&vmlinux)?, &symbols)?);
    let functions: BTreeSet<&str> = places.iter().filter_map(|place| symbols.function(*place)).collect();
    for function in functions {
        println!("{function}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The symbols of a kernel.
struct Symbols {
    all: BTreeMap<String, u64>,
    functions: BTreeMap<u64, String>,
}

impl Symbols {
    fn read(map: &Path) -> anyhow::Result<Self> {
        let map = fs::read_to_string(map).with_context(|| map.display().to_string())?;
        let mut symbols = Self { all: BTreeMap::new(), functions: BTreeMap::new() };
        for line in map.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let address = u64::from_str_radix(address, 16).context("an address in System.map")?;
            symbols.all.insert(name.to_owned(), address);
            if "tTwW".contains(kind) {
                symbols.functions.insert(address, name.to_owned());
            }
        }
        Ok(symbols)
    }

    fn address(&self, name: &str) -> anyhow::Result<u64> {
        self.all.get(name).copied().with_context(|| format!("System.map has no {name}"))
    }

    /// What is at this place of the kernel's text.
    fn function(&self, place: u64) -> Option<&str> {
        let text = self.address(TEXT.0).ok()?..self.address(TEXT.1).ok()?;
        let (_, name) = self.functions.range(..=place).next_back()?;
        text.contains(&place).then_some(name)
    }
}

/// The instructions that a boot runs.
fn run(arguments: &Arguments, symbols: &Symbols) -> anyhow::Result<Vec<u64>> {
    let log = tempfile::NamedTempFile::new()?;
    let status = Lab::new()?
        .file(fs::canonicalize(&arguments.mote)?, "/usr/bin/mote")
        .file(fs::canonicalize(&arguments.vmlinux)?, "/usr/lib/mote/vmlinux")
        .file(fs::canonicalize(&arguments.rootfs)?, "/usr/lib/mote/rootfs.erofs")
        .log_code(symbols.address(TEXT.0)?..=symbols.address(TEXT.1)?, log.path())
        .run_to(&["mote", "run", "--hypervisor", "kvm", "--", "true"], &mut std::io::stderr())?;
    ensure!(status == 0, "the guest ended with status {status}");
    let log = fs::read(log.path())?;
    let lines = log.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"0x"));
    let address = |line: &[u8]| u64::from_str_radix(str::from_utf8(line.get(..16)?).ok()?, 16).ok();
    Ok(lines.filter_map(address).collect())
}

/// The places that the kernel patches while it boots.
fn patched(vmlinux: &[u8], symbols: &Symbols) -> anyhow::Result<Vec<u64>> {
    let (start, end, size) = PATCHED;
    let place = |entry: u64| {
        let bytes = offset(vmlinux, entry).and_then(|at| vmlinux.get(at..at + 4)?.try_into().ok());
        let distance = i32::from_le_bytes(bytes.context("a table that lies outside of the kernel's file")?);
        Ok(entry.wrapping_add_signed(distance.into()))
    };
    (symbols.address(start)?..symbols.address(end)?).step_by(size).map(place).collect()
}

/// Where an ELF file has what is loaded to this address.
fn offset(file: &[u8], address: u64) -> Option<usize> {
    const LOAD: u64 = 1;
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(file.get(at..at.checked_add(len)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    let headers = usize::try_from(number(0x20, 8)?).ok()?;
    let count = usize::try_from(number(0x38, 2)?).ok()?;
    (0..count).find_map(|index| {
        let header = headers + index * 56;
        let (kind, start) = (number(header, 4)? & 0xffff_ffff, number(header + 8, 8)?);
        let (from, len) = (number(header + 16, 8)?, number(header + 32, 8)?);
        let inside = kind == LOAD && address >= from && address - from < len;
        inside.then(|| usize::try_from(start + (address - from)).ok()).flatten()
    })
}
