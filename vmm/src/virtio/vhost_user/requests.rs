//! The frontend's requests (QEMU `docs/interop/vhost-user.rst`, "Front-end message types").
//!
//! Those that need a protocol feature which is not offered are refused.

use std::{fs::File, io, sync::atomic::Ordering};

use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
        VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
        VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
    },
};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestRegionMmap};

use super::backend::{Backend, Mapping, PROTOCOL_FEATURES, RING_EVENT_IDX, Ring};
use crate::Memory;

fn refused<T>(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Result<T> {
    Err(Error::ReqHandlerError(io::Error::other(error)))
}

const NOT_OFFERED: Error = Error::InvalidOperation("not offered");

impl Backend {
    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index)).ok_or(Error::InvalidParam)
    }
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        for ring in &mut self.rings {
            ring.enabled = false;
        }
        self.rings_changed();
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.features())
    }

    fn set_features(&mut self, accepted: u64) -> Result<()> {
        if accepted & !self.features() != 0 {
            return Err(Error::InvalidParam);
        }
        for ring in &mut self.rings {
            ring.queue.set_event_idx(accepted & RING_EVENT_IDX != 0);
            // A frontend without protocol features cannot enable rings: they are enabled from the start.
            ring.enabled |= accepted & PROTOCOL_FEATURES == 0;
        }
        self.device.set_features(accepted & !PROTOCOL_FEATURES);
        self.rings_changed();
        Ok(())
    }

    fn set_mem_table(&mut self, table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let mut table: Vec<_> = table.iter().zip(files).collect();
        table.sort_by_key(|(entry, _)| entry.guest_phys_addr);
        let mut regions = Vec::with_capacity(table.len());
        let mut mappings = Vec::with_capacity(table.len());
        for (entry, file) in table {
            let (frontend_address, guest_address, len) =
                (entry.user_addr, entry.guest_phys_addr, entry.memory_size);
            let region = GuestRegionMmap::new(entry.mmap_region(file)?, GuestAddress(guest_address));
            regions.push(region.ok_or(Error::InvalidParam)?);
            mappings.push(Mapping { frontend_address, guest_address, len });
        }
        self.memory = Memory::from_regions(regions).or_else(refused)?;
        self.mappings = mappings;
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let queue = &mut self.ring(index)?.queue;
        let size = u16::try_from(size).map_err(|_| Error::InvalidParam)?;
        queue.set_size(size);
        if queue.size() == size { Ok(()) } else { Err(Error::InvalidParam) }
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let mut guest = [GuestAddress(0); 3];
        for (guest, frontend) in guest.iter_mut().zip([descriptors, available, used]) {
            *guest = GuestAddress(self.guest_address(frontend).ok_or(Error::InvalidParam)?);
        }
        let [descriptors, available, used] = guest;
        let memory = self.memory.clone();
        let queue = &mut self.ring(index)?.queue;
        queue.try_set_desc_table_address(descriptors).or_else(refused)?;
        queue.try_set_avail_ring_address(available).or_else(refused)?;
        queue.try_set_used_ring_address(used).or_else(refused)?;
        // SET_VRING_BASE brings the next available index only; the other one is in the ring.
        let next_used = queue.used_idx(&memory, Ordering::Acquire).or_else(refused)?;
        queue.set_next_used(next_used.0);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue.set_next_avail(base);
        Ok(())
    }

    /// Stops a ring.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        ring.queue.set_ready(false);
        ring.kick = None;
        ring.call = None;
        let base = ring.queue.next_avail();
        self.ring_stopped();
        Ok(VhostUserVringState::new(index, base.into()))
    }

    /// Starts a ring.
    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        let ring = self.ring(index.into())?;
        ring.queue.set_ready(kick.is_some());
        ring.kick = kick;
        self.rings_changed();
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        self.ring(index.into())?.call = call;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _err: Option<File>) -> Result<()> {
        self.ring(index.into()).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        self.rings_changed();
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let mut space = vec![0; usize::try_from(size).map_err(|_| Error::InvalidParam)?];
        self.device.read_config(offset.into(), &mut space);
        Ok(space)
    }

    fn set_config(&mut self, _offset: u32, _data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation("the configuration is read-only"))
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(NOT_OFFERED)
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(NOT_OFFERED)
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(NOT_OFFERED)
    }

    fn add_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(NOT_OFFERED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(NOT_OFFERED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }
}
