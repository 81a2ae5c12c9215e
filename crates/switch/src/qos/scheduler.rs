//! The scheduler in front of a port: which frame goes next, and when. Port, tenants, classes:
//!
//! ```text
//! port (shaper) ─┬─ level 0 ─┬─ tenant (weight, shaper) ─┬─ level 0 ─┬─ class (weight, queue limit, CoDel)
//!                ├─ level 1  └─ tenant …                 └─ level 1  └─ class …
//! ```
//!
//! Strict between levels, deficit round robin by weight within one; the same at both storeys. A shaper sends while it is not in debt, so
//! in any time `t` at most `burst + rate * t + one frame` goes out. A tenant whose shaper is in debt leaves its round until the debt is
//! paid and holds up nobody.
//!
//! Frames are not here. The caller copies a frame into a buffer of its own, queues the buffer's number, and on the way out gets it back
//! with what to do. Each class reserves its queue limit of the frames that the port was made for, so no class can take another's room.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::QosError;
use super::bucket::{Rate, TokenBucket};
use super::codel::Codel;
use super::fifo::{Fifo, Frame, Pool};
use super::node::{
    ClassConfig, ClassId, ClassStats, Departure, FRAMES_MAX, Fate, NODES_MAX, PortConfig, Refused,
    Shape, TenantConfig, TenantId,
};
use super::round_robin::{LEVELS, Levels, Member, Selected, WEIGHT_MAX};

#[derive(Debug)]
struct Tenant {
    generation: u32,
    live: bool,
    shaper: Option<TokenBucket>,
    /// Its shaper is in debt: it is in `waiting` and in no round.
    held: bool,
    classes: Levels,
    /// Frames that wait in its classes.
    backlog: u32,
}

#[derive(Debug)]
struct Class {
    generation: u32,
    live: bool,
    tenant: u32,
    frames: u32,
    bytes: u64,
    codel: Option<Codel>,
    queue: Fifo,
    stats: ClassStats,
}

/// A port's scheduler.
#[derive(Debug)]
pub struct Scheduler {
    config: PortConfig,
    shaper: Option<TokenBucket>,
    pool: Pool,
    reserved: u32,
    backlog: u32,
    rounds: Levels,
    tenants: Vec<Tenant>,
    tenant_members: Vec<Member>,
    classes: Vec<Class>,
    class_members: Vec<Member>,
    /// Tenants in debt and when they are out of it.
    waiting: BinaryHeap<Reverse<(u64, u32)>>,
}

fn member(priority: u8, weight: u16) -> Result<Member, QosError> {
    if priority >= LEVELS {
        return Err(QosError::Priority(priority));
    }
    if weight == 0 || weight > WEIGHT_MAX {
        return Err(QosError::Weight(weight));
    }
    Ok(Member::new(priority, weight))
}

fn shaper(
    shape: Option<Shape>,
    ticks_per_s: u64,
    now: u64,
) -> Result<Option<TokenBucket>, QosError> {
    let bucket = |s: Shape| TokenBucket::new(Rate::Bits(s.bits_per_s), s.burst, ticks_per_s, now);
    shape.map(bucket).transpose()
}

/// The index of a free slot, or one past the end.
fn vacant<T>(slots: &[T], what: &'static str, live: impl Fn(&T) -> bool) -> Result<u32, QosError> {
    let index = slots.iter().position(|slot| !live(slot));
    let index = index.unwrap_or(slots.len()) as u32;
    if index >= NODES_MAX {
        return Err(QosError::Full {
            what,
            limit: NODES_MAX,
        });
    }
    Ok(index)
}

impl Scheduler {
    /// A port without tenants.
    ///
    /// # Errors
    /// [`QosError::Limit`], [`QosError::Rate`], [`QosError::Burst`], [`QosError::Clock`].
    pub fn new(config: PortConfig, now: u64) -> Result<Scheduler, QosError> {
        if config.frames == 0 || config.frames > FRAMES_MAX {
            return Err(QosError::Limit(config.frames.into()));
        }
        Ok(Scheduler {
            config,
            shaper: shaper(config.shape, config.ticks_per_s, now)?,
            pool: Pool::new(config.frames),
            reserved: 0,
            backlog: 0,
            rounds: Levels::default(),
            tenants: Vec::new(),
            tenant_members: Vec::new(),
            classes: Vec::new(),
            class_members: Vec::new(),
            waiting: BinaryHeap::new(),
        })
    }

    /// Gives the port another shaper, or none. Its bucket is full.
    ///
    /// # Errors
    /// [`QosError::Rate`], [`QosError::Burst`], [`QosError::Clock`]; the port is then as it was.
    pub fn shape_port(&mut self, shape: Option<Shape>, now: u64) -> Result<(), QosError> {
        self.shaper = shaper(shape, self.config.ticks_per_s, now)?;
        self.config.shape = shape;
        Ok(())
    }

    /// Adds a tenant. It sends nothing until it has a class.
    ///
    /// # Errors
    /// [`QosError::Priority`], [`QosError::Weight`], [`QosError::Full`], and those of a shaper.
    pub fn add_tenant(&mut self, config: &TenantConfig, now: u64) -> Result<TenantId, QosError> {
        let member = member(config.priority, config.weight)?;
        let shaper = shaper(config.shape, self.config.ticks_per_s, now)?;
        let index = vacant(&self.tenants, "tenant", |t| t.live)?;
        let mut tenant = Tenant {
            generation: 0,
            live: true,
            shaper,
            held: false,
            classes: Levels::default(),
            backlog: 0,
        };
        match self.tenants.get_mut(index as usize) {
            Some(slot) => {
                tenant.generation = slot.generation;
                *slot = tenant;
                self.tenant_members[index as usize] = member;
            }
            None => {
                self.tenants.push(tenant);
                self.tenant_members.push(member);
                // Every tenant waits at most once, so the heap never grows while frames move.
                self.waiting.reserve(self.tenants.len());
            }
        }
        let generation = self.tenants[index as usize].generation;
        Ok(TenantId { index, generation })
    }

    fn tenant(&self, id: TenantId) -> Result<usize, QosError> {
        let index = id.index as usize;
        let found = self.tenants.get(index);
        found
            .filter(|t| t.live && t.generation == id.generation)
            .map(|_| index)
            .ok_or(QosError::Gone("tenant"))
    }

    fn class(&self, id: ClassId) -> Option<usize> {
        let index = id.index as usize;
        let class = self.classes.get(index)?;
        (class.live && class.generation == id.generation).then_some(index)
    }

    /// Takes a tenant out of its round and of those that wait.
    fn detach(&mut self, index: usize) {
        self.rounds.leave(&mut self.tenant_members, index as u32);
        if self.tenants[index].held {
            self.tenants[index].held = false;
            self.waiting.retain(|Reverse((_, i))| *i != index as u32);
        }
    }

    fn attach(&mut self, index: usize) {
        let tenant = &self.tenants[index];
        if tenant.backlog > 0 && !tenant.held {
            self.rounds.join(&mut self.tenant_members, index as u32);
        }
    }

    /// Changes a tenant. Its frames stay queued; its shaper's bucket is full again.
    ///
    /// # Errors
    /// As [`Scheduler::add_tenant`], and [`QosError::Gone`]; the tenant is then as it was.
    pub fn update_tenant(
        &mut self,
        id: TenantId,
        config: &TenantConfig,
        now: u64,
    ) -> Result<(), QosError> {
        let member = member(config.priority, config.weight)?;
        let shaper = shaper(config.shape, self.config.ticks_per_s, now)?;
        let index = self.tenant(id)?;
        self.detach(index);
        self.tenant_members[index] = member;
        self.tenants[index].shaper = shaper;
        self.attach(index);
        Ok(())
    }

    /// Removes a tenant with its classes and gives the handles that were queued back.
    ///
    /// # Errors
    /// [`QosError::Gone`].
    pub fn remove_tenant(
        &mut self,
        id: TenantId,
        mut give_back: impl FnMut(u32),
    ) -> Result<(), QosError> {
        let index = self.tenant(id)?;
        for class in 0..self.classes.len() {
            let Class {
                live,
                tenant,
                generation,
                ..
            } = self.classes[class];
            if live && tenant as usize == index {
                let id = ClassId {
                    index: class as u32,
                    generation,
                };
                self.remove_class(id, &mut give_back)?;
            }
        }
        self.detach(index);
        let tenant = &mut self.tenants[index];
        tenant.live = false;
        tenant.generation = tenant.generation.wrapping_add(1);
        Ok(())
    }

    /// Adds a class to a tenant.
    ///
    /// # Errors
    /// [`QosError::Priority`], [`QosError::Weight`], [`QosError::Limit`], [`QosError::Codel`], [`QosError::Gone`], and
    /// [`QosError::Full`] if the port has not as many frames left as the class is to have.
    pub fn add_class(
        &mut self,
        tenant: TenantId,
        config: &ClassConfig,
    ) -> Result<ClassId, QosError> {
        let member = member(config.priority, config.weight)?;
        let tenant = self.tenant(tenant)?;
        let index = vacant(&self.classes, "class", |c| c.live)?;
        for limit in [u64::from(config.frames), config.bytes] {
            if limit == 0 {
                return Err(QosError::Limit(limit));
            }
        }
        if config.frames > self.config.frames - self.reserved {
            return Err(QosError::Full {
                what: "queued frame",
                limit: self.config.frames,
            });
        }
        let mut class = Class {
            generation: 0,
            live: true,
            tenant: tenant as u32,
            frames: config.frames,
            bytes: config.bytes,
            codel: config.codel.map(Codel::new).transpose()?,
            queue: Fifo::default(),
            stats: ClassStats::default(),
        };
        self.reserved += config.frames;
        match self.classes.get_mut(index as usize) {
            Some(slot) => {
                class.generation = slot.generation;
                *slot = class;
                self.class_members[index as usize] = member;
            }
            None => {
                self.classes.push(class);
                self.class_members.push(member);
            }
        }
        let generation = self.classes[index as usize].generation;
        Ok(ClassId { index, generation })
    }

    /// Removes a class and gives the handles that were queued back. Returns its last counts.
    ///
    /// # Errors
    /// [`QosError::Gone`].
    pub fn remove_class(
        &mut self,
        id: ClassId,
        mut give_back: impl FnMut(u32),
    ) -> Result<ClassStats, QosError> {
        let index = self.class(id).ok_or(QosError::Gone("class"))?;
        let class = &mut self.classes[index];
        class.live = false;
        class.generation = class.generation.wrapping_add(1);
        self.reserved -= class.frames;
        let (owner, waiting) = (class.tenant as usize, class.queue.frames());
        while let Some((frame, _)) = class.queue.pop(&mut self.pool) {
            give_back(frame.handle);
        }
        let stats = class.stats;
        self.backlog -= waiting;
        let tenant = &mut self.tenants[owner];
        tenant.backlog -= waiting;
        tenant.classes.leave(&mut self.class_members, index as u32);
        if tenant.backlog == 0 {
            self.detach(owner);
        }
        Ok(stats)
    }

    /// What a class has seen, or None if it is gone.
    pub fn stats(&self, id: ClassId) -> Option<ClassStats> {
        let class = &self.classes[self.class(id)?];
        Some(ClassStats {
            queued_packets: class.queue.frames(),
            queued_bytes: class.queue.bytes(),
            ..class.stats
        })
    }

    /// Frames that wait in all classes.
    pub fn backlog(&self) -> u32 {
        self.backlog
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// [`Refused`]: the frame is still the caller's, who gives its buffer back.
    #[inline]
    pub fn enqueue(&mut self, id: ClassId, frame: Frame, now: u64) -> Result<(), Refused> {
        let index = self.class(id).ok_or(Refused::Gone)?;
        let class = &mut self.classes[index];
        let waiting = class.queue.frames();
        let fits = waiting < class.frames
            && (waiting == 0 || class.queue.bytes() + u64::from(frame.len) <= class.bytes);
        if !fits || !class.queue.push(&mut self.pool, frame, now) {
            class.stats.full_packets = class.stats.full_packets.wrapping_add(1);
            class.stats.full_bytes = class.stats.full_bytes.wrapping_add(frame.len.into());
            return Err(Refused::Full);
        }
        self.backlog += 1;
        let owner = class.tenant;
        let tenant = &mut self.tenants[owner as usize];
        tenant.backlog += 1;
        tenant.classes.join(&mut self.class_members, index as u32);
        if !tenant.held {
            self.rounds.join(&mut self.tenant_members, owner);
        }
        Ok(())
    }

    /// Lets tenants whose debt is paid back into their rounds.
    fn wake(&mut self, now: u64) {
        while let Some(Reverse((at, index))) = self.waiting.peek().copied() {
            if at > now {
                return;
            }
            self.waiting.pop();
            self.tenants[index as usize].held = false;
            self.rounds.join(&mut self.tenant_members, index);
        }
    }

    /// The tenant and class whose frame is next, leaving the port's shaper aside.
    fn choose(&mut self, now: u64) -> Option<(usize, usize)> {
        self.wake(now);
        let framing = u32::from(self.config.framing);
        loop {
            let (tenants, classes) = (&mut self.tenants, &self.classes);
            let (pool, class_members) = (&self.pool, &mut self.class_members);
            let mut chosen = 0;
            let selected = self.rounds.select(&mut self.tenant_members, |index| {
                let tenant = tenants.get_mut(index as usize)?;
                if tenant.shaper.as_mut().is_some_and(|s| !s.ready(now)) {
                    return None;
                }
                let length = |class: u32| {
                    let len = classes.get(class as usize)?.queue.next_len(pool)?;
                    Some(len.saturating_add(framing))
                };
                let Selected::Member(class) = tenant.classes.select(class_members, length) else {
                    return None;
                };
                chosen = class as usize;
                length(class)
            });
            match selected {
                Selected::Member(tenant) => return Some((tenant as usize, chosen)),
                Selected::Held(index) => {
                    let tenant = &mut self.tenants[index as usize];
                    if let Some(shaper) = &mut tenant.shaper {
                        tenant.held = true;
                        self.waiting.push(Reverse((shaper.ready_at(now), index)));
                    }
                }
                Selected::Nobody => return None,
            }
        }
    }

    /// The next frame, if one may go now. Call it until it answers None or enough was sent.
    #[inline]
    pub fn dequeue(&mut self, now: u64) -> Option<Departure> {
        if self.backlog == 0 || self.shaper.as_mut().is_some_and(|s| !s.ready(now)) {
            return None;
        }
        let (owner, index) = self.choose(now)?;
        let class = &mut self.classes[index];
        let (frame, since) = class.queue.pop(&mut self.pool)?;
        let waited = now.saturating_sub(since);
        let backlog = class.queue.bytes();
        let codel = class.codel.as_mut();
        let condemned = codel.is_some_and(|c| c.condemns(frame.len, waited, backlog, now));
        let fate = match (condemned, frame.ecn) {
            (false, _) => Fate::Send,
            (true, true) => Fate::MarkAndSend,
            (true, false) => Fate::Drop,
        };
        let departure = Departure {
            frame,
            class: ClassId {
                index: index as u32,
                generation: class.generation,
            },
            fate,
        };
        let stats = &mut class.stats;
        match fate {
            Fate::Drop => stats.codel_dropped = stats.codel_dropped.wrapping_add(1),
            Fate::Send | Fate::MarkAndSend => {
                stats.sent_packets = stats.sent_packets.wrapping_add(1);
                stats.sent_bytes = stats.sent_bytes.wrapping_add(frame.len.into());
                let marked = u64::from(fate == Fate::MarkAndSend);
                stats.codel_marked = stats.codel_marked.wrapping_add(marked);
                self.charge(owner, index, frame.len);
            }
        }
        self.settle(owner, index);
        Some(departure)
    }

    fn charge(&mut self, owner: usize, class: usize, len: u32) {
        let len = len.saturating_add(self.config.framing.into());
        let tenant = &mut self.tenants[owner];
        tenant
            .classes
            .charge(&mut self.class_members, class as u32, len);
        self.rounds
            .charge(&mut self.tenant_members, owner as u32, len);
        for shaper in [&mut self.shaper, &mut tenant.shaper].into_iter().flatten() {
            shaper.charge(len);
        }
    }

    /// Counts a frame out and takes class and tenant out of their rounds if they have nothing left.
    fn settle(&mut self, owner: usize, class: usize) {
        self.backlog -= 1;
        let tenant = &mut self.tenants[owner];
        tenant.backlog -= 1;
        if self.classes[class].queue.frames() == 0 {
            tenant.classes.leave(&mut self.class_members, class as u32);
        }
        if tenant.backlog == 0 {
            self.rounds.leave(&mut self.tenant_members, owner as u32);
        }
    }

    /// The first time from `now` on at which [`Scheduler::dequeue`] has a frame if nothing more is queued; None without a backlog.
    pub fn next_event(&mut self, now: u64) -> Option<u64> {
        if self.backlog == 0 {
            return None;
        }
        let tenant = match self.choose(now) {
            Some(_) => now,
            None => self.waiting.peek().map(|Reverse((at, _))| *at)?,
        };
        let port = self.shaper.as_mut().map_or(now, |s| s.ready_at(now));
        Some(tenant.max(port))
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
