//! `mote image`: the verbs about images, and what they print.

pub(crate) mod args;
mod interrupt;
mod print;
mod progress;

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use mote_rootfs_builder::{Error, Image, Job, Name, Removed, Rootfs, Source, Store};

use crate::{
    args::LogOptions,
    image::{
        args::{
            ExportOptions, ImageOptions, ImageVerb, ListFormat, PullPolicy, RegistryOptions, StoreOptions,
            UnpackOptions,
        },
        interrupt::Interrupt,
        progress::Shown,
    },
    report,
};

/// Carries out one verb.
pub(crate) fn image(options: ImageOptions, log: &LogOptions) -> ExitCode {
    match carry_out(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = error.downcast_ref::<Interrupted>().map(|interrupted| 128 + interrupted.0);
            let failed = report::failed(&error, log.debug);
            status.map_or(failed, ExitCode::from)
        }
    }
}

/// A signal wanted it to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted(pub(crate) u8);

fn carry_out(options: ImageOptions) -> anyhow::Result<()> {
    let store = open(&options.store)?;
    match options.verb {
        ImageVerb::Pull { names, registry, unpack } => {
            for name in names {
                let image = pull(&store, &name, &registry, &unpack)?;
                println!("{}", image.id().hex());
            }
        }
        ImageVerb::Import { source, name, unpack } => {
            let source = if source == Path::new("-") { Source::Stdin } else { Source::Path(source) };
            let name = name.as_deref().map(Name::parse_local).transpose()?;
            let images = work(&unpack, |job| store.import(&source, name.as_ref(), job))?;
            for image in images {
                println!("{}", image.id().hex());
            }
        }
        ImageVerb::List { quiet, format } => match format {
            _ if quiet => store.images()?.iter().for_each(|image| println!("{}", image.id().short())),
            ListFormat::Table => print!("{}", print::table(&store.images()?)),
            ListFormat::Json => print!("{}", print::list(&store.images()?)?),
        },
        ImageVerb::Inspect { names, .. } => {
            let images = names.iter().map(|name| store.find(name)).collect::<Result<Vec<_>, _>>()?;
            print!("{}", print::inspect(&images)?);
        }
        ImageVerb::Remove { names, force } => {
            for name in names {
                print_removed(&store.remove(&name, force)?);
            }
        }
        ImageVerb::Prune { all } => {
            let removed = store.prune(all)?;
            print_removed(&removed);
            println!("Freed: {}", print::size(removed.freed));
        }
        ImageVerb::Export(options) => export(&store, &options)?,
    }
    Ok(())
}

fn print_removed(removed: &Removed) {
    for name in &removed.untagged {
        println!("Untagged: {name}");
    }
    for id in &removed.deleted {
        println!("Deleted: {}", id.hex());
    }
}

/// The store that is meant.
pub(crate) fn open(options: &StoreOptions) -> Result<Store, Error> {
    let location = options.store.clone().or_else(|| std::env::var_os("MOTE_STORE").map(Into::into));
    Store::open(match location {
        Some(location) => location,
        None => Store::default_location()?,
    })
}

/// Does something that takes long: shows how far it is, and stops it when a signal wants that.
fn work<T>(options: &UnpackOptions, work: impl FnOnce(&Job<'_>) -> Result<T, Error>) -> anyhow::Result<T> {
    let interrupt = Interrupt::watch().context("cannot watch for signals")?;
    let shown = Shown::new(options.quiet);
    let job = Job { limits: options.limits(), progress: &shown, stop: Some(interrupt.as_fd()) };
    match work(&job) {
        Err(Error::Interrupted) => Err(Interrupted(interrupt.signal()).into()),
        result => Ok(result?),
    }
}

fn pull(
    store: &Store,
    name: &str,
    registry: &RegistryOptions,
    unpack: &UnpackOptions,
) -> anyhow::Result<Image> {
    let name = Name::parse(name)?;
    if !unpack.quiet {
        eprintln!("Pulling {name}");
    }
    work(unpack, |job| store.pull(&name, &registry.access(), job))
}

fn export(store: &Store, options: &ExportOptions) -> anyhow::Result<()> {
    let image = store.find(&options.name)?;
    let unpack = UnpackOptions { quiet: options.quiet, ..UnpackOptions::default() };
    match &options.output {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            let result = work(&unpack, |job| store.export(&image, file, job));
            if result.is_err() {
                // Half an archive is of no use.
                let _ = std::fs::remove_file(path);
            }
            result
        }
        None => {
            anyhow::ensure!(
                !io::stdout().is_terminal(),
                "an archive is nothing for a terminal: name a file with --output"
            );
            let mut out = io::stdout().lock();
            work(&unpack, |job| store.export(&image, &mut out, job))?;
            out.flush().context("cannot write the archive")
        }
    }
}

/// The image `name` and its root file system: from the store, or else, as `policy` says, from its registry.
pub(crate) fn provide(
    store: &Store,
    name: &str,
    policy: PullPolicy,
    registry: &RegistryOptions,
    unpack: &UnpackOptions,
) -> anyhow::Result<(Image, Rootfs)> {
    let found = match policy {
        PullPolicy::Always => None,
        PullPolicy::Missing | PullPolicy::Never => match store.find(name) {
            Ok(image) => Some(image),
            Err(Error::NoSuchImage { .. }) if policy == PullPolicy::Missing => None,
            Err(error) => return Err(error.into()),
        },
    };
    let image = match found {
        Some(image) => image,
        None => pull(store, name, registry, unpack)?,
    };
    // There since it was pulled, unless somebody removed it; then it is made again.
    let rootfs = match store.ready(&image)? {
        Some(rootfs) => rootfs,
        None => work(unpack, |job| store.rootfs(&image, job))?,
    };
    Ok((image, rootfs))
}
