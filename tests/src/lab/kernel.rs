//! L1's kernel: Debian's own, taken from the package archive once per user and kept in a cache folder.
//!
//! The cache, `$XDG_CACHE_HOME/mote/lab`, has one folder per package version, named by a hash of it, with `vmlinux`,
//! `modules/` and the module of [`repair`]. `current-HASH` points to the one in use and stays there, so that times measured
//! in the lab stay comparable; remove it to take up the distribution's newest kernel. A folder is filled under another name
//! and then renamed, with `lock` held: a folder that exists is complete.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::error::{Error, Result};
use super::{payload, repair, tools};

/// The package that depends on the newest kernel of the right kind.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// What the name of the kernel's package starts and ends with.
const PACKAGE: (&str, &str) = ("linux-image-6.1.", "-cloud-amd64");
/// Goes into the hash: count up when the layout of a cached folder changes.
const LAYOUT: u32 = 2;

/// The files of a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// The uncompressed kernel.
    pub(crate) vmlinux: PathBuf,
    /// The folder `/lib/modules/VERSION` of its package.
    pub(crate) modules: PathBuf,
    /// The module that works around QEMU's fault.
    pub(crate) repair: PathBuf,
}

impl Kernel {
    /// The cached kernel, which is fetched if there is none.
    pub(crate) fn locate() -> Result<Self> {
        let cache = cache_folder()?;
        let current = cache.join(format!("current-{:016x}", hash(&[])));
        if !current.exists() {
            fs::create_dir_all(&cache).map_err(Error::io("make the cache folder", &cache))?;
            let path = cache.join("lock");
            let file = File::create(&path).map_err(Error::io("create", &path))?;
            let _lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| Error::io("lock", &path)(io::Error::from(errno)))?;
            // Another process may have done it while this one waited for the lock.
            if !current.exists() {
                fetch(&cache, &current)?;
            }
        }
        Ok(Self {
            vmlinux: current.join("vmlinux"),
            modules: current.join("modules"),
            repair: current.join(format!("{}.ko", repair::NAME)),
        })
    }
}

/// A number for everything that decides what a cached folder holds.
fn hash(package: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (LAYOUT, repair::SOURCE, package).hash(&mut hasher);
    hasher.finish()
}

fn cache_folder() -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("mote/lab"))
        .ok_or_else(|| Error::Kernel {
            reason: "set HOME or XDG_CACHE_HOME: it is kept in a cache folder".to_owned(),
        })
}

/// Fills the folder of the distribution's kernel and points `current` to it.
fn fetch(cache: &Path, current: &Path) -> Result<()> {
    let (package, version) = match candidate() {
        Ok(found) => found,
        Err(_) => {
            eprintln!(
                "lab: no package {META_PACKAGE} in apt's lists, updating them with apt-get update (once)"
            );
            tools::output("apt-get", "apt", &["-q", "update"], Path::new("/"), &[])?;
            candidate()?
        }
    };
    let name = format!("{version}-{:016x}", hash(&[&package, &version]));
    let folder = cache.join(&name);
    if !folder.exists() {
        eprintln!(
            "lab: fetching {package} {version}, the kernel that the lab boots, into {} (once)",
            folder.display()
        );
        let work = tempfile::tempdir_in(cache).map_err(Error::io("make a folder in", cache))?;
        unpack(&package, &version, work.path())?;
        fs::rename(work.path().join("kernel"), &folder).map_err(Error::io("create", &folder))?;
    }
    let link = cache.join("current.new");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &link)(error));
        }
        _ => {}
    }
    symlink(&name, &link).map_err(Error::io("create", &link))?;
    fs::rename(&link, current).map_err(Error::io("create", current))
}

/// Name and version of the package that the meta package depends on.
fn candidate() -> Result<(String, String)> {
    let show = |package: &str| {
        tools::output("apt-cache", "apt", &["show", "--no-all-versions", package], Path::new("/"), &[])
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let meta = show(META_PACKAGE)?;
    let package = field(&meta, "Depends")
        .into_iter()
        .flat_map(|depends| depends.split(','))
        .filter_map(|one| one.split_whitespace().next())
        .find(|name| name.starts_with(PACKAGE.0) && name.ends_with(PACKAGE.1))
        .ok_or_else(|| Error::Kernel {
            reason: format!(
                "{META_PACKAGE} depends on no {}*{}: Debian 12's archive has it",
                PACKAGE.0, PACKAGE.1
            ),
        })?;
    let version = field(&show(package)?, "Version")
        .map(str::to_owned)
        .ok_or_else(|| Error::Kernel { reason: format!("apt-cache shows no version of {package}") })?;
    Ok((package.to_owned(), version))
}

/// The value of a field in a paragraph of package data.
fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Downloads the package into `work` and makes the folder `work/kernel` of it.
fn unpack(package: &str, version: &str, work: &Path) -> Result<()> {
    tools::output("apt-get", "apt", &["-q", "download", &format!("{package}={version}")], work, &[])?;
    let deb = entry(work, |name| name.starts_with(package) && name.ends_with(".deb"))?;
    tools::output("dpkg-deb", "dpkg", &["-x", &deb.to_string_lossy(), "tree"], work, &[])?;
    let vmlinuz = entry(&work.join("tree/boot"), |name| name.starts_with("vmlinuz"))?;
    let modules = entry(&work.join("tree/lib/modules"), |_| true)?;
    let bytes = fs::read(&vmlinuz).map_err(Error::io("read", &vmlinuz))?;
    let folder = work.join("kernel");
    fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
    let vmlinux = folder.join("vmlinux");
    fs::write(&vmlinux, payload::extract(&bytes, &vmlinuz)?).map_err(Error::io("write", &vmlinux))?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    fs::rename(&modules, folder.join("modules")).map_err(Error::io("move", &modules))?;
    repair::build(&release, version, work)?;
    let module = format!("{}.ko", repair::NAME);
    fs::rename(work.join(&module), folder.join(&module)).map_err(Error::io("move", &work.join(&module)))
}

/// The first entry of `folder` whose name is `wanted`.
pub(crate) fn entry(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let entry = entry.map_err(Error::io("read the folder", folder))?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            return Ok(entry.path());
        }
    }
    Err(Error::Kernel { reason: format!("the package has not the expected file in {}", folder.display()) })
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let paragraph = "Package: a\nPre-Depends: x\nDepends: b (= 1), c\nVersion: 6.1-2\n";
        assert_eq!(field(paragraph, "Depends"), Some("b (= 1), c"));
        assert_eq!(field(paragraph, "Version"), Some("6.1-2"));
        assert_eq!(field(paragraph, "Size"), None);
    }
}
