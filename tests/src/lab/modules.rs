//! Which kernel modules to load, and in what order.
//!
//! A Debian package has no `modules.dep`: `depmod` writes it at installation. So the dependencies are read from where
//! `depmod` has them, too: the `depends=` line that `modpost` puts into each module's `.modinfo` section.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::payload;

/// A module to load.
pub(crate) struct Module {
    /// Its name, with `_` and never `-`.
    pub(crate) name: String,
    /// Its ELF file.
    pub(crate) bytes: Vec<u8>,
}

/// The modules `wanted` and what they depend on, each once, in an order in which they can be loaded. What is built into
/// the kernel is left out.
pub(crate) fn with_dependencies<'a>(
    tree: &Path,
    wanted: impl Iterator<Item = &'a str>,
) -> Result<Vec<Module>> {
    let mut files = HashMap::new();
    index(&tree.join("kernel"), &mut files)?;
    let list = tree.join("modules.builtin");
    let list = fs::read_to_string(&list).map_err(Error::io("read", &list))?;
    let builtin = list.lines().filter_map(|line| module_name(Path::new(line))).map(|name| (name, None));
    files.extend(builtin);
    let mut order = Order { tree, files, loaded: Vec::new() };
    for name in wanted {
        order.add(&normal(name))?;
    }
    Ok(order.loaded)
}

struct Order<'a> {
    tree: &'a Path,
    /// Every module's file; `None` for those in the kernel and those that are in `loaded` already.
    files: HashMap<String, Option<PathBuf>>,
    loaded: Vec<Module>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        let Some(file) = self.files.get_mut(name) else {
            return Err(Error::NoModule { name: name.to_owned(), tree: self.tree.to_path_buf() });
        };
        // Taken before its dependencies are looked at: a circle ends here.
        let Some(path) = file.take() else { return Ok(()) };
        let bytes = payload::module(fs::read(&path).map_err(Error::io("read", &path))?)?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency)?;
        }
        self.loaded.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

fn index(folder: &Path, files: &mut HashMap<String, Option<PathBuf>>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let entry = entry.map_err(Error::io("read the folder", folder))?;
        let path = entry.path();
        if entry.file_type().map_err(Error::io("look at", &path))?.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, Some(path));
        }
    }
    Ok(())
}

/// `kvm_amd` for `…/kvm-amd.ko` and `…/kvm-amd.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| normal(name))
}

/// The kernel takes `-` and `_` in a module's name for the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let line = module
        .split(|&byte| byte == 0)
        .find_map(|text| text.strip_prefix(KEY))
        .map(String::from_utf8_lossy)
        .unwrap_or_default();
    line.split(',').filter(|name| !name.is_empty()).map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("kernel/drivers");
        fs::create_dir_all(&folder).unwrap();
        fs::write(tree.path().join("modules.builtin"), "kernel/lib/inside.ko\n").unwrap();
        fs::write(folder.join("top-one.ko"), b"\x7fELF\0license=GPL\0depends=base,middle,inside\0").unwrap();
        fs::write(folder.join("middle.ko"), b"\x7fELF\0depends=base\0").unwrap();
        fs::write(folder.join("base.ko"), b"\x7fELF\0depends=\0").unwrap();
        let names = |wanted: &[&str]| -> Vec<String> {
            let modules = with_dependencies(tree.path(), wanted.iter().copied()).unwrap();
            modules.into_iter().map(|module| module.name).collect()
        };
        assert_eq!(names(&["top_one", "middle"]), ["base", "middle", "top_one"]);
        assert_eq!(names(&["inside"]), [""; 0]);
        let error = with_dependencies(tree.path(), ["none"].into_iter()).err().unwrap();
        assert!(error.to_string().contains("no module none"), "{error}");
    }
}
