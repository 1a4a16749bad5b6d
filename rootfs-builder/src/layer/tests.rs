//! What layers do to a tree, and what they cannot do.

use std::collections::HashMap;
use std::io::Write;

use tar::{EntryType, Header};

use super::*;
use crate::tree::{NodeId, ROOT};

/// Contents in memory, by their numbers.
#[derive(Default)]
struct Memory {
    files: HashMap<u32, Vec<u8>>,
    made: u32,
}

impl Contents for Memory {
    fn create(&mut self, size: u64, _: &Attributes) -> io::Result<Content> {
        self.made += 1;
        // Only tests of limits make larger ones, and write nothing to them.
        let length = usize::try_from(size).unwrap().min(1 << 20);
        self.files.insert(self.made, vec![0; length]);
        Ok(Content { size, block: self.made, tail: 0 })
    }

    fn write(&mut self, content: &Content, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.files.get_mut(&content.block).unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn discard(&mut self, content: Content) -> io::Result<()> {
        assert!(self.files.remove(&content.block).is_some(), "discarded twice");
        Ok(())
    }
}

/// An archive that is being made. Paths go into the header as they are: the archive may be a hostile one.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn entry(mut self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        let fields = header.as_ustar_mut().unwrap();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, "", content.as_bytes())
    }

    fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length =
                (1..6).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).unwrap();
            write!(text, "{length} {key}=").unwrap();
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.entry(EntryType::XHeader, "pax", "", &text)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

struct Image {
    tree: Tree,
    contents: Memory,
}

impl Image {
    fn of(layers: &[Vec<u8>]) -> Result<Self, LayerError> {
        Self::within(Limits::default(), layers)
    }

    fn within(limits: Limits, layers: &[Vec<u8>]) -> Result<Self, LayerError> {
        let mut image = Self { tree: Tree::new(), contents: Memory::default() };
        let mut budget = Budget::new(limits);
        for layer in layers {
            apply(&layer[..], &mut budget, &mut image.tree, &mut image.contents)?;
        }
        Ok(image)
    }

    fn id(&self, path: &str) -> Option<NodeId> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(ROOT, |id, name| self.tree.get(id, name.as_bytes()))
    }

    fn text(&self, path: &str) -> Option<String> {
        match self.tree.node(self.id(path)?).kind {
            Kind::File(content) => {
                Some(String::from_utf8(self.contents.files[&content.block].clone()).unwrap())
            }
            _ => None,
        }
    }

    fn names(&self, path: &str) -> Vec<String> {
        let id = self.id(path).unwrap();
        self.tree.entries(id).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

fn error(layer: Layer) -> String {
    match Image::of(&[layer.end()]) {
        Err(error) => error.to_string(),
        Ok(image) => panic!("it was applied: {:?}", image.names("")),
    }
}

#[test]
fn the_last_layer_wins_and_contents_are_kept_once() {
    let below = Layer::default().file("a", "one").file("b", "two").link("c", "b").end();
    let above = Layer::default().file("a", "three").file("new/d", "four").end();
    let image = Image::of(&[below, above]).unwrap();
    assert_eq!(image.names(""), ["a", "b", "c", "new"]);
    assert_eq!(image.text("a").as_deref(), Some("three"));
    assert_eq!(image.text("c").as_deref(), Some("two"));
    assert_eq!(image.contents.files.len(), 3, "what was replaced is discarded");
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let below = Layer::default().file("d/old", "").file("d/other", "").file("e/old", "").file("f", "").end();
    let above = Layer::default()
        .file("d/new", "")
        .file("d/.wh..wh..opq", "")
        .file("e/.wh.old", "")
        .file("e/old2", "")
        .file(".wh.f", "")
        .file(".wh.never-was", "")
        .file("no/such/.wh.folder", "")
        .file(".wh..wh.plnk/77", "")
        .end();
    let image = Image::of(&[below, above]).unwrap();
    assert_eq!(image.names(""), ["d", "e"]);
    assert_eq!(image.names("d"), ["new"]);
    assert_eq!(image.names("e"), ["old2"]);
}

#[test]
fn files_become_folders_and_back() {
    let one = Layer::default().file("x", "file").folder("y").file("y/in", "").end();
    let two = Layer::default().folder("x").file("x/in", "").file("y", "file").end();
    let three = Layer::default().file("x", "again").end();
    let image = Image::of(&[one.clone(), two.clone()]).unwrap();
    assert_eq!(image.names("x"), ["in"]);
    assert_eq!(image.text("y").as_deref(), Some("file"));
    let image = Image::of(&[one, two, three]).unwrap();
    assert_eq!(image.text("x").as_deref(), Some("again"));
    assert_eq!(image.contents.files.len(), 2);
}

#[test]
fn links_reach_into_lower_layers_and_stay_in_the_image() {
    let below =
        Layer::default().file("usr/lib/a", "a").symlink("lib", "usr/lib").symlink("out", "../../..").end();
    let above = Layer::default().link("b", "lib/a").file("lib/c", "c").file("out/etc/passwd", "p").end();
    let image = Image::of(&[below, above]).unwrap();
    assert_eq!(image.text("b").as_deref(), Some("a"));
    assert_eq!(image.names("usr/lib"), ["a", "c"]);
    assert_eq!(image.text("etc/passwd").as_deref(), Some("p"));
    assert_eq!(image.tree.node(image.id("b").unwrap()).links, 2);
}

#[test]
fn extended_headers_overrule_the_header() {
    let name = [&b"\xff\xfe"[..], &[b'n'; 200]].concat();
    let image = Image::of(&[Layer::default()
        .pax(&[
            ("path", &name),
            ("mtime", b"-0.25"),
            ("uid", b"4000000000"),
            ("SCHILY.xattr.security.capability", b"\x01\0\n="),
            ("SCHILY.xattr.nfs.odd", b"not kept"),
        ])
        .file("short", "content")
        .end()])
    .unwrap();
    let id = image.tree.get(ROOT, &name).unwrap();
    let metadata = &image.tree.node(id).metadata;
    assert_eq!((metadata.mtime, metadata.mtime_nsec, metadata.uid), (-1, 750_000_000, 4_000_000_000));
    let kept: Vec<_> = metadata.attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(kept, [(&b"security.capability"[..], &b"\x01\0\n="[..])]);
}

#[test]
fn sparse_files_of_all_kinds() {
    let two = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"one")];
    let mut content = b"2\n1\n3\n8\n2\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"abcde");
    let one = Layer::default().pax(&[&two[..], &[("GNU.sparse.realsize", b"12")]].concat());
    let image = Image::of(&[one
        .entry(EntryType::Regular, "GNUSparseFile.0/one", "", &content)
        .pax(&[("GNU.sparse.map", b"1,3,8,2"), ("GNU.sparse.size", b"12")])
        .file("zero", "abcde")
        .end()])
    .unwrap();
    for path in ["one", "zero"] {
        assert_eq!(image.text(path).as_deref(), Some("\0abc\0\0\0\0de\0\0"), "{path}");
    }
    let map = |map: &'static [u8]| {
        error(Layer::default().pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", b"12")]).file("x", "abcde"))
    };
    for wrong in
        [&b"1,3,8"[..], b"8,2,1,3", b"1,3,3,2", b"1,3,11,2", b"1,3,8,1", b"18446744073709551615,5", b"x"]
    {
        assert!(map(wrong).contains("damaged"), "{wrong:?}");
    }
}

#[test]
fn hostile_entries_are_refused() {
    for (layer, word) in [
        (Layer::default().file("../x", ""), ".."),
        (Layer::default().file("a/../../x", ""), ".."),
        (Layer::default().link("x", "../../etc/passwd"), ".."),
        (Layer::default().link("x", "/etc/passwd"), "not there"),
        (Layer::default().folder("d").link("x", "d"), "link to a folder"),
        (Layer::default().symlink("x", ""), "empty"),
        (Layer::default().symlink("a", "b").symlink("b", "a").file("a/x", ""), "symbolic links"),
        (Layer::default().file("f", "").file("f/x", ""), "not a folder"),
        (Layer::default().file(".", ""), "root must be a folder"),
        (Layer::default().file(".wh.", ""), "hides no name"),
        (Layer::default().file("d/.wh...", ""), "hides no name"),
        (Layer::default().pax(&[("path", b"a\0b")]).file("x", ""), "NUL"),
        (Layer::default().pax(&[("path", &[b'n'; 256])]).file("x", ""), "255"),
        (Layer::default().pax(&[("path", &b"n/".repeat(2100))]).file("x", ""), "4095"),
        (Layer::default().pax(&[("linkpath", &[b'n'; 4096])]).symlink("x", "y"), "4095"),
        (Layer::default().pax(&[("uid", b"-1")]).file("x", ""), "owner"),
        (
            Layer::default().entry(EntryType::Continuous, "x", "", b"").entry(
                EntryType::new(b'Z'),
                "y",
                "",
                b"",
            ),
            "kind",
        ),
    ] {
        let error = error(layer);
        assert!(error.contains(word), "{error} says nothing of {word:?}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn absolute_names_are_names_in_the_image() {
    let image =
        Image::of(&[Layer::default().file("/etc/x", "x").file("./y", "y").folder("./").end()]).unwrap();
    assert_eq!(image.names(""), ["etc", "y"]);
}

#[test]
fn limits_stop_bombs() {
    let limits = Limits { bytes: 100_000, files: 10, metadata: 1000 };
    let fails = |layers: &[Vec<u8>]| match Image::within(limits, layers) {
        Err(LayerError::TooLarge { unit, .. }) => unit,
        other => panic!("{:?}", other.map(|image| image.names(""))),
    };
    let sparse = Layer::default()
        .pax(&[("GNU.sparse.map", b""), ("GNU.sparse.size", b"1000000000000000")])
        .file("x", "");
    assert_eq!(fails(&[sparse.end()]), "bytes");
    let large = Layer::default().entry(EntryType::Regular, "x", "", &[7; 60_000]).end();
    assert_eq!(fails(&[large.clone(), large]), "bytes");
    let many = (0..11).fold(Layer::default(), |layer, number| layer.file(&number.to_string(), ""));
    assert_eq!(fails(&[many.end()]), "files");
    let long =
        (0..10).fold(Layer::default(), |layer, number| layer.symlink(&number.to_string(), &"x".repeat(100)));
    assert_eq!(fails(&[long.end()]), "bytes of file names and attributes");
    // What stands behind the end, or in entries that are skipped.
    let behind = [Layer::default().end(), vec![0; 200_000]].concat();
    assert_eq!(fails(&[behind]), "bytes");
}

#[test]
fn headers_that_promise_too_much_are_not_believed() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut archive = Layer::default().entry(kind, "x", "", b"").end();
        let header = &mut archive[..512];
        header[124..136].copy_from_slice(b"77777777777\0");
        let mut fixed = Header::from_byte_slice(header).clone();
        fixed.set_cksum();
        header.copy_from_slice(fixed.as_bytes());
        let error = Image::of(&[archive]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}

#[test]
fn every_truncation_is_noticed_or_harmless() {
    let whole = Layer::default()
        .pax(&[("mtime", b"7")])
        .file("a", &"a".repeat(600))
        .folder("d")
        .file("d/b", "b")
        .end();
    for length in 0..whole.len() {
        let result = Image::of(&[whole[..length].to_vec()]);
        // An archive may lack its mark of the end.
        let is_boundary = [0, 1024, 2560, 3072, 4096].contains(&length) || length >= 4096 + 512;
        if !is_boundary {
            assert!(result.is_err(), "{length} of {}", whole.len());
        }
    }
    let mut damaged = whole;
    damaged[0] ^= 1;
    assert!(Image::of(&[damaged]).is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_layer(bytes: Vec<u8>) {
        let _ = Image::of(&[bytes]);
    }

    /// Valid headers with any content: further in than random bytes get.
    #[test]
    fn any_entries_are_an_error_or_a_layer(
        entries in proptest::collection::vec((b'0'..=b'7', "[a./]{0,6}", "[a./]{0,6}", 0..700_usize), 0..12),
        cut in 0..9000_usize,
    ) {
        let layer = entries.iter().fold(Layer::default(), |layer, (kind, path, link, length)| {
            layer.entry(EntryType::new(*kind), path, link, &vec![b'1'; *length])
        });
        let whole = layer.end();
        if let Ok(image) = Image::of(&[whole.clone(), whole[..cut.min(whole.len())].to_vec()]) {
            // Every content belongs to a file that is still there.
            let mut pending = vec![ROOT];
            let mut contents = std::collections::HashSet::new();
            while let Some(id) = pending.pop() {
                if let Kind::File(content) = image.tree.node(id).kind {
                    contents.insert(content.block);
                }
                pending.extend(image.tree.entries(id).map(|(_, child)| child));
            }
            proptest::prop_assert_eq!(contents.len(), image.contents.files.len());
        }
    }
}
