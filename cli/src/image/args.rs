//! The command line of everything about images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mote_rootfs_builder::{Access, layer::Limits};

use crate::memory::Size;

#[derive(Debug, Args)]
pub(crate) struct ImageOptions {
    #[command(flatten)]
    pub(crate) store: StoreOptions,
    #[command(subcommand)]
    pub(crate) verb: ImageVerb,
}

/// Where images are kept.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StoreOptions {
    /// Where images are kept. Default: $MOTE_STORE, else /var/lib/mote for root and ~/.local/share/mote for others.
    #[arg(long, value_name = "FOLDER", global = true)]
    pub(crate) store: Option<PathBuf>,
}

/// How registries are spoken to.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryOptions {
    /// Insist on TLS and on certificates that this system trusts.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) tls_verify: bool,
    /// The file with credentials. Default: those of `podman login` and `docker login`.
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
}

impl RegistryOptions {
    pub(crate) fn access(&self) -> Access {
        Access { verify_tls: self.tls_verify, credentials: self.authfile.clone() }
    }
}

/// How images are unpacked.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct UnpackOptions {
    /// Show no progress.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The most that an image may unpack to. Default: 64g.
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<Size>,
    /// The most files that an image may have. Default: 4194304.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max_files: Option<u64>,
}

impl UnpackOptions {
    pub(crate) fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            bytes: self.max_size.map_or(usual.bytes, Size::bytes),
            files: self.max_files.unwrap_or(usual.files),
            ..usual
        }
    }
}

/// When an image is pulled before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    /// If it is not in the store
    Missing,
    /// Always; what is there already is not transferred again
    Always,
    /// Never
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns
    Table,
    /// An array of objects
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Get an image from its registry, and print its ID.
    Pull {
        /// As in `alpine`, `quay.io/podman/hello:latest`, `localhost:5000/x@sha256:…`.
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
        #[command(flatten)]
        registry: RegistryOptions,
        #[command(flatten)]
        unpack: UnpackOptions,
    },
    /// Make an image of an archive or a folder, and print its ID.
    ///
    /// Archives of `docker save`, `podman save`, `skopeo` and `mote image export`, and OCI layout folders, have images in them. Any
    /// other archive (plain, gzip or zstd) or folder is a root file system, and becomes an image without a command.
    Import {
        /// The archive or folder; `-` for an archive on standard input.
        source: PathBuf,
        /// What it is called. Default: what the archive says.
        name: Option<String>,
        #[command(flatten)]
        unpack: UnpackOptions,
    },
    /// List images.
    #[command(visible_alias = "ls")]
    List {
        /// Print IDs only.
        #[arg(short, long)]
        quiet: bool,
        /// How.
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: ListFormat,
    },
    /// Print all that is known of images, as JSON.
    Inspect {
        /// Names or IDs.
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
        /// How: there is only JSON.
        #[arg(long, value_name = "FORMAT", value_parser = ["json"], hide = true)]
        format: Option<String>,
    },
    /// Remove names, and images that have none left.
    #[command(visible_alias = "rm")]
    Remove {
        /// Names or IDs.
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
        /// Even if a machine runs of it, or if it has several names.
        #[arg(short, long)]
        force: bool,
    },
    /// Remove images without names, and whatever else nothing uses.
    Prune {
        /// Remove every image that no machine runs of, and what was made of folders.
        #[arg(short, long)]
        all: bool,
    },
    /// Write an image to an OCI archive.
    Export(ExportOptions),
}

#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// A name or an ID.
    #[arg(value_name = "IMAGE")]
    pub(crate) name: String,
    /// Where to, instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Show no progress.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
