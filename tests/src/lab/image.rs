//! L1's ramdisk: collects what goes into it, and packs it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mote_initrd::Archive;

use super::error::{Error, Result};
use super::{elf, guest_path};

/// Debian's place for the static busybox that L1's userland is.
const BUSYBOX: &str = "/bin/busybox";
/// Folders that L1 has in any case.
const FOLDERS: [&str; 15] = [
    "bin",
    "dev",
    "etc",
    "lab",
    "lab/modules",
    "lab/root",
    "mnt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "var",
];
/// Permissions of a folder that is there because something lies in it.
const FOLDER_MODE: u32 = 0o755;

enum Node {
    Folder(u32),
    File(u32, Vec<u8>),
    Link(Vec<u8>),
}

/// A ramdisk that is being collected. A path that is added twice is what it was added as last.
pub(crate) struct Image {
    /// Sorted by path, so every folder comes before what lies in it.
    nodes: BTreeMap<Vec<u8>, Node>,
    /// How many modules there are: their file names start with their place in the order of loading.
    modules: usize,
}

impl Image {
    /// L1's userland: busybox, the empty folders, and root's entry in the user database.
    pub(crate) fn new() -> Result<Self> {
        let mut image = Self { nodes: BTreeMap::new(), modules: 0 };
        for folder in FOLDERS {
            image.nodes.insert(folder.into(), Node::Folder(FOLDER_MODE));
        }
        let busybox = match fs::read(BUSYBOX) {
            Ok(bytes) if elf::kind(&bytes) == elf::Kind::Static => bytes,
            _ => {
                return Err(Error::NoProgram {
                    program: BUSYBOX.to_owned(),
                    package: "busybox-static".to_owned(),
                });
            }
        };
        image.add(b"bin/busybox", Node::File(0o755, busybox));
        image.add(b"etc/passwd", Node::File(0o644, b"root:x:0:0:root:/root:/bin/sh\n".to_vec()));
        image.add(b"etc/group", Node::File(0o644, b"root:x:0:\n".to_vec()));
        Ok(image)
    }

    /// Adds a module; they are loaded in the order in which they were added.
    pub(crate) fn module(&mut self, name: &str, bytes: Vec<u8>) {
        let path = format!("lab/modules/{:03}-{name}.ko", self.modules);
        self.modules += 1;
        self.add(path.as_bytes(), Node::File(0o644, bytes));
    }

    /// Sets the script that L1 starts with.
    pub(crate) fn init(&mut self, script: &[u8]) {
        self.add(b"init", Node::File(0o755, script.to_vec()));
    }

    /// Sets the script that is the command.
    pub(crate) fn command(&mut self, script: &[u8]) {
        self.add(b"lab/command", Node::File(0o755, script.to_vec()));
    }

    /// Copies the file or the folder `host` to `guest`. What `host` points to is copied if it is a symbolic link.
    pub(crate) fn copy(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let guest = guest_path(guest)?;
        let metadata = fs::metadata(host).map_err(Error::io("copy into the lab", host))?;
        self.tree(host, &guest, &metadata)
    }

    /// The ramdisk's bytes.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        for (path, node) in &self.nodes {
            match node {
                Node::Folder(mode) => archive.directory(path, *mode)?,
                Node::File(mode, bytes) => archive.file(path, *mode, bytes)?,
                Node::Link(target) => archive.symlink(path, target)?,
            };
        }
        Ok(archive.finish())
    }

    fn tree(&mut self, host: &Path, guest: &[u8], metadata: &fs::Metadata) -> Result<()> {
        let mode = metadata.permissions().mode() & 0o7777;
        let node = if metadata.is_dir() {
            Node::Folder(mode)
        } else if metadata.is_symlink() {
            Node::Link(
                fs::read_link(host)
                    .map_err(Error::io("read the link", host))?
                    .as_os_str()
                    .as_bytes()
                    .to_vec(),
            )
        } else if metadata.is_file() {
            Node::File(mode, fs::read(host).map_err(Error::io("copy into the lab", host))?)
        } else {
            let kind = std::io::Error::other("it is neither a file nor a folder nor a symbolic link");
            return Err(Error::io("copy into the lab", host)(kind));
        };
        self.add(guest, node);
        if metadata.is_dir() {
            for entry in fs::read_dir(host).map_err(Error::io("read the folder", host))? {
                let entry = entry.map_err(Error::io("read the folder", host))?;
                let path = entry.path();
                let metadata = entry.metadata().map_err(Error::io("look at", &path))?;
                let guest = [guest, b"/", entry.file_name().as_bytes()].concat();
                self.tree(&path, &guest, &metadata)?;
            }
        }
        Ok(())
    }

    /// Adds a node and the folders that it lies in.
    fn add(&mut self, path: &[u8], node: Node) {
        for (slash, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
            let folder = path.get(..slash).unwrap_or_default().to_vec();
            self.nodes.entry(folder).or_insert(Node::Folder(FOLDER_MODE));
        }
        self.nodes.insert(path.to_vec(), node);
    }
}
