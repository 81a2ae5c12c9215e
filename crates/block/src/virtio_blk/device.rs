//! The virtio-blk device as its transport sees it: life cycle, features, configuration, queues on lcores.
//!
//! Runs on the transport's control thread; touches an lcore only by calls between two of its iterations.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use std::os::fd::AsFd;
use sumeru_engine::{Lcore, LcoreContext, PollerId};
use sumeru_virtio::device::{DeviceError, DeviceType, QueueSetup, VirtioDevice};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::features::{ProtocolFeatures, blk, ring};
use sumeru_virtio::inflight::Recovery;
use sumeru_virtio::vhost_user::FrontEnd;
use sumeru_virtio::{SplitLayout, SplitQueue};
use zerocopy::IntoBytes;

use crate::bdev::{Bdev, ResizeSubscription};

use super::config::{BlkConfig, WRITEBACK_AT, features, range_limit};
use super::queue::{BlkQueue, DeviceState, HaltReason, QueueParts};
use super::request::{ID_LEN, Limits};
use super::statistics::{QueueReport, QueueStatistics};

/// Most pieces that the kernel takes in one vector; a driver that splits finer than this is refused per request.
const MAX_SEGMENTS: u32 = 1024;
/// How often a slow drain is mentioned in the log.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How to make a controller.
pub struct BlkOptions {
    /// Its name, for messages.
    pub name: String,
    /// What the guest sees as serial number; cut to 20 bytes.
    pub serial: String,
    /// Request queues, 1 to 256.
    pub queues: u16,
    /// Where the queues are polled: queue `n` on lcore `n` modulo their number. At least one.
    pub lcores: Vec<Arc<Lcore>>,
}

/// Why a controller cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BlkError {
    /// No queue, or too many.
    #[error("controller {name}: {queues} queues, expected 1 to 256")]
    Queues {
        /// The controller.
        name: String,
        /// What was asked for.
        queues: u16,
    },
    /// Nowhere to poll.
    #[error("controller {0}: no lcore to poll its queues")]
    NoLcore(String),
}

/// A running queue, as control sees it.
struct Running {
    lcore: Arc<Lcore>,
    poller: PollerId<BlkQueue>,
}

/// What outlives the device's move into its endpoint: statistics, and the way to the front end for resizes.
struct Shared {
    state: Arc<DeviceState>,
    statistics: Vec<Arc<QueueStatistics>>,
    front_end: Mutex<Option<FrontEnd>>,
    /// The write cache as the driver set it (or as after a reset).
    writeback: AtomicBool,
}

impl Shared {
    fn front_end(&self) -> MutexGuard<'_, Option<FrontEnd>> {
        // Replaced whole; a panic elsewhere cannot have left it half-written.
        self.front_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn capacity_changed(&self, bytes: u64) {
        let name = &self.state.name;
        let Some(front_end) = self.front_end().clone() else {
            return;
        };
        match front_end.config_changed() {
            Ok(()) => tracing::info!(device = name, bytes, "told the guest of the new size"),
            // The front end reads the configuration when it connects, or when the guest asks for it.
            Err(error) => {
                tracing::info!(device = name, bytes, %error, "the guest is not told of the new size")
            }
        }
    }
}

/// A handle to a controller's statistics; lives as long as anybody wants it.
#[derive(Clone)]
pub struct BlkMonitor(Arc<Shared>);

impl BlkMonitor {
    /// The counters of every queue, by index.
    pub fn queues(&self) -> impl Iterator<Item = QueueReport> + '_ {
        self.0.statistics.iter().map(|queue| queue.report())
    }

    /// The controller's name.
    pub fn name(&self) -> &str {
        &self.0.state.name
    }
}

/// A virtio-blk controller over one block device.
pub struct VirtioBlk {
    bdev: Arc<dyn Bdev>,
    shared: Arc<Shared>,
    lcores: Vec<Arc<Lcore>>,
    running: Vec<Option<Running>>,
    accepted: u64,
    _resizes: ResizeSubscription,
}

impl VirtioBlk {
    /// A controller that serves `bdev`.
    ///
    /// # Errors
    /// [`BlkError`].
    pub fn new(bdev: Arc<dyn Bdev>, options: BlkOptions) -> Result<Self, BlkError> {
        let BlkOptions {
            name,
            serial,
            queues,
            lcores,
        } = options;
        if !(1..=256).contains(&queues) {
            return Err(BlkError::Queues { name, queues });
        }
        if lcores.is_empty() {
            return Err(BlkError::NoLcore(name));
        }
        let mut id = [0; ID_LEN];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        let state = DeviceState {
            name,
            serial: id,
            write_through: AtomicBool::new(false),
        };
        let shared = Arc::new(Shared {
            state: Arc::new(state),
            statistics: (0..queues).map(|_| Arc::default()).collect(),
            front_end: Mutex::new(None),
            writeback: AtomicBool::new(true),
        });
        let watcher = Arc::downgrade(&shared);
        let resizes = bdev.subscribe_resize(Box::new(move |bytes| {
            if let Some(shared) = watcher.upgrade() {
                shared.capacity_changed(bytes);
            }
        }));
        Ok(Self {
            bdev,
            shared,
            lcores,
            running: (0..queues).map(|_| None).collect(),
            accepted: 0,
            _resizes: resizes,
        })
    }

    /// A handle to the statistics.
    pub fn monitor(&self) -> BlkMonitor {
        BlkMonitor(self.shared.clone())
    }

    /// Write-through or write-back follows from what was negotiated and what the driver wrote (5.2.5.2, 5.2.6.2).
    fn apply_cache_mode(&self) {
        let writeback = if self.accepted & blk::CONFIG_WCE != 0 {
            self.shared.writeback.load(Ordering::Relaxed)
        } else {
            self.accepted & blk::FLUSH != 0
        };
        let write_through = &self.shared.state.write_through;
        write_through.store(!writeback, Ordering::Relaxed);
    }

    fn config(&self) -> BlkConfig {
        let writeback = self.shared.writeback.load(Ordering::Relaxed);
        BlkConfig::of(&self.bdev.info(), self.queue_count(), writeback)
    }

    fn limits(&self) -> Limits {
        let info = self.bdev.info();
        let negotiated = |feature: u64, limit: Option<crate::bdev::RangeLimit>| match limit {
            Some(limit) if self.accepted & feature != 0 => range_limit(limit.max_bytes),
            _ => 0,
        };
        Limits {
            segments: MAX_SEGMENTS,
            discard: negotiated(blk::DISCARD, info.discard),
            write_zeroes: negotiated(blk::WRITE_ZEROES, info.write_zeroes),
        }
    }

    /// Runs `f` on a running queue, on its lcore.
    fn with_queue<R: Send + 'static>(
        &self,
        index: u16,
        f: impl FnOnce(&mut BlkQueue) -> R + Send + 'static,
    ) -> Result<R, DeviceError> {
        let running = self
            .running
            .get(usize::from(index))
            .and_then(Option::as_ref);
        let running = running.ok_or(DeviceError::NotRunning { index })?;
        let poller = running.poller;
        let answer = running.lcore.call(move |local| local.get(poller).map(f));
        match answer {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(DeviceError::LcoreGone { index }),
        }
    }

    /// Why a queue was halted, if it runs and was.
    pub fn halted(&self, index: u16) -> Option<HaltReason> {
        self.with_queue(index, |queue| queue.halted())
            .ok()
            .flatten()
    }
}

/// Builds the ring, with what a predecessor left in flight.
fn build_ring(setup: &mut QueueSetup) -> Result<(SplitQueue, Vec<u16>), DeviceError> {
    let layout = SplitLayout {
        size: setup.size,
        descriptor_table: setup.descriptor_table,
        driver_area: setup.driver_area,
        device_area: setup.device_area,
        last_available: setup.last_available,
        event_idx: setup.features & ring::EVENT_IDX != 0,
        indirect: setup.features & ring::INDIRECT_DESC != 0,
    };
    let index = setup.index;
    let failed = |error| DeviceError::Ring {
        index,
        reason: Box::new(error),
    };
    let queue = SplitQueue::new(layout, setup.memory.clone()).map_err(failed)?;
    let Some(inflight) = &mut setup.inflight else {
        return Ok((queue, Vec::new()));
    };
    let Recovery {
        heads,
        next_available,
    } = inflight.recover(queue.used_index_published());
    if next_available == setup.last_available {
        return Ok((queue, heads));
    }
    let layout = SplitLayout {
        last_available: next_available,
        ..layout
    };
    let queue = SplitQueue::new(layout, setup.memory.clone()).map_err(failed)?;
    Ok((queue, heads))
}

impl VirtioDevice for VirtioBlk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        features(&self.bdev.info(), self.queue_count())
    }

    fn protocol_features(&self) -> ProtocolFeatures {
        ProtocolFeatures::TRANSPORT | ProtocolFeatures::CONFIG | ProtocolFeatures::INFLIGHT_SHMFD
    }

    fn queue_count(&self) -> u16 {
        self.running.len() as u16
    }

    fn attach_front_end(&mut self, front_end: FrontEnd) {
        *self.shared.front_end() = Some(front_end);
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) -> Result<(), DeviceError> {
        let config = self.config();
        let rest = config.as_bytes().get(offset as usize..).unwrap_or_default();
        data.fill(0);
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(())
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), DeviceError> {
        match (offset, data) {
            (WRITEBACK_AT, &[value @ (0 | 1)]) if self.accepted & blk::CONFIG_WCE != 0 => {
                self.shared.writeback.store(value == 1, Ordering::Relaxed);
                self.apply_cache_mode();
                Ok(())
            }
            _ => Err(DeviceError::ConfigNotWritable {
                offset,
                end: offset.saturating_add(data.len() as u32),
            }),
        }
    }

    fn accept_features(&mut self, features: u64) -> Result<(), DeviceError> {
        if features & ring::VERSION_1 == 0 {
            return Err(DeviceError::Features {
                features,
                reason: "VIRTIO_F_VERSION_1 is required",
            });
        }
        if features & !(self.features() | ring::VHOST_USER_PROTOCOL_FEATURES) != 0 {
            return Err(DeviceError::Features {
                features,
                reason: "not all of them were offered",
            });
        }
        self.accepted = features;
        self.apply_cache_mode();
        Ok(())
    }

    fn start_queue(&mut self, mut setup: QueueSetup) -> Result<(), DeviceError> {
        let (index, count) = (setup.index, self.queue_count());
        match self.running.get(usize::from(index)) {
            None => return Err(DeviceError::NoSuchQueue { index, count }),
            Some(Some(_)) => return Err(DeviceError::AlreadyRunning { index }),
            Some(None) => {}
        }
        let (queue, recovered) = build_ring(&mut setup)?;
        if !recovered.is_empty() {
            tracing::info!(
                device = self.shared.state.name,
                queue = index,
                requests = recovered.len(),
                "requests in flight are submitted again"
            );
        }
        let lcore = self.lcores[usize::from(index) % self.lcores.len()].clone();
        let bdev = self.bdev.clone();
        let (device, limits) = (self.shared.state.clone(), self.limits());
        let statistics = self.shared.statistics[usize::from(index)].clone();
        let failed = move |reason: Box<dyn std::error::Error + Send + Sync>| DeviceError::Ring {
            index,
            reason,
        };
        let started = lcore.call(move |local| {
            let context = LcoreContext::of(local).map_err(|e| failed(e.into()))?;
            let channel = bdev.open(&context).map_err(|e| failed(e.into()))?;
            if let Some(kick) = &setup.kick {
                local
                    .watch()
                    .add(kick.as_fd())
                    .map_err(|e| failed(e.into()))?;
            }
            let parts = QueueParts {
                index,
                queue,
                channel,
                limits,
                device,
                statistics,
                inflight: setup.inflight,
                recovered,
                kick: setup.kick,
                call: setup.call,
                error: setup.error,
                enabled: setup.enabled,
            };
            Ok(local.add(BlkQueue::new(parts, &context)))
        });
        let poller = started.map_err(|_| DeviceError::LcoreGone { index })??;
        self.running[usize::from(index)] = Some(Running { lcore, poller });
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Result<u16, DeviceError> {
        let (drained, end) = sync_channel(1);
        self.with_queue(index, move |queue| queue.stop(drained))?;
        let next_available = loop {
            match end.recv_timeout(DRAIN_PATIENCE) {
                Ok(next_available) => break next_available,
                Err(RecvTimeoutError::Timeout) => {
                    let pending = self.with_queue(index, |queue| queue.pending())?;
                    tracing::warn!(
                        device = self.shared.state.name,
                        queue = index,
                        pending,
                        "still waiting for I/O to complete"
                    );
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.running[usize::from(index)] = None;
                    return Err(DeviceError::LcoreGone { index });
                }
            }
        };
        let Some(running) = self.running[usize::from(index)].take() else {
            return Err(DeviceError::NotRunning { index });
        };
        let poller = running.poller;
        let removed = running.lcore.call(move |local| {
            let kick = local.get(poller).and_then(|queue| queue.kick().cloned());
            if let Some(kick) = kick {
                local.watch().remove(kick.as_fd());
            }
            local.remove(poller)
        });
        removed.map_err(|_| DeviceError::LcoreGone { index })?;
        Ok(next_available)
    }

    fn set_queue_enabled(&mut self, index: u16, enabled: bool) -> Result<(), DeviceError> {
        self.with_queue(index, move |queue| queue.set_enabled(enabled))
    }

    fn set_queue_call(&mut self, index: u16, call: Option<Eventfd>) -> Result<(), DeviceError> {
        self.with_queue(index, move |queue| queue.set_call(call))
    }

    fn set_queue_error(&mut self, index: u16, error: Option<Eventfd>) -> Result<(), DeviceError> {
        self.with_queue(index, move |queue| queue.set_error(error))
    }

    fn reset(&mut self) {
        self.accepted = 0;
        self.shared.writeback.store(true, Ordering::Relaxed);
        self.apply_cache_mode();
        // The front end's handle stays: a guest's reboot resets the device in the middle of a session, and a handle whose
        // session has ended says so itself.
    }
}

impl Drop for VirtioBlk {
    fn drop(&mut self) {
        // A transport that went without stopping its queues: nothing may touch the guest's memory any more.
        for index in 0..self.queue_count() {
            if self.running[usize::from(index)].is_some() {
                let _ = self.stop_queue(index);
            }
        }
    }
}
