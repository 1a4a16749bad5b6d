//! The fixed header in front of every entry.

/// One entry's header. The fields that are not here are always zero: owner, group, modification time, the number of
/// the device that the file was on, and the checksum (which this variant of the format does not use).
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Header {
    /// Inode number, unique in the archive.
    pub(crate) inode: u32,
    /// File type and permissions, as in `st_mode`.
    pub(crate) mode: u32,
    /// Number of links.
    pub(crate) links: u32,
    /// Length of the body in bytes.
    pub(crate) body: u32,
    /// Major number, for a device node.
    pub(crate) major: u32,
    /// Minor number, for a device node.
    pub(crate) minor: u32,
    /// Length of the name in bytes, with its closing NUL.
    pub(crate) name: u32,
}

impl Header {
    /// Appends the header: the magic and 13 fields of eight hexadecimal digits each, 110 bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self { inode, mode, links, body, major, minor, name } = *self;
        out.extend_from_slice(b"070701");
        // In the order of buffer-format.rst: c_ino, c_mode, c_uid, c_gid, c_nlink, c_mtime, c_filesize, c_maj,
        // c_min, c_rmaj, c_rmin, c_namesize, c_chksum.
        for field in [inode, mode, 0, 0, links, 0, body, 0, 0, major, minor, name, 0] {
            out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
    }
}
