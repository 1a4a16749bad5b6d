//! What the guest holds open: files and folders, by numbers that are never used twice.

use std::{collections::HashMap, fs::File, os::fd::AsFd, sync::Arc};

use nix::{errno::Errno, libc};

use super::host::{self, Result};

/// How many bytes of entries are read from a folder at a time: enough for one page of replies, and for the longest name.
const ENTRIES: usize = 2048;

/// An open file or folder, and the node that it was opened as.
#[derive(Debug)]
pub(super) enum Handle {
    File {
        node: u64,
        file: Arc<File>,
    },
    Folder {
        node: u64,
        folder: Folder,
    },
    /// The folder of the shares. It shows nothing: what is in it is known.
    Shares,
}

/// The guest's handles.
#[derive(Debug)]
pub(super) struct Handles {
    by_number: HashMap<u64, Handle>,
    next: u64,
    limit: usize,
    /// How many of them are folders.
    folders: usize,
    max_folders: usize,
}

impl Handles {
    /// Nothing, and room for `limit`, of which `max_folders` may be folders.
    pub(super) fn new(limit: usize, max_folders: usize) -> Self {
        Self { by_number: HashMap::new(), next: 1, limit, folders: 0, max_folders }
    }

    pub(super) fn clear(&mut self) {
        self.by_number.clear();
        self.folders = 0;
    }

    /// # Errors
    /// `ENFILE` if the guest has as much open as it can.
    pub(super) fn check_room(&self) -> Result<()> {
        if self.by_number.len() < self.limit { Ok(()) } else { Err(Errno::ENFILE) }
    }

    /// The same for a folder.
    pub(super) fn check_room_for_folder(&self) -> Result<()> {
        if self.folders < self.max_folders { self.check_room() } else { Err(Errno::ENFILE) }
    }

    pub(super) fn add(&mut self, handle: Handle) -> u64 {
        self.folders += usize::from(matches!(handle, Handle::Folder { .. }));
        let number = self.next;
        self.next += 1;
        self.by_number.insert(number, handle);
        number
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Handle> {
        let handle = self.by_number.remove(&number);
        self.folders -= usize::from(matches!(handle, Some(Handle::Folder { .. })));
        handle
    }

    /// An open file of a node.
    pub(super) fn file(&self, number: u64, of: u64) -> Result<&Arc<File>> {
        match self.by_number.get(&number) {
            Some(Handle::File { node, file }) if *node == of => Ok(file),
            _ => Err(Errno::EBADF),
        }
    }

    /// An open folder of a node; `None` for the folder of the shares.
    pub(super) fn folder(&mut self, number: u64, of: u64) -> Result<Option<&mut Folder>> {
        match self.by_number.get_mut(&number) {
            Some(Handle::Folder { node, folder }) if *node == of => Ok(Some(folder)),
            Some(Handle::Shares) => Ok(None),
            _ => Err(Errno::EBADF),
        }
    }
}

/// An open folder, and what was read from it and not given to the guest yet.
#[derive(Debug)]
pub(super) struct Folder {
    file: Arc<File>,
    entries: Vec<u8>,
    used: usize,
    /// The position of the next entry, as the file system counts.
    next: u64,
}

/// An entry of a folder.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) number: u64,
    /// Where the next one is.
    pub(super) next: u64,
    /// A `DT_*` number.
    pub(super) kind: u8,
    /// With its NUL.
    pub(super) name: Vec<u8>,
}

impl Folder {
    pub(super) fn new(file: File) -> Self {
        Self { file: Arc::new(file), entries: Vec::new(), used: 0, next: 0 }
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Goes to a position that an entry named, or to the start. What was read ahead is kept if it is what comes there.
    pub(super) fn go_to(&mut self, position: u64) -> Result<()> {
        if position == self.next && position != 0 {
            return Ok(());
        }
        self.entries.clear();
        self.used = 0;
        let offset = i64::from_le_bytes(position.to_le_bytes());
        host::seek(self.file.as_fd(), offset, libc::SEEK_SET)?;
        self.next = position;
        Ok(())
    }

    /// The entry at this position, without going on. `None` at the end.
    pub(super) fn peek(&mut self) -> Result<Option<Entry>> {
        if self.used == self.entries.len() {
            self.used = 0;
            host::read_folder(self.file.as_fd(), &mut self.entries, ENTRIES)?;
        }
        let rest = &self.entries[self.used..];
        if rest.is_empty() {
            return Ok(None);
        }
        Entry::decode(rest).map(|(entry, _)| Some(entry)).ok_or(Errno::EIO)
    }

    /// Goes on behind the entry that [`peek`](Self::peek) showed.
    pub(super) fn advance(&mut self) {
        if let Some((entry, len)) = Entry::decode(&self.entries[self.used..]) {
            self.used += len;
            self.next = entry.next;
        }
    }
}

impl Entry {
    /// Takes `struct linux_dirent64` apart: number, position, length, kind, name. Returns the length as well.
    fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let number = u64::from_ne_bytes(*bytes.first_chunk()?);
        let next = u64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
        let len = usize::from(u16::from_ne_bytes(*bytes.get(16..)?.first_chunk()?));
        let kind = *bytes.get(18)?;
        let name = bytes.get(19..len)?.split_inclusive(|byte| *byte == 0).next()?;
        Some((Self { number, next, kind, name: name.to_vec() }, len))
    }
}
