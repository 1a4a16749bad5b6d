//! Writes uncompressed EROFS images, by the kernel's `fs/erofs/erofs_fs.h`.
//!
//! Contents come first and in any order, while the tree is still being put together: whole blocks go straight to
//! their place in the image, short ends of files to a second file. When the tree is complete, [`Writer::finish`] adds
//! folders and inodes, each inode with its file's end beside it, and last the superblock.
//!
//! ```text
//! block 0      superblock, root inode
//! block 1…     whole blocks of files, in the order in which they came
//!              whole blocks of folders and long symbolic links
//!              inodes, each with its attributes and its file's end
//! ```
//!
//! Files stay uncompressed: a guest reads them straight out of its block device, without a decompressor on the way to
//! its first instruction, and the host's page cache is shared anyway. The same calls give the same bytes, wherever and
//! whenever they are made: the UUID is fixed, and there is no time stamp but those of the files.

mod folder;
mod inode;
mod place;
mod superblock;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::layer::Contents;
use crate::tree::{Attributes, Content, Kind, Node, NodeId, ROOT, Tree};
use inode::Layout;
pub(crate) use inode::{fit, is_attribute};
use place::Places;

/// The size of a block in bytes: the page size of every guest.
pub(crate) const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = 4096;
/// Inodes start at multiples of this; an inode's number is its position divided by it.
const SLOT: u64 = 32;
/// The longest end of a file that lies beside its inode, in bytes. A longer one gets a block of its own: it wastes less than
/// half of it, and stays where a guest can map it.
const LONGEST_TAIL: usize = BLOCK / 2;
/// An inode takes at most this, without attributes.
const LONGEST_INODE: usize = 64;

/// An image that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    image: File,
    /// The ends of files that will lie beside their inodes.
    tails: File,
    /// The first block that nothing has been given yet.
    next: u64,
    /// The length of `tails`.
    tails_end: u64,
}

impl Writer {
    /// Writes to `image`, an empty file, and keeps what it needs meanwhile in `scratch`, another one.
    #[must_use]
    pub(crate) fn new(image: File, scratch: File) -> Self {
        Self { image, tails: scratch, next: 1, tails_end: 0 }
    }

    fn allocate(&mut self, blocks: u64) -> io::Result<u32> {
        let block = u32::try_from(self.next).map_err(|_| too_large())?;
        self.next = self.next.checked_add(blocks).ok_or_else(too_large)?;
        Ok(block)
    }

    /// Adds what `tree` says, and completes the image. Every [`Content`] in it must be of this writer.
    ///
    /// # Errors
    /// Those of the two files; [`io::ErrorKind::FileTooLarge`] beyond 16 TiB.
    pub(crate) fn finish(mut self, tree: &Tree) -> io::Result<File> {
        let order = Order::of(tree);
        let mut plans = Vec::with_capacity(order.nodes.len());
        for &(id, _) in &order.nodes {
            plans.push(self.plan(tree, id)?);
        }
        let places = Places::find(&plans, self.next)?;
        let numbers = order.numbers(tree, &places);
        for (&(id, parent), plan) in order.nodes.iter().zip(&plans) {
            self.write_blocks(tree, id, parent, plan, &numbers)?;
        }
        self.write_inodes(tree, &order, &plans, &places, &numbers)?;
        let blocks = u32::try_from(places.end()).map_err(|_| too_large())?;
        self.image.set_len(u64::from(blocks) * BLOCK_BYTES)?;
        let root = places.position(0) / SLOT;
        let superblock = superblock::block(blocks, root, order.nodes.len());
        // Beside it in its block lies the root inode.
        self.image.write_all_at(&superblock, superblock::OFFSET as u64)?;
        superblock::seal(&self.image)?;
        Ok(self.image)
    }

    /// Decides how one file lies in the image, and gives blocks to folders and links.
    fn plan(&mut self, tree: &Tree, id: NodeId) -> io::Result<Plan> {
        let node = tree.node(id);
        let attributes = inode::attributes_len(&node.metadata.attributes);
        let inode = inode::length(tree, id) + attributes;
        let (size, file) = match &node.kind {
            Kind::Folder(_) => (folder::size(tree, id), None),
            Kind::Symlink(target) => (target.len() as u64, None),
            Kind::File(content) => (content.size, Some(content)),
            _ => (0, None),
        };
        let tail = usize::try_from(size % BLOCK_BYTES).unwrap_or(0);
        let inline = match file {
            Some(_) => tail > 0 && tail_fits(tail, attributes),
            // The root shares its block with the superblock.
            None if id == ROOT => tail > 0 && place::root_fits(inode + tail),
            None => tail > 0 && inode + tail <= BLOCK,
        };
        let whole = if inline { size / BLOCK_BYTES } else { size.div_ceil(BLOCK_BYTES) };
        let block = match file {
            Some(content) => content.block,
            None if whole > 0 => self.allocate(whole)?,
            None => 0,
        };
        let layout = if inline { Layout::Inline } else { Layout::Plain };
        Ok(Plan { size, block, layout, inode, tail: if inline { tail } else { 0 } })
    }

    /// Writes the whole blocks of a folder or a link; those of a file are there already.
    fn write_blocks(
        &self,
        tree: &Tree,
        id: NodeId,
        parent: NodeId,
        plan: &Plan,
        numbers: &Numbers,
    ) -> io::Result<()> {
        let whole = plan.size - plan.tail as u64;
        if whole == 0 {
            return Ok(());
        }
        let mut at = u64::from(plan.block) * BLOCK_BYTES;
        match &tree.node(id).kind {
            Kind::Folder(_) => {
                let end = at + whole;
                folder::blocks(tree, id, parent, numbers, |bytes| {
                    // The last one lies beside the inode, if it is not among the whole ones.
                    if at < end {
                        self.image.write_all_at(bytes, at)?;
                    }
                    at += BLOCK_BYTES;
                    Ok(())
                })
            }
            Kind::Symlink(target) => self.image.write_all_at(target, at),
            _ => Ok(()),
        }
    }

    /// Writes every inode with what lies beside it, front to back.
    fn write_inodes(
        &self,
        tree: &Tree,
        order: &Order,
        plans: &[Plan],
        places: &Places,
        numbers: &Numbers,
    ) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(256 * 1024, At { file: &self.image, offset: 0 });
        let mut position = 0;
        let mut bytes = Vec::with_capacity(BLOCK);
        for index in places.by_position() {
            let (Some(&(id, parent)), Some(plan)) = (order.nodes.get(index), plans.get(index)) else {
                continue;
            };
            let node = tree.node(id);
            bytes.clear();
            inode::write(&mut bytes, tree, id, plan, index);
            self.append_tail(&mut bytes, tree, node, (id, parent), plan, numbers)?;
            let start = places.position(index);
            if start != position {
                out.flush()?;
                out.get_mut().offset = start;
            }
            out.write_all(&bytes)?;
            position = start + bytes.len() as u64;
        }
        out.flush()
    }

    fn append_tail(
        &self,
        bytes: &mut Vec<u8>,
        tree: &Tree,
        node: &Node,
        (id, parent): (NodeId, NodeId),
        plan: &Plan,
        numbers: &Numbers,
    ) -> io::Result<()> {
        if plan.tail == 0 {
            return Ok(());
        }
        match &node.kind {
            Kind::File(content) => {
                let start = bytes.len();
                bytes.resize(start + plan.tail, 0);
                let tail = bytes.get_mut(start..).unwrap_or_default();
                // Nothing was written to the end of a sparse file, which may be that of the whole file, too.
                read_sparse(&self.tails, tail, content.tail)?;
            }
            Kind::Symlink(target) => {
                bytes.extend_from_slice(target.get(target.len() - plan.tail..).unwrap_or_default())
            }
            Kind::Folder(_) => {
                let mut last = Vec::new();
                folder::blocks(tree, id, parent, numbers, |block| {
                    last.clear();
                    last.extend_from_slice(block);
                    Ok(())
                })?;
                last.truncate(plan.tail);
                bytes.extend_from_slice(&last);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Contents for Writer {
    fn create(&mut self, size: u64, attributes: &Attributes) -> io::Result<Content> {
        let tail = usize::try_from(size % BLOCK_BYTES).unwrap_or(0);
        let inline = tail > 0 && tail_fits(tail, inode::attributes_len(attributes));
        let whole = if inline { size / BLOCK_BYTES } else { size.div_ceil(BLOCK_BYTES) };
        let mut content =
            Content { size, block: if whole > 0 { self.allocate(whole)? } else { 0 }, tail: u64::MAX };
        if inline {
            content.tail = self.tails_end;
            self.tails_end += tail as u64;
        }
        Ok(content)
    }

    fn write(&mut self, content: &Content, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let whole =
            if content.tail == u64::MAX { content.size } else { content.size - content.size % BLOCK_BYTES };
        let start = u64::from(content.block) * BLOCK_BYTES;
        let in_blocks = usize::try_from(whole.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        let (front, back) = bytes.split_at(in_blocks);
        self.image.write_all_at(front, start + offset)?;
        if !back.is_empty() {
            self.tails.write_all_at(back, content.tail + (offset + front.len() as u64 - whole))?;
        }
        Ok(())
    }

    /// The image gets a hole there: what a lower layer had, an image must not show.
    fn discard(&mut self, content: Content) -> io::Result<()> {
        let whole = if content.tail == u64::MAX {
            content.size.div_ceil(BLOCK_BYTES)
        } else {
            content.size / BLOCK_BYTES
        };
        if whole == 0 {
            return Ok(());
        }
        let (start, length) = (u64::from(content.block) * BLOCK_BYTES, whole * BLOCK_BYTES);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let signed = |number: u64| i64::try_from(number).map_err(|_| too_large());
        match fallocate(&self.image, flags, signed(start)?, signed(length)?) {
            Err(Errno::EOPNOTSUPP) => overwrite(&self.image, start, length),
            result => Ok(result?),
        }
    }
}

/// How one file lies in the image.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In bytes.
    size: u64,
    /// The first whole block.
    block: u32,
    layout: Layout,
    /// The length of the inode with its attributes.
    inode: usize,
    /// The bytes that lie beside the inode.
    tail: usize,
}

/// Every file once, each with the folder that it was found in: folders before what is in them, siblings by name.
struct Order {
    nodes: Vec<(NodeId, NodeId)>,
}

impl Order {
    fn of(tree: &Tree) -> Self {
        let mut seen = vec![false; tree.table_len()];
        let mut nodes = Vec::new();
        let mut pending = vec![(ROOT, ROOT)];
        while let Some((id, parent)) = pending.pop() {
            // A file with several names is where its first one is.
            if std::mem::replace(&mut seen[Tree::index(id)], true) {
                continue;
            }
            nodes.push((id, parent));
            pending.extend(tree.entries(id).rev().map(|(_, child)| (child, id)));
        }
        Self { nodes }
    }

    fn numbers(&self, tree: &Tree, places: &Places) -> Numbers {
        let mut numbers = vec![0; tree.table_len()];
        for (index, &(id, _)) in self.nodes.iter().enumerate() {
            numbers[Tree::index(id)] = places.position(index) / SLOT;
        }
        Numbers(numbers)
    }
}

/// The inode number of every file.
pub(crate) struct Numbers(Vec<u64>);

impl Numbers {
    fn of(&self, id: NodeId) -> u64 {
        self.0[Tree::index(id)]
    }
}

/// Writes to a file from an offset on.
#[derive(Debug)]
struct At<'f> {
    file: &'f File,
    offset: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.offset)?;
        self.offset += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a root folder can have these: its inode shares a block with the superblock.
pub(crate) fn root_fits(attributes: &Attributes) -> bool {
    place::root_fits(LONGEST_INODE + inode::attributes_len(attributes))
}

/// Whether the end of a file lies beside its inode. Decided when the content comes, so what is known of the file by then has to be
/// enough.
fn tail_fits(tail: usize, attributes: usize) -> bool {
    tail <= LONGEST_TAIL && LONGEST_INODE + attributes + tail <= BLOCK
}

fn read_sparse(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, offset) {
            Ok(0) => break,
            Ok(length) => {
                offset += length as u64;
                bytes = bytes.get_mut(length..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Zeros, for file systems that have no holes.
fn overwrite(file: &File, start: u64, length: u64) -> io::Result<()> {
    let zeros = [0; BLOCK];
    (0..length / BLOCK_BYTES).try_for_each(|block| file.write_all_at(&zeros, start + block * BLOCK_BYTES))
}

fn too_large() -> io::Error {
    io::Error::from(io::ErrorKind::FileTooLarge)
}
