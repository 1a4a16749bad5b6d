//! The command line of `mote bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{args::HypervisorName, memory::MemorySize};

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// What is measured.
    #[command(subcommand)]
    pub(crate) what: BenchVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// How long a machine takes to start, phase by phase; with --vs, beside other VMMs and runtimes.
    #[command(after_long_help = BOOT_HELP)]
    Boot(BootOptions),
    /// What a machine weighs, and what each further one adds.
    Memory(MemoryOptions),
    /// How fast bytes go in and out: vsock, standard streams, the disk, a shared folder.
    Io(IoOptions),
    /// How long a container takes from its creation to its removal, and one more process in it.
    Container(ContainerOptions),
}

const BOOT_HELP: &str = "\
Lists (of --memory, --cpus, --kernel, --hypervisor) are separated by commas; every combination is measured, in turns.

Examples:
  mote bench boot
  mote bench boot --cpus 1,2,8 --memory 128m,1g --html boot.html
  mote bench boot --vs \"podman=podman run --rm alpine echo READY\" --marker READY";

/// How results are shown.
#[derive(Debug, Args)]
pub(crate) struct OutputOptions {
    /// Print the results as JSON, and nothing else, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BootOptions {
    /// How many starts are measured, for each machine.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) runs: u32,
    /// How many starts go before, and are not counted.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) warm_up: u32,
    /// How many machines start at the same time.
    #[arg(short = 'p', long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) parallel: u32,
    /// How much memory the machine has.
    #[arg(short, long, value_name = "SIZES", value_delimiter = ',', default_value = "128m")]
    pub(crate) memory: Vec<MemorySize>,
    /// How many virtual CPUs.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u8).range(1..=i64::from(mote_vmm::MAX_VCPUS)))]
    pub(crate) cpus: Vec<u8>,
    /// The guest kernel. Default: the one that was built with Mote.
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    pub(crate) kernel: Vec<PathBuf>,
    /// What runs the machine.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "auto")]
    pub(crate) hypervisor: Vec<HypervisorName>,
    /// Measure another VMM or runtime in turns with Mote: NAME=COMMAND, which a shell runs. May be given more than once.
    ///
    /// Its start counts until its output shows the text of --marker. Then it gets SIGTERM, and five seconds later SIGKILL, it and
    /// whatever is left of its process group. Mote itself then prints the text from its guest, and is measured in the same way.
    #[arg(long, value_name = "NAME=COMMAND", requires = "marker", value_parser = parse_rival)]
    pub(crate) vs: Vec<Rival>,
    /// The text in the output that says that a start is complete.
    #[arg(long, value_name = "TEXT", requires = "vs", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) marker: Option<String>,
    /// How many seconds one start may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Write the results to FILE as one page, with charts.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

#[derive(Debug, Args)]
pub(crate) struct MemoryOptions {
    /// How many machines there are at the same time, each number a line of the result.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1,10,50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) vms: Vec<u32>,
    /// How much memory each has: a number with b, k, m or g; at least 32m.
    #[arg(short, long, value_name = "SIZE", default_value = "128m")]
    pub(crate) memory: MemorySize,
    /// How many virtual CPUs each has, 1 to 32.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(mote_vmm::MAX_VCPUS)))]
    pub(crate) cpus: u8,
    /// The guest kernel. Default: the one that was built with Mote.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// What runs the machines.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) hypervisor: HypervisorName,
    /// How many seconds one start may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

#[derive(Debug, Args)]
pub(crate) struct IoOptions {
    /// How many times each transfer is measured.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// How much is transferred each time, and how large the disk is: at least 1m.
    #[arg(long, value_name = "SIZE", default_value = "64m", value_parser = parse_size)]
    pub(crate) size: u64,
    /// How much one system call transfers: a power of two from 4k to 1m.
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = parse_call)]
    pub(crate) call: u32,
    /// How many round trips, and reads in random order, are measured.
    #[arg(long, value_name = "NUMBER", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub(crate) samples: u32,
    /// How many folders `find` walks over, with 100 files each.
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) folders: u32,
    /// How much memory the machine has: a number with b, k, m or g; at least 32m.
    #[arg(short, long, value_name = "SIZE", default_value = "256m")]
    pub(crate) memory: MemorySize,
    /// How many virtual CPUs, 1 to 32.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(mote_vmm::MAX_VCPUS)))]
    pub(crate) cpus: u8,
    /// The guest kernel. Default: the one that was built with Mote.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// What runs the machine.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) hypervisor: HypervisorName,
    /// How many seconds the measurements in one machine may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ContainerOptions {
    /// How many containers, and processes in a container, are measured.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) runs: u32,
    /// How many go before, and are not counted.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) warm_up: u32,
    /// The root of the containers: a folder, which is not changed.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub(crate) rootfs: PathBuf,
    /// The program: a file in that folder that ends at once. Beside it, there has to be /bin/sleep.
    #[arg(long, value_name = "FILE", default_value = "/bin/true")]
    pub(crate) program: String,
    /// What runs the machines.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) hypervisor: HypervisorName,
    /// How many seconds each command may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

/// Another VMM or runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rival {
    pub(crate) name: String,
    /// For a shell.
    pub(crate) command: String,
}

fn parse_rival(text: &str) -> Result<Rival, String> {
    match text.split_once('=') {
        Some((name, command)) if !name.trim().is_empty() && !command.trim().is_empty() => {
            Ok(Rival { name: name.trim().to_owned(), command: command.to_owned() })
        }
        _ => Err("write NAME=COMMAND, as in runc='runc run --bundle b x'".into()),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    const MOST: u64 = 64 << 30;
    match crate::memory::parse(text) {
        Some(size) if (1 << 20..=MOST).contains(&size) && size.is_multiple_of(1 << 20) => Ok(size),
        _ => Err("write a whole number of MiB from 1m to 64g, as in 64m".into()),
    }
}

fn parse_call(text: &str) -> Result<u32, String> {
    match crate::memory::parse(text).and_then(|size| u32::try_from(size).ok()) {
        Some(size) if (4096..=1 << 20).contains(&size) && size.is_power_of_two() => Ok(size),
        _ => Err("write a power of two from 4k to 1m, as in 64k".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Arguments, Verb};

    fn bench(arguments: &[&str]) -> Result<BenchVerb, clap::Error> {
        Arguments::try_parse_from(["mote", "bench"].iter().chain(arguments)).map(|parsed| match parsed.verb {
            Verb::Bench(options) => options.0.what,
            other => panic!("{other:?}"),
        })
    }

    fn boot(arguments: &[&str]) -> Result<BootOptions, clap::Error> {
        bench(&[&["boot"], arguments].concat()).map(|verb| match verb {
            BenchVerb::Boot(options) => options,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn lists_are_swept() {
        let options = boot(&["--cpus", "1,2,8", "--memory", "128m,4g", "--hypervisor", "kvm,qemu"]).unwrap();
        assert_eq!(options.cpus, [1, 2, 8]);
        assert_eq!(options.memory.iter().map(|size| size.bytes() >> 20).collect::<Vec<_>>(), [128, 4096]);
        assert_eq!(options.hypervisor, [HypervisorName::Kvm, HypervisorName::Qemu]);
        for bad in ["0", "1,33", "1,,2", ""] {
            assert!(boot(&["--cpus", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_measured_zero_times() {
        assert!(boot(&["--runs", "0"]).is_err());
        assert!(boot(&["--parallel", "0"]).is_err());
        assert!(boot(&["--limit", "0"]).is_err());
        assert_eq!(boot(&["--warm-up", "0"]).unwrap().warm_up, 0);
        assert!(bench(&["io", "--runs", "0"]).is_err());
        assert!(bench(&["io", "--samples", "0"]).is_err());
        assert!(bench(&["memory", "--vms", "1,0"]).is_err());
    }

    #[test]
    fn a_rival_has_a_name_a_command_and_a_marker() {
        let options = boot(&["--vs", "a=echo x=y", "--vs", "b=true", "--marker", "x"]).unwrap();
        assert_eq!(options.vs[0], Rival { name: "a".into(), command: "echo x=y".into() });
        assert_eq!(options.vs.len(), 2);
        assert!(boot(&["--vs", "a=true"]).is_err(), "without a marker");
        assert!(boot(&["--marker", "x"]).is_err(), "without a rival");
        assert!(boot(&["--vs", "a=true", "--marker", ""]).is_err());
        for bad in ["a", "=true", "a=", " = "] {
            assert!(boot(&["--vs", bad, "--marker", "x"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_those_that_can_be_measured() {
        for (size, call) in [("1m", "4k"), ("64m", "64k"), ("1g", "1m")] {
            assert!(bench(&["io", "--size", size, "--call", call]).is_ok(), "{size} {call}");
        }
        for bad in ["0", "1k", "1500k", "65g", "x"] {
            assert!(bench(&["io", "--size", bad]).is_err(), "{bad}");
        }
        for bad in ["0", "512", "2m", "5000", "x"] {
            assert!(bench(&["io", "--call", bad]).is_err(), "{bad}");
        }
    }
}
