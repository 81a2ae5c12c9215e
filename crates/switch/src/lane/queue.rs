//! The frames that wait in front of a port with an egress scheduler. [`crate::qos::scheduler`] says which goes next, and when; here they
//! are copied aside, as their senders' memory is given back at the end of the burst, and sent when their time has come.
//!
//! All memory is taken when the queue is made. Each class has the frames and the bytes that its limits allow for itself, so no tenant can take
//! another's room. Frames of the switch's own (ARP, LACP, LLDP) do not wait.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use sumeru_engine::Tsc;
use sumeru_packet::{Field, Layer};
use sumeru_virtio::GuestSlice;

use super::{Lane, LocalPort, send};
use crate::edit;
use crate::frame::{BURST, Frame, MAX_FRAME, PortIndex};
use crate::qos::QosError;
use crate::qos::codel::CodelConfig;
use crate::qos::fifo::Frame as Waiting;
use crate::qos::node::{ClassConfig, ClassId, ClassStats, Fate, PortConfig, Shape, TenantConfig};
use crate::qos::scheduler::Scheduler;
use crate::ring::check_mtu;
use crate::snapshot::NetworkId;
use crate::stats::{Drop, PipelineCounters};

/// Bytes of a piece of a waiting frame.
const CHUNK: usize = 2048;
/// Fewest frames of a class: their share of the bytes is enough for the longest frame.
pub const FRAMES_MIN: u32 = 64;
/// Most frames that may wait in front of a port, over all classes.
pub const FRAMES_MAX: u32 = 1 << 16;
const _: () = assert!(FRAMES_MIN as usize * CHUNK >= MAX_FRAME as usize);
/// What may go at once after a pause: the rate's share of this time, but [`BURST_MIN`] at least.
const BURST_TIME: Duration = Duration::from_millis(5);
const BURST_MIN: u64 = 10_000;
/// CoDel's times (RFC 8289, 4.2 and 4.3).
const TARGET: Duration = Duration::from_millis(5);
const INTERVAL: Duration = Duration::from_millis(100);
/// Bursts that are sent by a port in one turn of the lcore.
const BURSTS: usize = 4;

const NONE: u32 = u32::MAX;

/// A tenant's share of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Frames of which network; None for those of all that have no share of their own.
    pub network: Option<NetworkId>,
    /// Level, 0 (served first) to 7.
    pub priority: u8,
    /// Share of the level, 1 to 1024.
    pub weight: u16,
    /// Bits per second, if it is limited by itself.
    pub rate: Option<u64>,
}

/// A class of each tenant's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Frames with these code points (RFC 2474); empty for those with all that have no class of their own, and what is not IP.
    pub dscp: Vec<u8>,
    /// Level within the tenant, 0 (served first) to 7.
    pub priority: u8,
    /// Share of the level, 1 to 1024.
    pub weight: u16,
}

/// How frames leave by a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressConfig {
    /// Bits of frames per second.
    pub rate: u64,
    /// Frames that may wait in each class of each tenant, [`FRAMES_MIN`] at least.
    pub frames: u32,
    /// Tenants with a share of their own. Without one for all others, that has priority 0 and weight 1.
    pub tenants: Vec<Tenant>,
    /// Classes. Without one for all other frames, that has priority 0 and weight 1.
    pub classes: Vec<Class>,
}

/// What a class of a tenant has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// The tenant, by its network; None for all others.
    pub network: Option<NetworkId>,
    /// The class, by its code points; empty for all others.
    pub dscp: Vec<u8>,
    /// Its counts.
    pub stats: ClassStats,
}

/// The queue in front of a port.
pub struct EgressQueue {
    scheduler: Scheduler,
    config: EgressConfig,
    /// Where a tenant's classes begin in `classes`; 0 for others.
    tenants: HashMap<NetworkId, usize>,
    /// Of each tenant in the order of the configuration, its classes in theirs.
    classes: Vec<ClassId>,
    class_of: [u8; 64],
    other_class: u8,
    /// The frames that wait, their headers with them.
    slots: Vec<Frame>,
    free: Vec<u32>,
    /// The first piece of what is behind each slot's headers, and the next of each piece.
    first: Vec<u32>,
    next: Vec<u32>,
    free_chunks: Vec<u32>,
    /// The pieces; `base` is the same memory.
    _memory: Vec<u8>,
    base: GuestSlice,
    /// What is about to leave.
    leaving: Box<[Frame]>,
    list: Vec<GuestSlice>,
    slots_leaving: Vec<u32>,
}

fn shape(rate: u64) -> Shape {
    let burst = u128::from(rate) * BURST_TIME.as_nanos() / 8_000_000_000;
    Shape {
        bits_per_s: rate,
        burst: u64::try_from(burst).unwrap_or(u64::MAX).max(BURST_MIN),
    }
}

/// The piece of this number.
fn chunk_of(base: GuestSlice, number: u32) -> GuestSlice {
    base.skip(number * CHUNK as u32).take(CHUNK as u32)
}

impl EgressQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// [`QosError`]: a rate, weight or priority that cannot be, or more than [`FRAMES_MAX`] frames over all classes.
    pub fn new(mut config: EgressConfig) -> Result<Self, QosError> {
        let now = Tsc::now().0;
        if config.tenants.iter().all(|tenant| tenant.network.is_some()) {
            config.tenants.push(Tenant {
                network: None,
                priority: 0,
                weight: 1,
                rate: None,
            });
        }
        if config.classes.iter().all(|class| !class.dscp.is_empty()) {
            config.classes.push(Class {
                dscp: Vec::new(),
                priority: 0,
                weight: 1,
            });
        }
        config.frames = config.frames.max(FRAMES_MIN);
        let queues = (config.tenants.len() * config.classes.len()) as u64;
        let total = queues * u64::from(config.frames);
        if total > FRAMES_MAX.into() {
            return Err(QosError::Limit(total));
        }
        let total = total as u32;
        let mut scheduler = Scheduler::new(
            PortConfig {
                ticks_per_s: Tsc::hz(),
                shape: Some(shape(config.rate)),
                frames: total,
                framing: 0,
            },
            now,
        )?;
        let codel = CodelConfig {
            target: Tsc::ticks(TARGET),
            interval: Tsc::ticks(INTERVAL),
        };
        let (mut tenants, mut classes) = (HashMap::new(), Vec::new());
        for tenant in &config.tenants {
            if let Some(network) = tenant.network {
                tenants.insert(network, classes.len());
            }
            let id = scheduler.add_tenant(
                &TenantConfig {
                    priority: tenant.priority,
                    weight: tenant.weight,
                    shape: tenant.rate.map(shape),
                },
                now,
            )?;
            for class in &config.classes {
                classes.push(scheduler.add_class(
                    id,
                    &ClassConfig {
                        priority: class.priority,
                        weight: class.weight,
                        frames: config.frames,
                        bytes: u64::from(config.frames) * CHUNK as u64,
                        codel: Some(codel),
                    },
                )?);
            }
        }
        let other = config.classes.iter().position(|c| c.dscp.is_empty());
        let other_class = other.unwrap_or(0) as u8;
        let mut class_of = [other_class; 64];
        for (number, class) in (0..).zip(&config.classes) {
            for dscp in &class.dscp {
                if let Some(slot) = class_of.get_mut(usize::from(*dscp)) {
                    *slot = number;
                }
            }
        }
        // One more, so that it is always the scheduler that refuses, and counts.
        let slots = total + 1;
        // A frame of n bytes takes at most n / CHUNK + 1 pieces.
        let chunks = 2 * total;
        let mut memory = vec![0; chunks as usize * CHUNK];
        Ok(Self {
            scheduler,
            tenants,
            classes,
            class_of,
            other_class,
            slots: vec![Frame::new(); slots as usize],
            free: (0..slots).collect(),
            first: vec![NONE; slots as usize],
            next: vec![NONE; chunks as usize],
            free_chunks: (0..chunks).collect(),
            base: GuestSlice::from_own(&mut memory),
            _memory: memory,
            leaving: vec![Frame::new(); BURST].into_boxed_slice(),
            list: Vec::with_capacity(BURST * (MAX_FRAME as usize / CHUNK + 2)),
            slots_leaving: Vec::with_capacity(BURST),
            config,
        })
    }

    /// Frames that wait.
    pub fn backlog(&self) -> u32 {
        self.scheduler.backlog()
    }

    /// When a frame may leave, if any waits: ticks of the time-stamp counter.
    pub fn next_event(&mut self, now: u64) -> Option<u64> {
        self.scheduler.next_event(now)
    }

    /// What each class of each tenant has seen.
    pub fn report(&self) -> Vec<QueueReport> {
        let pairs = self.config.tenants.iter().flat_map(|tenant| {
            let classes = self.config.classes.iter();
            classes.map(move |class| (tenant.network, class.dscp.clone()))
        });
        let one = |((network, dscp), id): ((_, _), &ClassId)| {
            Some(QueueReport {
                network,
                dscp,
                stats: self.scheduler.stats(*id)?,
            })
        };
        pairs.zip(&self.classes).filter_map(one).collect()
    }

    fn class(&self, frame: &Frame, network: Option<NetworkId>) -> Option<ClassId> {
        let others = self.config.tenants.iter().position(|t| t.network.is_none());
        let others = || others.unwrap_or(0) * self.config.classes.len();
        let known = network.and_then(|network| self.tenants.get(&network).copied());
        let o = Layer::Outer;
        let class = match frame.key.get(Field::EthType(o)) {
            0x0800 | 0x86dd => {
                let dscp = frame.key.get(Field::IpTos(o)) as usize >> 2;
                self.class_of.get(dscp).copied()
            }
            _ => None,
        };
        let class = usize::from(class.unwrap_or(self.other_class));
        self.classes
            .get(known.unwrap_or_else(others) + class)
            .copied()
    }

    /// Takes a copy of a frame, unless there is no room for it.
    ///
    /// # Safety
    /// The memory behind the frame's segments is mapped.
    unsafe fn push(
        &mut self,
        frame: &Frame,
        list: &[GuestSlice],
        network: Option<NetworkId>,
        now: u64,
    ) -> Result<(), Drop> {
        let class = self.class(frame, network).ok_or(Drop::QueueFull)?;
        let slot = self.free.pop().ok_or(Drop::QueueFull)?;
        let waiting = Waiting {
            handle: slot,
            len: frame.len,
            ecn: edit::congestion(frame) != 0,
        };
        if self.scheduler.enqueue(class, waiting, now).is_err() {
            self.free.push(slot);
            return Err(Drop::QueueFull);
        }
        let copy = &mut self.slots[slot as usize];
        copy.clone_from(frame);
        (copy.skip, copy.segments) = (0, 0);
        let (mut skip, mut left) = (u32::from(frame.skip), frame.payload_len());
        let mut end = NONE;
        self.first[slot as usize] = NONE;
        let mut room = GuestSlice::EMPTY;
        for segment in frame.segments(list) {
            let mut run = segment.skip(skip).take(left);
            skip -= skip.min(segment.len());
            left -= run.len();
            while !run.is_empty() {
                if room.is_empty() {
                    // The limits of the classes leave a piece for every byte that they let in.
                    let Some(chunk) = self.free_chunks.pop() else {
                        break;
                    };
                    self.next[chunk as usize] = NONE;
                    match self.next.get_mut(end as usize) {
                        Some(next) => *next = chunk,
                        None => self.first[slot as usize] = chunk,
                    }
                    end = chunk;
                    room = chunk_of(self.base, chunk);
                    self.slots[slot as usize].segments += 1;
                }
                // SAFETY: `run` by the caller's word; `room` is our own memory.
                let copied = unsafe { room.write_slice(&run) } as u32;
                (run, room) = (run.skip(copied), room.skip(copied));
            }
        }
        Ok(())
    }

    /// Gives the room of a frame back.
    fn release(&mut self, slot: u32) {
        let mut chunk = std::mem::replace(&mut self.first[slot as usize], NONE);
        while let Some(next) = self.next.get(chunk as usize) {
            self.free_chunks.push(chunk);
            chunk = *next;
        }
        self.free.push(slot);
    }

    /// Gets the next burst ready to leave; answers how many frames, and how many were dropped because they had waited for too long.
    fn stage(&mut self, now: u64) -> (usize, u64) {
        let mut dropped = 0;
        self.list.clear();
        while self.slots_leaving.len() < BURST {
            let Some(departure) = self.scheduler.dequeue(now) else {
                break;
            };
            let slot = departure.frame.handle;
            if departure.fate == Fate::Drop {
                dropped += 1;
                self.release(slot);
                continue;
            }
            let marked = departure.fate == Fate::MarkAndSend;
            self.take_out(slot, marked);
        }
        (self.slots_leaving.len(), dropped)
    }

    /// Puts a frame behind those that are about to leave, of which there are fewer than a burst.
    fn take_out(&mut self, slot: u32, marked: bool) {
        let frame = &mut self.leaving[self.slots_leaving.len()];
        std::mem::swap(frame, &mut self.slots[slot as usize]);
        if marked {
            edit::mark_congestion(frame);
        }
        frame.first_segment = self.list.len() as u32;
        let mut chunk = self.first[slot as usize];
        while let Some(next) = self.next.get(chunk as usize) {
            self.list.push(chunk_of(self.base, chunk));
            chunk = *next;
        }
        self.slots_leaving.push(slot);
    }

    /// Takes all frames out of their classes, which are gone then; the oldest of each class first.
    fn close(&mut self) -> Vec<u32> {
        let mut slots = Vec::new();
        for class in &self.classes {
            // It was there until now.
            let _ = self.scheduler.remove_class(*class, |slot| slots.push(slot));
        }
        slots
    }

    /// Sends what is about to leave, and gives its room back.
    fn send(&mut self, port: &mut LocalPort, counters: &PipelineCounters) {
        let order: [u8; BURST] = std::array::from_fn(|at| at as u8);
        let order = &order[..self.slots_leaving.len()];
        send(port, &self.leaving, order, &[], &self.list, counters);
        while let Some(slot) = self.slots_leaving.pop() {
            self.release(slot);
        }
    }
}

impl Lane {
    /// Queues the frames `order` of the burst for a port that has a scheduler. Answers whether some were too long for it.
    pub(super) fn hold(&mut self, index: PortIndex, order: &[u8]) -> bool {
        let Some(port) = self.port(index) else {
            return false;
        };
        let max_frame = port.max_frame;
        let Some(mut queue) = port.queue.take() else {
            return false;
        };
        let (mut lost, mut too_long) = (0, false);
        for at in order {
            let Some(frame) = self.frames.get(usize::from(*at)) else {
                continue;
            };
            // SAFETY: `list` holds segments of the burst in hand, whose memory is mapped.
            let held = check_mtu(frame, max_frame).and_then(|()| unsafe {
                queue.push(frame, &self.list, self.tenant_of(frame), self.now)
            });
            if let Err(reason) = held {
                too_long |= reason == Drop::ExceedsMtu;
                self.counters.dropped(reason.into());
                lost += 1;
            }
        }
        if !self.queued.contains(&index) {
            self.queued.push(index);
        }
        if let Some(port) = self.port(index) {
            port.counters.tx_drops.add(lost);
            port.queue = Some(queue);
        }
        too_long
    }

    /// The network that a frame came from: that of its port, or of the tunnel that it came in by.
    fn tenant_of(&self, frame: &Frame) -> Option<NetworkId> {
        let from = self.ports.get(usize::from(frame.in_port))?.as_ref()?;
        if from.uplink {
            return Some(frame.key.get(Field::TunnelId(Layer::Outer)) as NetworkId);
        }
        from.network
    }

    /// Sends what may leave now of the frames that wait.
    #[cold]
    pub fn run_queues(&mut self) -> usize {
        let mut moved = 0;
        for at in (0..self.queued.len()).rev() {
            let index = self.queued[at];
            if self.port(index).is_none_or(|port| port.queue.is_none()) {
                self.queued.swap_remove(at);
                continue;
            }
            for _ in 0..BURSTS {
                let count = self.send_staged(index, self.now);
                moved += count;
                if count < BURST {
                    break;
                }
            }
            let port = self.port(index).and_then(|port| port.queue.as_ref());
            if port.is_none_or(|queue| queue.backlog() == 0) {
                self.queued.swap_remove(at);
            }
        }
        moved
    }

    fn send_staged(&mut self, index: PortIndex, now: u64) -> usize {
        let counters = self.counters.clone();
        let Some(port) = self.port(index) else {
            return 0;
        };
        let Some(mut queue) = port.queue.take() else {
            return 0;
        };
        let (count, dropped) = queue.stage(now);
        counters.dropped_many(Drop::QueueDelay.into(), dropped);
        port.counters.tx_drops.add(dropped);
        if count > 0 {
            queue.send(port, &counters);
        }
        port.queue = Some(queue);
        self.unsettled(index);
        count
    }

    /// When the first of the frames that wait may leave.
    pub fn queues_due(&mut self, now: u64) -> Option<u64> {
        let mut due = None;
        for at in 0..self.queued.len() {
            let port = self.port(self.queued[at]);
            let event = port
                .and_then(|port| port.queue.as_mut())
                .and_then(|queue| queue.next_event(now));
            due = [due, event].into_iter().flatten().min();
        }
        due
    }

    /// Gives a port another queue, or none; what waits in the old one leaves at once. Answers the old one, to be dropped elsewhere.
    pub fn set_queue(
        &mut self,
        index: PortIndex,
        queue: Option<Box<EgressQueue>>,
    ) -> Option<Box<EgressQueue>> {
        let counters = self.counters.clone();
        let port = self.port(index)?;
        let mut old = std::mem::replace(&mut port.queue, queue);
        if let Some(old) = &mut old {
            for burst in old.close().chunks(BURST) {
                old.list.clear();
                burst.iter().for_each(|slot| old.take_out(*slot, false));
                old.send(port, &counters);
            }
            self.unsettled(index);
        }
        old
    }
}
