//! One virtqueue of a virtio-blk device on its lcore: takes requests in bursts, submits them, gives them back.
//!
//! A burst goes in three passes, so that memory arrives before it is needed: read the chains, cut and parse the requests, submit
//! them. What is over at once is completed on the spot; the rest waits in preallocated slots. The used index is published, and
//! the driver notified, once per burst. No locks, no allocation, no waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use sumeru_engine::{Armed, Cx, LcoreContext, Poller};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::inflight::InflightQueue;
use sumeru_virtio::{Chain, RingError, SplitQueue};

use crate::bdev::{Channel, IoError, IoFuture, IoResult, Operation};

use super::pending::Pending;
use super::request::{ID_LEN, Limits, Payload, Refusal, Request, status};
use super::ring::{Parts, RequestRing, StatusByte};
use super::statistics::QueueStatistics;

/// Requests taken at once.
const BURST: u16 = 32;
/// Requests after which the driver is shown what is done, within a burst.
const SHOW: u32 = 8;
/// Requests after which others have their turn.
const BUDGET: u32 = 128;
/// Bytes of a request that count as one more.
const WEIGHT_BYTES: u32 = 8192;

/// Why a queue was halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// The ring breaks the rules.
    #[error("{0}")]
    Ring(#[from] RingError),
    /// A request without a byte for its status: it can neither be served nor refused.
    #[error("the request at head {0} has no writable byte for its status")]
    NoStatus(u16),
}

/// What all queues of a device share with control.
#[derive(Debug)]
pub struct DeviceState {
    /// The device's name, for the log.
    pub name: String,
    /// What GET_ID answers: padded with zeroes.
    pub serial: [u8; ID_LEN],
    /// Every write goes through to stable storage (5.2.6.2: no write-back cache negotiated, or switched off).
    pub write_through: AtomicBool,
}

/// Everything a queue starts with.
pub struct QueueParts {
    /// Its index.
    pub index: u16,
    /// The ring.
    pub queue: SplitQueue,
    /// The way to the disk.
    pub channel: Box<dyn Channel>,
    /// Limits in force.
    pub limits: Limits,
    /// Shared with the device.
    pub device: Arc<DeviceState>,
    /// Its cells.
    pub statistics: Arc<QueueStatistics>,
    /// In-flight tracking, recovered already.
    pub inflight: Option<InflightQueue>,
    /// Heads to submit again, in order.
    pub recovered: Vec<u16>,
    /// Written by the driver.
    pub kick: Option<Eventfd>,
    /// Written for the driver.
    pub call: Option<Eventfd>,
    /// Written once when the ring is halted.
    pub error: Option<Eventfd>,
    /// Requests are taken.
    pub enabled: bool,
}

/// What a request was, for the statistics and the used ring.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Flush,
    Unmap,
}

/// A request that was submitted and not completed.
#[derive(Clone, Copy)]
struct Owner {
    head: u16,
    status: StatusByte,
    kind: Kind,
    /// Bytes of data.
    len: u32,
}

/// A request between parsing and submission.
struct Staged {
    head: u16,
    parts: Parts,
    request: Result<Request, Refusal>,
}

/// The poller of one queue.
pub struct BlkQueue {
    index: u16,
    ring: RequestRing,
    channel: Box<dyn Channel>,
    limits: Limits,
    device: Arc<DeviceState>,
    statistics: Arc<QueueStatistics>,
    inflight: Option<InflightQueue>,
    /// Given back since the last publication; kept only with in-flight tracking.
    completed: Vec<u16>,
    recovered: Vec<u16>,
    pending: Pending<Owner>,
    /// Scratch of `reap`.
    over: Vec<(Owner, IoResult)>,
    chains: Vec<Chain>,
    staged: Vec<Staged>,
    kick: Option<Eventfd>,
    call: Option<Eventfd>,
    error: Option<Eventfd>,
    enabled: bool,
    halted: Option<HaltReason>,
    /// Control waits for the drain; gets the next available index.
    stopping: Option<SyncSender<u16>>,
    /// Completions not yet published.
    unpublished: usize,
    /// Requests that may still be taken in this turn.
    budget: u32,
}

impl BlkQueue {
    /// A queue on the lcore of `cx`.
    pub fn new(parts: QueueParts, cx: &LcoreContext) -> Self {
        let size = usize::from(parts.queue.size());
        let mut queue = Self {
            index: parts.index,
            ring: RequestRing::new(parts.queue),
            channel: parts.channel,
            limits: parts.limits,
            device: parts.device,
            statistics: parts.statistics,
            inflight: parts.inflight,
            completed: Vec::with_capacity(size),
            recovered: parts.recovered,
            pending: Pending::new(size, cx.executor().alarm().clone()),
            over: Vec::with_capacity(size),
            chains: Vec::with_capacity(usize::from(BURST)),
            staged: Vec::with_capacity(usize::from(BURST)),
            kick: parts.kick,
            call: parts.call,
            error: parts.error,
            enabled: parts.enabled,
            halted: None,
            stopping: None,
            unpublished: 0,
            budget: 0,
        };
        queue.ring.queue().disarm();
        queue
    }

    /// The eventfd that the driver writes.
    pub fn kick(&self) -> Option<&Eventfd> {
        self.kick.as_ref()
    }

    /// Takes requests, or leaves them in the ring.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Replaces the descriptor that the driver is notified by.
    pub fn set_call(&mut self, call: Option<Eventfd>) {
        self.call = call;
    }

    /// Replaces the descriptor that a halt is told by.
    pub fn set_error(&mut self, error: Option<Eventfd>) {
        self.error = error;
    }

    /// Why the queue was halted, if it was.
    pub fn halted(&self) -> Option<HaltReason> {
        self.halted
    }

    /// Requests under way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes no more requests; sends the next available index when all that was taken is completed.
    pub fn stop(&mut self, drained: SyncSender<u16>) {
        self.stopping = Some(drained);
    }

    #[inline(always)]
    fn takes(&self) -> bool {
        self.enabled && self.halted.is_none() && self.stopping.is_none()
    }

    /// Takes and submits one burst.
    #[inline]
    fn serve(&mut self) -> Result<usize, HaltReason> {
        if !self.recovered.is_empty() {
            return self.resubmit();
        }
        let room = self.pending.room() as u16;
        let count = self.ring.queue().available(BURST)?.min(BURST).min(room);
        if count == 0 {
            return Ok(0);
        }
        self.ring.clear();
        self.chains.clear();
        self.ring.queue_ref().prefetch_descriptors(count, 1);
        let mut outcome = Ok(());
        for ahead in 0..count {
            match self.ring.peek(ahead) {
                Ok(chain) => self.chains.push(chain),
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        let taken = self.chains.len();
        self.ring.queue().take(taken as u16);
        if let Some(inflight) = &mut self.inflight {
            for chain in &self.chains {
                inflight.mark(chain.head);
            }
        }
        self.run_burst().and(outcome)?;
        Ok(taken)
    }

    /// Submits what a predecessor left behind, before anything new, in the order it was taken.
    #[cold]
    fn resubmit(&mut self) -> Result<usize, HaltReason> {
        let count = self
            .recovered
            .len()
            .min(usize::from(BURST))
            .min(self.pending.room());
        self.ring.clear();
        self.chains.clear();
        let mut outcome = Ok(());
        for head in self.recovered.drain(..count) {
            match self.ring.chain(head) {
                Ok(chain) => self.chains.push(chain),
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        let taken = self.chains.len();
        self.statistics.resubmitted.add(taken as u64);
        self.run_burst().and(outcome)?;
        Ok(taken)
    }

    /// Cuts, parses and submits the chains in hand.
    #[inline]
    fn run_burst(&mut self) -> Result<(), HaltReason> {
        self.staged.clear();
        let mut outcome = Ok(());
        for chain in &self.chains {
            let Some(parts) = self.ring.open(chain) else {
                outcome = Err(HaltReason::NoStatus(chain.head));
                break;
            };
            let request = match &parts.header {
                None => Err(Refusal::ShortHeader),
                Some(header) => {
                    let payload = Payload {
                        readable_len: parts.readable_len,
                        readable_segments: parts.readable.end - parts.readable.start,
                        writable_len: parts.writable_len,
                        writable_segments: parts.writable.end - parts.writable.start,
                    };
                    Request::parse(header, &payload, &self.limits, || {
                        let mut range = [0; 16];
                        self.ring.read(&parts.readable, &mut range);
                        range
                    })
                }
            };
            self.staged.push(Staged {
                head: chain.head,
                parts,
                request,
            });
        }
        let mut staged = std::mem::take(&mut self.staged);
        let mut unshown = 0;
        for (at, one) in staged.iter().enumerate() {
            if let Some(next) = staged.get(at + 1)
                && let Some((operation, _)) = self.operation(next)
            {
                self.channel.prefetch(&operation);
            }
            self.submit(one);
            // The driver works on what is done while we go on.
            let weight = 1 + (one.parts.readable_len + one.parts.writable_len) / WEIGHT_BYTES;
            self.budget = self.budget.saturating_sub(weight);
            unshown += weight;
            if unshown >= SHOW {
                unshown = 0;
                self.show();
            }
        }
        self.show();
        staged.clear();
        self.staged = staged;
        outcome
    }

    /// What a request asks of the disk, and whose it is; `None` when it asks nothing.
    #[inline(always)]
    fn operation(&self, staged: &Staged) -> Option<(Operation<'_>, Owner)> {
        let parts = &staged.parts;
        let (operation, kind, len) = match *staged.request.as_ref().ok()? {
            Request::Read { offset } => {
                let buffers = self.ring.segments(&parts.writable);
                let read = Operation::Read { offset, buffers };
                (read, Kind::Read, parts.writable_len)
            }
            Request::Write { offset } => {
                let write = Operation::Write {
                    offset,
                    buffers: self.ring.segments(&parts.readable),
                    fua: self.device.write_through.load(Ordering::Relaxed),
                };
                (write, Kind::Write, parts.readable_len)
            }
            Request::Flush => (Operation::Flush, Kind::Flush, 0),
            Request::Discard { offset, len } => {
                (Operation::Discard { offset, len }, Kind::Unmap, 0)
            }
            Request::WriteZeroes { offset, len, unmap } => {
                let zero = Operation::WriteZeroes { offset, len, unmap };
                (zero, Kind::Unmap, 0)
            }
            Request::GetId => return None,
        };
        let owner = Owner {
            head: staged.head,
            status: parts.status,
            kind,
            len,
        };
        Some((operation, owner))
    }

    #[inline]
    fn submit(&mut self, staged: &Staged) {
        let Some((operation, owner)) = self.operation(staged) else {
            return self.answer(staged);
        };
        match self.channel.submit(operation) {
            IoFuture::Ready(result) => self.finish(owner, result),
            future => {
                if let Some((owner, result)) = self.pending.start(owner, future) {
                    self.finish(owner, result);
                }
            }
        }
    }

    /// Answers a request that asks nothing of the disk.
    #[cold]
    fn answer(&mut self, staged: &Staged) {
        let parts = &staged.parts;
        if let Err(refusal) = staged.request {
            self.statistics.refused.add(1);
            tracing::debug!(device = self.device.name, queue = self.index, head = staged.head, %refusal, "refused");
            return self.give_back(staged.head, parts.status, refusal.status(), 0);
        }
        let written = self.ring.write(&parts.writable, &self.device.serial) as u32;
        self.statistics.identifies.add(1);
        // The status follows the data only if the driver left no gap.
        let gapless = written == parts.writable_len;
        self.give_back(
            staged.head,
            parts.status,
            status::OK,
            written + u32::from(gapless),
        );
    }

    #[inline]
    fn finish(&mut self, owner: Owner, result: IoResult) {
        let len = u64::from(owner.len);
        let cells = &self.statistics;
        match result {
            Ok(()) => {
                match owner.kind {
                    Kind::Read => {
                        cells.reads.add(1);
                        cells.read_bytes.add(len);
                    }
                    Kind::Write => {
                        cells.writes.add(1);
                        cells.written_bytes.add(len);
                    }
                    Kind::Flush => cells.flushes.add(1),
                    Kind::Unmap => cells.unmaps.add(1),
                }
                let data = if matches!(owner.kind, Kind::Read) {
                    owner.len
                } else {
                    0
                };
                self.give_back(owner.head, owner.status, status::OK, data + 1);
            }
            Err(error) => {
                cells.errors.add(1);
                tracing::debug!(device = self.device.name, queue = self.index, head = owner.head, %error, "failed");
                let value = match error {
                    IoError::Unsupported => status::UNSUPP,
                    _ => status::IOERR,
                };
                self.give_back(owner.head, owner.status, value, 0);
            }
        }
    }

    #[inline]
    fn give_back(&mut self, head: u16, status: StatusByte, value: u8, written: u32) {
        if let Some(inflight) = &mut self.inflight {
            inflight.stage(head);
            self.completed.push(head);
        }
        self.ring.complete(head, status, value, written);
        self.unpublished += 1;
    }

    /// Shows what was completed to the driver.
    #[inline]
    fn show(&mut self) {
        if self.unpublished == 0 {
            return;
        }
        self.unpublished = 0;
        let queue = self.ring.queue();
        queue.publish();
        if let Some(inflight) = &mut self.inflight {
            inflight.commit(self.completed.drain(..), queue.used_index_published());
        }
    }

    /// The same, and notifies the driver of all it was shown if it wants that.
    #[inline]
    fn publish(&mut self) {
        self.show();
        if self.ring.queue().wants_notification()
            && let Some(call) = &self.call
        {
            call.signal();
            self.statistics.notifications.add(1);
        }
    }

    fn reap(&mut self) -> usize {
        if self.pending.len() == 0 {
            return 0;
        }
        let over = &mut self.over;
        self.pending
            .reap(|owner, result| over.push((owner, result)));
        let mut over = std::mem::take(&mut self.over);
        let count = over.len();
        for (owner, result) in over.drain(..) {
            self.finish(owner, result);
        }
        self.over = over;
        count
    }

    #[cold]
    fn halt(&mut self, reason: HaltReason) {
        self.halted = Some(reason);
        self.recovered.clear();
        self.statistics.halts.add(1);
        tracing::warn!(device = self.device.name, queue = self.index, %reason, "queue halted");
        if let Some(error) = &self.error {
            error.signal();
        }
    }

    #[cold]
    fn end_stop(&mut self) {
        if let Some(drained) = self.stopping.take() {
            // Nobody listening means that control gave up; the queue goes with its removal.
            let _ = drained.send(self.ring.queue_ref().next_available());
            self.enabled = false;
        }
    }
}

impl Poller for BlkQueue {
    #[inline]
    fn poll(&mut self, _: &Cx) -> usize {
        let mut moved = self.reap();
        self.budget = BUDGET;
        // What the driver adds meanwhile is taken along, within bounds: others wait.
        while self.takes() && self.budget > 0 {
            match self.serve() {
                Ok(0) => break,
                Ok(taken) => moved += taken,
                Err(reason) => self.halt(reason),
            }
        }
        self.publish();
        if self.stopping.is_some() && self.pending.len() == 0 {
            self.end_stop();
        }
        moved
    }

    fn arm(&mut self, _: &Cx) -> Armed {
        if self.pending.is_woken() {
            return Armed::Busy;
        }
        if !self.takes() {
            return Armed::Sleep;
        }
        if self.kick.is_none() {
            return Armed::Busy;
        }
        if !self.recovered.is_empty() {
            return Armed::Busy;
        }
        match self.ring.queue().arm() {
            Ok(false) => Armed::Sleep,
            Ok(true) => Armed::Busy,
            Err(error) => {
                self.halt(error.into());
                Armed::Sleep
            }
        }
    }

    fn disarm(&mut self) {
        if self.takes() {
            self.ring.queue().disarm();
        }
    }
}
