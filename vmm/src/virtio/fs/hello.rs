//! The beginning: what the guest and we agree on.

use std::{os::fd::AsFd, sync::Arc};

use nix::errno::Errno;

use super::{
    Cache,
    abi::{self, Fields, init},
    host::{self, Result},
    server::{Done, MAX_DATA, MAX_PAGES, Server},
    shared::Shared,
};

/// How many requests that nobody waits for the guest may have on their way.
const MAX_BACKGROUND: u16 = 64;

impl Server {
    /// The guest begins, perhaps not for the first time.
    pub(super) fn init(&mut self, fields: &mut Fields<'_>) -> Result<Done> {
        let (major, minor, readahead) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let mut offered = u64::from(fields.u32()?);
        if major < abi::MAJOR || (major == abi::MAJOR && minor < abi::OLDEST_MINOR) {
            tracing::debug!(major, minor, "guest speaks a version of FUSE that is too old");
            return Err(Errno::EPROTO);
        }
        if offered & init::INIT_EXT != 0 {
            offered |= u64::from(fields.u32()?) << 32;
        }
        self.clear();
        for (index, share) in self.shares.iter_mut().enumerate() {
            let stat = host::stat(share.source.as_fd())?;
            share.root = self.nodes.add_root(index, Arc::clone(&share.source), &stat);
        }
        // A guest with a newer major version asks again with ours.
        self.features = if major == abi::MAJOR { offered & self.wanted_features() } else { 0 };
        let (low, high) = halves(self.features);
        let reply = &mut self.reply;
        reply.u32(abi::MAJOR);
        reply.u32(abi::MINOR);
        reply.u32(readahead);
        reply.u32(low);
        reply.u16(MAX_BACKGROUND);
        reply.u16(MAX_BACKGROUND / 4 * 3);
        reply.u32(MAX_DATA);
        // Times are exact to the nanosecond.
        reply.u32(1);
        reply.u16(MAX_PAGES);
        reply.u16(0);
        reply.u32(high);
        reply.zeros(7 * 4);
        Ok(Done::Reply)
    }

    fn wanted_features(&self) -> u64 {
        let always = |share: &Shared| share.cache == Cache::Always;
        let mut wanted = init::ASYNC_READ
            | init::ATOMIC_O_TRUNC
            | init::BIG_WRITES
            | init::DONT_MASK
            | init::AUTO_INVAL_DATA
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::POSIX_ACL
            | init::MAX_PAGES
            | init::HANDLE_KILLPRIV_V2
            | init::SETXATTR_EXT
            | init::INIT_EXT
            | init::DIRECT_IO_ALLOW_MMAP;
        // Where the guest asks each time anyway, telling it attributes in advance is work for nothing.
        if self.shares.iter().any(always) {
            wanted |= init::DO_READDIRPLUS | init::READDIRPLUS_AUTO;
        }
        if self.shares.iter().all(always) {
            wanted |= init::CACHE_SYMLINKS;
        }
        wanted
    }
}

/// The low and the high half.
#[allow(clippy::cast_possible_truncation)]
fn halves(bits: u64) -> (u32, u32) {
    (bits as u32, (bits >> 32) as u32)
}
