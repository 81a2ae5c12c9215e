//! Rings and guest memory of a session: which ring runs when, and what happens to running rings when the memory
//! under them changes (vhost-user, "Ring states" and "Memory access").
//!
//! A ring is *started* from SET_VRING_KICK to GET_VRING_BASE and *running* while the device processes it. The two
//! differ only while the ring does not lie in the memory known so far: front ends change regions one by one, and
//! between a removal and an addition the ring may be nowhere. Such a ring waits and is tried again at every change.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::error::VhostUserError;
use super::message::{
    MAX_TABLE_REGIONS, MemoryRegion, MemoryTableHeader, MessageId, Request, SingleMemoryRegion,
    VRING_NO_FD, VringAddress, VringState,
};
use super::session::{Handled, Outcome, Session};
use crate::device::QueueSetup;
use crate::eventfd::Eventfd;
use crate::features::ring;
use crate::memory::{GuestMemory, MemoryError, RegionSpec};

/// Memory regions a front end may add one by one.
pub(super) const MAX_MEMORY_SLOTS: usize = 64;
/// Largest split ring (VIRTIO 1.2 section 2.7).
const MAX_RING_SIZE: u32 = 32768;

/// One ring as the front end has configured it.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Zero before SET_VRING_NUM.
    pub(super) size: u16,
    addresses: Option<VringAddress>,
    /// Next available index while the device does not hold it.
    base: u16,
    kick: Option<Eventfd>,
    call: Option<Eventfd>,
    error: Option<Eventfd>,
    enabled: bool,
    /// Between SET_VRING_KICK and GET_VRING_BASE.
    pub(super) started: bool,
    /// The device processes it.
    pub(super) running: bool,
}

impl From<MemoryRegion> for RegionSpec {
    fn from(region: MemoryRegion) -> Self {
        let MemoryRegion {
            guest_address,
            size,
            user_address,
            mmap_offset,
        } = region;
        Self {
            guest_address,
            size,
            user_address,
            mmap_offset,
        }
    }
}

impl Session<'_> {
    pub(super) fn is_enabled(&self, ring: &Ring) -> bool {
        // Without protocol features there is no SET_VRING_ENABLE, and rings start enabled.
        ring.enabled
            || self
                .features
                .is_some_and(|features| features & ring::VHOST_USER_PROTOCOL_FEATURES == 0)
    }

    fn index(&self, request: Request, index: u64) -> Result<u16, VhostUserError> {
        let count = self.rings.len() as u16;
        match u16::try_from(index) {
            Ok(valid) if valid < count => Ok(valid),
            _ => Err(VhostUserError::RingIndex {
                request: request.into(),
                index,
                count,
            }),
        }
    }

    fn ring(&mut self, index: u16) -> &mut Ring {
        &mut self.rings[usize::from(index)]
    }

    /// The index, if that ring may be reconfigured now.
    fn stopped_index(&self, request: Request, index: u32) -> Result<u16, VhostUserError> {
        let valid = self.index(request, index.into())?;
        if self.rings[usize::from(valid)].running {
            return Err(VhostUserError::Order {
                request: request.into(),
                expected: "GET_VRING_BASE of this ring",
            });
        }
        Ok(valid)
    }

    pub(super) fn set_ring_size(&mut self, state: VringState) -> Handled {
        let request = Request::SetVringNum;
        let index = self.stopped_index(request, state.index)?;
        if !state.num.is_power_of_two() || state.num > MAX_RING_SIZE {
            return Err(VhostUserError::Value {
                request: request.into(),
                what: "ring size",
                value: state.num.into(),
                expected: "a power of two, 1 to 32768",
            });
        }
        self.ring(index).size = state.num as u16;
        Ok(Outcome::Done)
    }

    pub(super) fn set_ring_base(&mut self, state: VringState) -> Handled {
        let request = Request::SetVringBase;
        let index = self.stopped_index(request, state.index)?;
        self.ring(index).base = u16::try_from(state.num).map_err(|_| VhostUserError::Value {
            request: request.into(),
            what: "base index",
            value: state.num.into(),
            expected: "0 to 65535 (split ring)",
        })?;
        Ok(Outcome::Done)
    }

    pub(super) fn set_ring_addresses(&mut self, addresses: VringAddress) -> Handled {
        let request = Request::SetVringAddr;
        let index = self.index(request, addresses.index.into())?;
        if addresses.flags != 0 {
            return Err(VhostUserError::Value {
                request: request.into(),
                what: "flags",
                value: addresses.flags.into(),
                expected: "0, because logging was not offered",
            });
        }
        if self.ring(index).addresses == Some(addresses) {
            return Ok(Outcome::Done);
        }
        self.stop(request, index)?;
        self.ring(index).addresses = Some(addresses);
        self.resume(request, index)
    }

    pub(super) fn get_ring_base(&mut self, state: VringState) -> Handled {
        let request = Request::GetVringBase;
        let index = self.index(request, state.index.into())?;
        let stopped = self.stop(request, index);
        let ring = self.ring(index);
        ring.started = false;
        ring.kick = None;
        let reply = VringState {
            index: state.index,
            num: ring.base.into(),
        };
        stopped?;
        Ok(Outcome::Reply(reply.as_bytes().to_vec(), None))
    }

    pub(super) fn set_ring_kick(&mut self, value: u64, fd: Option<OwnedFd>) -> Handled {
        let request = Request::SetVringKick;
        let (index, kick) = self.event(request, value, fd)?;
        // A new kick descriptor on a running ring means: go on where you are, but listen there.
        self.stop(request, index)?;
        let ring = self.ring(index);
        ring.kick = kick;
        ring.started = true;
        self.resume(request, index)
    }

    pub(super) fn set_ring_call(&mut self, value: u64, fd: Option<OwnedFd>) -> Handled {
        let request = Request::SetVringCall;
        let (index, call) = self.event(request, value, fd)?;
        let ring = self.ring(index);
        ring.call.clone_from(&call);
        if ring.running {
            self.device
                .set_queue_call(index, call)
                .map_err(|source| VhostUserError::Device {
                    request: request.into(),
                    source,
                })?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn set_ring_error(&mut self, value: u64, fd: Option<OwnedFd>) -> Handled {
        let request = Request::SetVringErr;
        let (index, error) = self.event(request, value, fd)?;
        let ring = self.ring(index);
        ring.error.clone_from(&error);
        if ring.running {
            self.device
                .set_queue_error(index, error)
                .map_err(|source| VhostUserError::Device {
                    request: request.into(),
                    source,
                })?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn set_ring_enable(&mut self, state: VringState) -> Handled {
        let request = Request::SetVringEnable;
        let index = self.index(request, state.index.into())?;
        if state.num > 1 {
            return Err(VhostUserError::Value {
                request: request.into(),
                what: "enable",
                value: state.num.into(),
                expected: "0 or 1",
            });
        }
        let before = self.is_enabled(&self.rings[usize::from(index)]);
        self.ring(index).enabled = state.num == 1;
        let after = self.is_enabled(&self.rings[usize::from(index)]);
        if before != after && self.ring(index).running {
            self.device
                .set_queue_enabled(index, after)
                .map_err(|source| VhostUserError::Device {
                    request: request.into(),
                    source,
                })?;
        }
        Ok(Outcome::Done)
    }

    /// Index and descriptor of SET_VRING_KICK, _CALL and _ERR.
    fn event(
        &self,
        request: Request,
        value: u64,
        fd: Option<OwnedFd>,
    ) -> Result<(u16, Option<Eventfd>), VhostUserError> {
        let index = self.index(request, value & !VRING_NO_FD)?;
        let expected = usize::from(value & VRING_NO_FD == 0);
        let count = usize::from(fd.is_some());
        if count != expected {
            return Err(VhostUserError::FdCount {
                request: request.into(),
                count,
                expected: expected..=expected,
            });
        }
        let event = fd.map(Eventfd::from_front_end).transpose();
        Ok((
            index,
            event.map_err(|source| VhostUserError::Eventfd {
                request: request.into(),
                source,
            })?,
        ))
    }

    /// Starts the ring if it is to run and does not.
    fn resume(&mut self, request: Request, index: u16) -> Handled {
        let ring = &self.rings[usize::from(index)];
        if !ring.started || ring.running {
            return Ok(Outcome::Done);
        }
        let result = self.start(request, index);
        if result.is_err()
            && let Some(error) = &self.rings[usize::from(index)].error
        {
            error.signal();
        }
        result.map(|()| Outcome::Done)
    }

    fn start(&mut self, request: Request, index: u16) -> Result<(), VhostUserError> {
        let request = MessageId::from(request);
        let order = |expected| VhostUserError::Order { request, expected };
        let ring = &self.rings[usize::from(index)];
        let addresses = ring.addresses.ok_or_else(|| order("SET_VRING_ADDR"))?;
        if ring.size == 0 {
            return Err(order("SET_VRING_NUM"));
        }
        let memory = self.memory.clone().ok_or_else(|| order("SET_MEM_TABLE"))?;
        let inflight = self
            .inflight
            .as_ref()
            .map(|region| region.queue(index, ring.size))
            .transpose();
        let setup = QueueSetup {
            index,
            size: ring.size,
            descriptor_table: addresses.descriptor,
            driver_area: addresses.available,
            device_area: addresses.used,
            last_available: ring.base,
            features: self.features.unwrap_or(0) & !ring::VHOST_USER_PROTOCOL_FEATURES,
            memory,
            kick: ring.kick.clone(),
            call: ring.call.clone(),
            error: ring.error.clone(),
            enabled: self.is_enabled(ring),
            inflight: inflight.map_err(|source| VhostUserError::Inflight { request, source })?,
        };
        self.device
            .start_queue(setup)
            .map_err(|source| VhostUserError::Device { request, source })?;
        self.ring(index).running = true;
        Ok(())
    }

    /// Takes the ring back from the device if the device has it.
    fn stop(&mut self, request: Request, index: u16) -> Result<(), VhostUserError> {
        if !self.ring(index).running {
            return Ok(());
        }
        let result = self.device.stop_queue(index);
        let ring = self.ring(index);
        ring.running = false;
        ring.base = result.map_err(|source| VhostUserError::Device {
            request: request.into(),
            source,
        })?;
        Ok(())
    }

    /// Stops every running ring; rings stay started.
    pub(super) fn stop_all(&mut self) {
        for index in 0..self.rings.len() as u16 {
            if let Err(error) = self.stop(Request::GetVringBase, index) {
                tracing::error!(queue = index, %error, "a queue did not stop in order");
            }
        }
    }

    /// RESET_DEVICE: everything about the driver is forgotten. The call and error descriptors are the front end's; it
    /// does not send the latter again.
    pub(super) fn reset_rings(&mut self) {
        self.stop_all();
        for ring in &mut self.rings {
            let Ring { call, error, .. } = std::mem::take(ring);
            *ring = Ring {
                call,
                error,
                ..Ring::default()
            };
        }
    }

    /// RESET_OWNER: all rings stopped and disabled.
    pub(super) fn disable_all(&mut self) {
        self.stop_all();
        for ring in &mut self.rings {
            ring.started = false;
            ring.enabled = false;
        }
    }

    pub(super) fn set_memory_table(&mut self, payload: &[u8], fds: Vec<OwnedFd>) -> Handled {
        let request = MessageId::from(Request::SetMemTable);
        let mismatch = |what, count, expected: usize| VhostUserError::PayloadCount {
            request,
            size: payload.len(),
            what,
            count,
            expected: expected as u64,
        };
        let Ok((table, rest)) = MemoryTableHeader::read_from_prefix(payload) else {
            return Err(mismatch("regions", 0, size_of::<MemoryTableHeader>()));
        };
        let count = table.regions as usize;
        if count == 0 || count > MAX_TABLE_REGIONS {
            return Err(VhostUserError::Value {
                request,
                what: "number of regions",
                value: table.regions.into(),
                expected: "1 to 8",
            });
        }
        // Some front ends always send room for eight regions.
        let needed = count * size_of::<MemoryRegion>();
        let Some(bytes) = rest.get(..needed) else {
            return Err(mismatch(
                "regions",
                table.regions,
                size_of::<MemoryTableHeader>() + needed,
            ));
        };
        if fds.len() != count {
            return Err(VhostUserError::FdCount {
                request,
                count: fds.len(),
                expected: count..=count,
            });
        }
        let mut regions = Vec::with_capacity(count);
        for (bytes, fd) in bytes.chunks_exact(size_of::<MemoryRegion>()).zip(fds) {
            let region = MemoryRegion::read_from_bytes(bytes).map_err(|_| {
                mismatch(
                    "regions",
                    table.regions,
                    size_of::<MemoryTableHeader>() + needed,
                )
            })?;
            regions.push((region.into(), fd));
        }
        let memory = GuestMemory::map(regions)
            .map_err(|source| VhostUserError::Memory { request, source })?;
        self.replace_memory(Request::SetMemTable, memory);
        Ok(Outcome::Done)
    }

    pub(super) fn add_memory_region(
        &mut self,
        single: SingleMemoryRegion,
        fd: Option<OwnedFd>,
    ) -> Handled {
        let request = MessageId::from(Request::AddMemReg);
        let fd = fd.ok_or(VhostUserError::FdCount {
            request,
            count: 0,
            expected: 1..=1,
        })?;
        let spec = RegionSpec::from(single.region);
        let memory = match &self.memory {
            // QEMU 7.2 repeats every region for each queue pair; the rings of the first pair run already.
            Some(memory) if memory.regions().any(|known| *known == spec) => {
                return Ok(Outcome::Done);
            }
            Some(memory) => {
                let count = memory.regions().count();
                if count >= MAX_MEMORY_SLOTS {
                    return Err(VhostUserError::Value {
                        request,
                        what: "number of regions",
                        value: count as u64 + 1,
                        expected: "at most 64",
                    });
                }
                memory.with_region(spec, fd)
            }
            None => GuestMemory::map(vec![(spec, fd)]),
        };
        let memory = memory.map_err(|source| VhostUserError::Memory { request, source })?;
        self.replace_memory(Request::AddMemReg, memory);
        Ok(Outcome::Done)
    }

    pub(super) fn remove_memory_region(&mut self, single: SingleMemoryRegion) -> Handled {
        let request = MessageId::from(Request::RemMemReg);
        let memory = self.memory.as_ref().ok_or(VhostUserError::Order {
            request,
            expected: "ADD_MEM_REG",
        })?;
        match memory.without_region(&single.region.into()) {
            Ok(memory) => self.replace_memory(Request::RemMemReg, memory),
            // Repeated for each queue pair, like the addition; the first one has done the work.
            Err(MemoryError::Unknown(_)) => {}
            Err(source) => return Err(VhostUserError::Memory { request, source }),
        }
        Ok(Outcome::Done)
    }

    /// Running rings stop, the memory changes, started rings go on. After the return nothing uses the old memory.
    fn replace_memory(&mut self, request: Request, memory: Arc<GuestMemory>) {
        self.stop_all();
        self.memory = Some(memory);
        for index in 0..self.rings.len() as u16 {
            // No failure of this message: the ring may come back with the next region, and if it does not, the
            // session's snapshot shows it as started but not running.
            if let Err(error) = self.resume(request, index) {
                tracing::warn!(queue = index, %error, "a queue waits for its memory");
            }
        }
    }
}
