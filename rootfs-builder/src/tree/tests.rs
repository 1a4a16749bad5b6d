//! Names, links and what layers do to each other.

use super::*;

fn folder(tree: &mut Tree, path: &str) -> NodeId {
    tree.make_folders(path.as_bytes()).unwrap()
}

fn file(tree: &mut Tree, path: &str, size: u64) -> NodeId {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = folder(tree, parent);
    let content = Content { size, ..Content::default() };
    tree.put(parent, name.as_bytes(), Kind::File(content), Metadata::default()).unwrap()
}

fn symlink(tree: &mut Tree, path: &str, target: &str) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = folder(tree, parent);
    tree.put(parent, name.as_bytes(), Kind::Symlink(target.as_bytes().into()), Metadata::default()).unwrap();
}

fn paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![(ROOT, String::new())];
    while let Some((id, path)) = pending.pop() {
        for (name, child) in tree.entries(id) {
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            found.push(path.clone());
            pending.push((child, path));
        }
    }
    found.sort();
    found
}

#[test]
fn links_stay_in_the_tree() {
    let mut tree = Tree::new();
    symlink(&mut tree, "out", "../../../etc");
    symlink(&mut tree, "absolute", "/etc");
    let etc = folder(&mut tree, "etc");
    for path in ["out", "absolute", "out/../etc", "./absolute/.", "absolute//", "../../etc"] {
        assert_eq!(tree.folder(path.as_bytes()), Ok(etc), "{path}");
    }
    assert_eq!(folder(&mut tree, "out/below"), tree.folder(b"etc/below").unwrap());
}

#[test]
fn loops_and_wrong_paths_are_told_apart() {
    let mut tree = Tree::new();
    symlink(&mut tree, "one", "two");
    symlink(&mut tree, "two", "one");
    symlink(&mut tree, "self", "self/self/self/self");
    file(&mut tree, "file", 0);
    assert_eq!(tree.folder(b"one"), Err(PathError::Loop));
    assert_eq!(tree.make_folders(b"self/x"), Err(PathError::Loop));
    assert_eq!(tree.folder(b"file/x"), Err(PathError::NotAFolder));
    assert_eq!(tree.folder(b"none/x"), Err(PathError::Missing));
}

#[test]
fn what_has_no_name_any_more_is_discarded_once() {
    let mut tree = Tree::new();
    let id = file(&mut tree, "a/one", 7);
    tree.link(ROOT, b"two", id);
    assert_eq!(tree.node(id).links, 2);
    tree.remove(ROOT, b"a");
    assert_eq!(tree.take_discarded(), []);
    // Linked to itself: nothing happens to it.
    tree.link(ROOT, b"two", id);
    assert_eq!(tree.node(id).links, 1);
    file(&mut tree, "two", 9);
    assert_eq!(tree.take_discarded().iter().map(|content| content.size).collect::<Vec<_>>(), [7]);
    assert_eq!(tree.take_discarded(), []);
}

#[test]
fn a_whiteout_hides_what_is_below_and_nothing_else() {
    let mut tree = Tree::new();
    file(&mut tree, "d/lower", 1);
    file(&mut tree, "d/sub/lower", 2);
    file(&mut tree, "e/lower", 3);
    tree.next_layer();
    file(&mut tree, "d/sub/upper", 4);
    file(&mut tree, "e/upper", 5);
    tree.white_out(ROOT, Some(b"d"));
    let e = folder(&mut tree, "e");
    tree.white_out(e, None);
    assert_eq!(paths(&tree), ["/d", "/d/sub", "/d/sub/upper", "/e", "/e/upper"]);
    tree.next_layer();
    tree.white_out(ROOT, Some(b"d"));
    tree.white_out(ROOT, Some(b"none"));
    assert_eq!(paths(&tree), ["/e", "/e/upper"]);
}

#[test]
fn a_folder_keeps_its_entries_when_it_is_described_again() {
    let mut tree = Tree::new();
    file(&mut tree, "d/x", 1);
    tree.next_layer();
    let metadata = Metadata { mode: 0o700, ..Metadata::default() };
    let d = tree.put(ROOT, b"d", Kind::Folder(BTreeMap::new()), metadata).unwrap();
    assert_eq!(tree.node(d).metadata.mode, 0o700);
    assert_eq!(paths(&tree), ["/d", "/d/x"]);
    tree.put(ROOT, b"d", Kind::Fifo, Metadata::default()).unwrap();
    assert_eq!(paths(&tree), ["/d"]);
    file(&mut tree, "d2/x", 1);
    assert_eq!(tree.make_folders(b"d/x"), Err(PathError::NotAFolder));
}
