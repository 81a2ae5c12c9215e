//! A guest's network device: the `VirtioDevice` that a transport drives (Virtio 1.2, 5.1), whose queues live on an lcore.
//!
//! It runs on the transport's thread, holds no ring and touches no packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sumeru_virtio::device::{DeviceError, DeviceType, QueueSetup, VirtioDevice};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::features::{ProtocolFeatures, net, ring};
use sumeru_virtio::vhost_user::FrontEnd;
use sumeru_virtio::{SplitLayout, SplitQueue};

use crate::frame::PortIndex;
use crate::net_header::{Accepts, Lead, NET_HEADER_LEN, SHORT_NET_HEADER_LEN};
use crate::ring::{Receiver, Sender};
use crate::switch::{Faults, WorkerHandle};

/// What the device offers, but for multi-queue.
const FEATURES: u64 = ring::VERSION_1
    | ring::INDIRECT_DESC
    | ring::EVENT_IDX
    | ring::ANY_LAYOUT
    | net::MRG_RXBUF
    | net::CSUM
    | net::GUEST_CSUM
    | net::GUEST_TSO4
    | net::GUEST_TSO6
    | net::GUEST_ECN
    | net::HOST_TSO4
    | net::HOST_TSO6
    | net::HOST_ECN
    | net::MTU;

/// Most queue pairs of a port.
pub const MAX_PAIRS: u16 = 16;

/// What the transport's thread and control both see of a device.
#[derive(Debug, Default)]
pub struct NetState {
    features: AtomicU64,
    running: AtomicU64,
    connected: AtomicBool,
}

impl NetState {
    /// Negotiated features.
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed)
    }

    /// Whether a front end is connected.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Queues that run, one bit each.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }
}

/// The network device of one port.
pub struct VhostNet {
    port: PortIndex,
    pairs: u16,
    mac: [u8; 6],
    mtu: u16,
    worker: WorkerHandle,
    state: Arc<NetState>,
    faults: Faults,
}

impl VhostNet {
    /// The device of port `port`, which was put on `worker` with as many `pairs`.
    pub fn new(
        port: PortIndex,
        pairs: u16,
        mac: [u8; 6],
        mtu: u16,
        worker: WorkerHandle,
        state: Arc<NetState>,
        faults: Faults,
    ) -> Self {
        Self {
            port,
            pairs,
            mac,
            mtu,
            worker,
            state,
            faults,
        }
    }

    /// Pair and direction of a queue; even queues are those the guest receives on.
    fn place(&self, index: u16) -> Result<(usize, bool), DeviceError> {
        let count = self.pairs * 2;
        if index >= count {
            return Err(DeviceError::NoSuchQueue { index, count });
        }
        Ok((usize::from(index / 2), index.is_multiple_of(2)))
    }

    fn is_running(&self, index: u16) -> bool {
        self.state.running() >> index & 1 == 1
    }

    fn mark(&self, index: u16, running: bool) {
        let old = self.state.running();
        let new = if running {
            old | 1 << index
        } else {
            old & !(1 << index)
        };
        self.state.running.store(new, Ordering::Relaxed);
    }

    fn require_running(&self, index: u16) -> Result<(usize, bool), DeviceError> {
        let place = self.place(index)?;
        if self.is_running(index) {
            Ok(place)
        } else {
            Err(DeviceError::NotRunning { index })
        }
    }
}

impl VirtioDevice for VhostNet {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        FEATURES | if self.pairs > 1 { net::MQ } else { 0 }
    }

    fn protocol_features(&self) -> ProtocolFeatures {
        ProtocolFeatures::TRANSPORT | ProtocolFeatures::NET_MTU
    }

    fn queue_count(&self) -> u16 {
        self.pairs * 2
    }

    fn attach_front_end(&mut self, _: FrontEnd) {
        self.state.connected.store(true, Ordering::Relaxed);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), DeviceError> {
        // struct virtio_net_config (5.1.4): mac, status (link up), max_virtqueue_pairs, mtu.
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&1_u16.to_le_bytes());
        config[8..10].copy_from_slice(&self.pairs.to_le_bytes());
        config[10..12].copy_from_slice(&self.mtu.to_le_bytes());
        data.fill(0);
        if let Some(from) = config.get(offset as usize..) {
            let len = from.len().min(data.len());
            data[..len].copy_from_slice(&from[..len]);
        }
        Ok(())
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), DeviceError> {
        Err(DeviceError::ConfigNotWritable {
            offset,
            end: offset.saturating_add(data.len() as u32),
        })
    }

    fn accept_features(&mut self, features: u64) -> Result<(), DeviceError> {
        if features & !self.features() != 0 {
            return Err(DeviceError::Features {
                features,
                reason: "more than was offered",
            });
        }
        self.state.features.store(features, Ordering::Relaxed);
        Ok(())
    }

    fn start_queue(&mut self, setup: QueueSetup) -> Result<(), DeviceError> {
        let index = setup.index;
        let (pair, receive) = self.place(index)?;
        if self.is_running(index) {
            return Err(DeviceError::AlreadyRunning { index });
        }
        let has = |bit| setup.features & bit != 0;
        let layout = SplitLayout {
            size: setup.size,
            descriptor_table: setup.descriptor_table,
            driver_area: setup.driver_area,
            device_area: setup.device_area,
            last_available: setup.last_available,
            event_idx: has(ring::EVENT_IDX),
            indirect: has(ring::INDIRECT_DESC),
        };
        let ring_error = |reason| DeviceError::Ring {
            index,
            reason: Box::new(reason),
        };
        let mut queue = SplitQueue::new(layout, setup.memory).map_err(ring_error)?;
        queue.set_events(setup.kick, setup.call);
        let mergeable = has(net::MRG_RXBUF);
        let net_header_len = if mergeable || has(ring::VERSION_1) {
            NET_HEADER_LEN
        } else {
            SHORT_NET_HEADER_LEN
        } as u16;
        let (port, enabled, features) = (self.port, setup.enabled, setup.features);
        // What stopped the queue of before is not this one's.
        if let Ok(mut faults) = self.faults.lock() {
            faults.remove(&(port, usize::from(index)));
        }
        let started = if receive {
            let receiver = Receiver::new(
                queue,
                net_header_len,
                mergeable,
                Accepts::from_features(features),
                enabled,
            );
            self.worker
                .call(move |worker, _| worker.set_receiver(port, pair, Some(receiver)).is_none())
        } else {
            let lead = Lead::of_driver(net_header_len, features);
            let sender = Sender::new(queue, lead, enabled);
            self.worker.call(move |worker, watch| {
                worker.set_sender(port, pair, Some(sender), watch).is_none()
            })
        };
        started.map_err(|_| DeviceError::LcoreGone { index })?;
        self.mark(index, true);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<u16, DeviceError> {
        let (pair, receive) = self.require_running(index)?;
        let port = self.port;
        // What comes back is dropped here, on this thread: unmapping is not the lcore's work.
        let gone = |_| DeviceError::LcoreGone { index };
        let next = if receive {
            let old = self
                .worker
                .call(move |worker, _| worker.set_receiver(port, pair, None))
                .map_err(gone)?;
            old.map(|mut receiver| receiver.queue().next_available())
        } else {
            let old = self
                .worker
                .call(move |worker, watch| worker.set_sender(port, pair, None, watch))
                .map_err(gone)?;
            old.map(|mut sender| sender.queue().next_available())
        };
        self.mark(index, false);
        next.ok_or(DeviceError::NotRunning { index })
    }

    fn set_queue_enabled(&mut self, index: u16, enabled: bool) -> Result<(), DeviceError> {
        let (pair, receive) = self.require_running(index)?;
        let port = self.port;
        let done = self
            .worker
            .call(move |worker, _| worker.set_enabled(port, pair, receive, enabled));
        done.map_err(|_| DeviceError::LcoreGone { index })
            .map(|_| ())
    }

    fn set_queue_call(&mut self, index: u16, call: Option<Eventfd>) -> Result<(), DeviceError> {
        let (pair, receive) = self.require_running(index)?;
        let port = self.port;
        let done = self
            .worker
            .call(move |worker, _| worker.set_call(port, pair, receive, call));
        done.map_err(|_| DeviceError::LcoreGone { index })
            .map(|_| ())
    }

    fn set_queue_error(&mut self, index: u16, _: Option<Eventfd>) -> Result<(), DeviceError> {
        // A halted queue is told to the log and the counters; front ends are known not to listen.
        self.require_running(index).map(|_| ())
    }

    fn set_mtu(&mut self, mtu: u16) -> Result<(), DeviceError> {
        if !(68..=9216).contains(&mtu) {
            return Err(DeviceError::OutOfRange {
                what: "MTU",
                value: mtu.into(),
                min: 68,
                max: 9216,
            });
        }
        self.mtu = mtu;
        Ok(())
    }

    fn reset(&mut self) {
        self.state.features.store(0, Ordering::Relaxed);
        self.state.connected.store(false, Ordering::Relaxed);
    }
}
