//! The one that changes the classifier.
//!
//! A change belongs to the version that is published next, and no reader sees it before: new rules carry the first version that
//! sees them, removed ones the first that does not. So any number of changes becomes visible at once, for each burst either all or none.
//!
//! Memory comes back in two steps, each after all readers have moved on: a removed rule stays in the index until no reader runs with a
//! version that sees it; its record is used again when no reader holds an index that led to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use sumeru_packet::key::WORDS;
use sumeru_packet::{FlowKey, FlowMask};
use sumeru_virtio::slice::prefetch_read;

use super::stamps::{EVERY_VERSION, Stamps};
use super::tuple::{Header, Index, MAX_STAGES, Tuple};
use super::view::{Groups, Place, View, group_class};

/// Most rules, over all groups.
pub const CAPACITY: usize = 1 << 24;
/// Rules handled together, so that the memory they touch comes at once.
const BATCH: usize = 16;

/// A rule that is to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewRule {
    /// Where it is looked for.
    pub tuple: TupleId,
    /// Lower is better.
    pub priority: u32,
    /// Its bits under the tuple's mask.
    pub value: FlowKey,
    /// Number of its actions.
    pub program: u32,
    /// What its owner calls it.
    pub name: u64,
    /// Where it counts.
    pub counter: Option<u32>,
}

/// A tuple of the writer, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TupleId(u32);

/// A rule in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleRef {
    tuple: TupleId,
    record: u32,
    sequence: u64,
}

/// Why a rule was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// As many rules as the classifier takes.
    #[error("the classifier holds {CAPACITY} rules and takes no more")]
    Rules,
    /// No memory.
    #[error("there is no memory for another rule")]
    Memory,
}

/// A tuple and what only the writer needs to know of it.
#[derive(Debug)]
struct Owned {
    tuple: Arc<Tuple>,
    index: Arc<Index>,
    /// Slots of the index that are not free.
    used: usize,
    /// Rules in the index.
    linked: usize,
    /// Records out of the index that may not be used again yet.
    waiting: usize,
    /// Who counts on the tuple being there while it has no rule.
    pins: u32,
    /// Records were used up to here.
    next: u32,
    free: Vec<u32>,
    /// Rules in the index by priority.
    priorities: BTreeMap<u32, u32>,
    /// The priority that readers take for the best.
    published: u32,
}

/// A removed rule on its way out.
#[derive(Debug)]
struct Retired {
    /// Readers that run with this version or a later one do not need it.
    version: u64,
    tuple: TupleId,
    record: u32,
}

/// What nobody needs any more when a rule is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// The number of its actions.
    pub program: u32,
    /// Where it counted.
    pub counter: Option<u32>,
}

/// What became of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// It has room.
    None,
    /// It is another with the same cells.
    Cleaned,
    /// It is another, and what decisions rested on is counted in other cells.
    Changed,
}

/// Hashes of a rule: of each stage of its tuple, and of the whole.
#[derive(Debug, Default)]
struct Hashes {
    stages: arrayvec::ArrayVec<u64, MAX_STAGES>,
    whole: u64,
}

impl Hashes {
    /// Asks for what adding the rule to this index will touch.
    #[inline(always)]
    fn prefetch(&self, index: &Index) {
        index.prefetch(self.whole);
        for (stage, hash) in self.stages.iter().enumerate() {
            index.prefetch_count(stage, *hash);
        }
    }
}

/// The writer.
#[derive(Debug, Default)]
pub struct Writer {
    /// The version that readers can have.
    version: u64,
    sequence: u64,
    stamps: Arc<Stamps>,
    tuples: Vec<Option<Owned>>,
    by_mask: HashMap<(u32, [u64; WORDS]), TupleId>,
    groups: Arc<Groups>,
    /// The version that `groups` is of.
    shape: u64,
    /// Tuples of each group, as `groups` will have them.
    members: HashMap<u32, Vec<TupleId>>,
    /// Groups whose list of tuples must be made anew.
    changed: Vec<u32>,
    rules: usize,
    made: u64,
    /// In the index, seen by older versions only.
    ended: VecDeque<Retired>,
    /// Out of the index, reachable by readers that hold an older one.
    unlinked: VecDeque<Retired>,
}

impl Owned {
    fn new(made: u64, group: u32, mask: FlowMask) -> Option<Self> {
        let tuple = Tuple::new(made, group, mask);
        let index = Index::new(tuple.stages.len())?;
        Some(Self {
            tuple: Arc::new(tuple),
            index: Arc::new(index),
            used: 0,
            linked: 0,
            waiting: 0,
            pins: 0,
            next: 0,
            free: Vec::new(),
            priorities: BTreeMap::new(),
            published: u32::MAX,
        })
    }

    fn best(&self) -> u32 {
        self.priorities.keys().next().copied().unwrap_or(u32::MAX)
    }

    fn hashes(&self, value: &FlowKey) -> Hashes {
        let stages = self.tuple.stages.iter();
        Hashes {
            stages: stages
                .map(|stage| value.hash(&stage.mask, stage.active))
                .collect(),
            whole: value.hash(&self.tuple.mask, self.tuple.active),
        }
    }

    /// A larger index if this one is full, or a fresh one if it is full of slots that are no longer used.
    fn grow(&mut self) -> Result<Growth, Full> {
        if self.used < self.index.capacity() {
            return Ok(Growth::None);
        }
        let capacity = self.index.capacity();
        // Of the same size if it is mostly slots that are no longer used: then nothing that rests on its cells is outdated.
        let rules = match self.linked {
            linked if linked * 2 >= capacity => linked * 2 + 1,
            linked if linked < capacity / 16 => linked * 2 + 1,
            _ => capacity,
        };
        let index = self.index.resized(rules).ok_or(Full::Memory)?;
        let mut used = 0;
        let mut records = self.index.records();
        let mut batch = arrayvec::ArrayVec::<(u32, Hashes), BATCH>::new();
        loop {
            batch.extend(
                records
                    .by_ref()
                    .take(BATCH)
                    .inspect(|record| self.tuple.records.prefetch(*record))
                    .map(|record| (record, Hashes::default())),
            );
            if batch.is_empty() {
                break;
            }
            for (record, hashes) in &mut batch {
                *hashes = self.hashes(&self.tuple.value(*record));
                hashes.prefetch(&index);
            }
            for (record, hashes) in batch.drain(..) {
                for (stage, hash) in hashes.stages.iter().enumerate() {
                    index.add(stage, *hash, 1);
                }
                used += usize::from(index.insert(hashes.whole, record));
            }
        }
        drop(records);
        let growth = match index.has_cells_of(&self.index) {
            true => Growth::Cleaned,
            false => Growth::Changed,
        };
        self.used = used;
        self.index = Arc::new(index);
        Ok(growth)
    }

    /// A record that nobody can reach.
    fn take(&mut self) -> Result<u32, Full> {
        if let Some(record) = self.free.pop() {
            return Ok(record);
        }
        if !self.tuple.records.reserve(self.next) {
            return Err(Full::Memory);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    fn unlink(&mut self, record: u32) -> Option<Released> {
        let header = self.tuple.header(record)?;
        let hashes = self.hashes(&self.tuple.value(record));
        self.index.remove(hashes.whole, record);
        for (stage, hash) in hashes.stages.iter().enumerate() {
            self.index.add(stage, *hash, -1);
        }
        self.linked -= 1;
        self.waiting += 1;
        if let Some(count) = self.priorities.get_mut(&header.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&header.priority);
            }
        }
        Some(Released {
            program: header.program,
            counter: header.counter.checked_sub(1),
        })
    }
}

impl Writer {
    /// The version that the next publication has.
    pub fn pending(&self) -> u64 {
        self.version + 1
    }

    /// Rules that the next version sees.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// Whether the next version sees no rule.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    fn owned(&self, tuple: TupleId) -> Option<&Owned> {
        self.tuples.get(tuple.0 as usize)?.as_ref()
    }

    /// The tuple of rules of `group` that look at the bits of `mask`.
    ///
    /// # Errors
    /// [`Full::Memory`].
    pub fn tuple(&mut self, group: u32, mask: &FlowMask) -> Result<TupleId, Full> {
        if let Some(known) = self.by_mask.get(&(group, *mask.words())) {
            return Ok(*known);
        }
        self.made += 1;
        let owned = Owned::new(self.made, group, *mask).ok_or(Full::Memory)?;
        let place = self
            .tuples
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.tuples.len());
        let id = TupleId(place as u32);
        match self.tuples.get_mut(place) {
            Some(free) => *free = Some(owned),
            None => self.tuples.push(Some(owned)),
        }
        self.by_mask.insert((group, *mask.words()), id);
        self.members.entry(group).or_default().push(id);
        self.changes(group);
        // Decisions that searched the group did not look here.
        self.stamps.stamp(group_class(group), self.pending());
        Ok(id)
    }

    fn changes(&mut self, group: u32) {
        if !self.changed.contains(&group) {
            self.changed.push(group);
        }
    }

    /// Adds a rule, seen from the next publication on.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then.
    pub fn insert(&mut self, rule: &NewRule) -> Result<RuleRef, Full> {
        let hashes = self
            .owned(rule.tuple)
            .map(|owned| owned.hashes(&rule.value))
            .ok_or(Full::Memory)?;
        self.insert_hashed(rule, &hashes)
    }

    /// Adds rules, each as [`Self::insert`] does; quicker, for the memory they touch is fetched while the ones before are added.
    pub fn insert_all<'a>(
        &mut self,
        rules: impl IntoIterator<Item = &'a NewRule>,
        mut done: impl FnMut(&'a NewRule, Result<RuleRef, Full>),
    ) {
        let mut rules = rules.into_iter();
        let mut batch = arrayvec::ArrayVec::<(&NewRule, Hashes), BATCH>::new();
        loop {
            for rule in rules.by_ref().take(BATCH) {
                let hashes = self.owned(rule.tuple).map(|owned| {
                    let hashes = owned.hashes(&rule.value);
                    hashes.prefetch(&owned.index);
                    prefetch_read(self.stamps.address(owned.tuple.class(&rule.value)));
                    hashes
                });
                batch.push((rule, hashes.unwrap_or_default()));
            }
            if batch.is_empty() {
                return;
            }
            for (rule, hashes) in batch.drain(..) {
                done(rule, self.insert_hashed(rule, &hashes));
            }
        }
    }

    fn insert_hashed(&mut self, rule: &NewRule, hashes: &Hashes) -> Result<RuleRef, Full> {
        if self.rules + self.ended.len() >= CAPACITY {
            return Err(Full::Rules);
        }
        let (version, sequence) = (self.pending(), self.sequence + 1);
        let owned = self
            .tuples
            .get_mut(rule.tuple.0 as usize)
            .and_then(Option::as_mut)
            .ok_or(Full::Memory)?;
        let group = owned.tuple.group;
        let growth = owned.grow()?;
        let mut listed = growth != Growth::None;
        if growth == Growth::Changed {
            self.stamps.stamp(group_class(group), version);
        }
        let record = owned.take()?;
        let header = Header {
            priority: rule.priority,
            program: rule.program,
            sequence,
            from: version,
            until: u64::MAX,
            name: rule.name,
            counter: rule.counter.map_or(0, |counter| counter + 1),
        };
        owned
            .tuple
            .write(record, &header, &rule.value.masked(&owned.tuple.mask));
        for (stage, hash) in hashes.stages.iter().enumerate() {
            // Decisions ended here only while nothing was counted.
            if owned.index.add(stage, *hash, 1) {
                let class = owned
                    .tuple
                    .stage_class(stage + 1, owned.index.cell(stage, *hash));
                self.stamps.stamp(class, version);
            }
        }
        owned.used += usize::from(owned.index.insert(hashes.whole, record));
        self.stamps.stamp(owned.tuple.class(&rule.value), version);
        owned.linked += 1;
        *owned.priorities.entry(rule.priority).or_default() += 1;
        if rule.priority < owned.published {
            owned.published = rule.priority;
            listed = true;
            // Decisions that ended before they came here took all its rules for worse.
            self.stamps.stamp(group_class(group), version);
        }
        self.sequence = sequence;
        self.rules += 1;
        if listed {
            self.changes(group);
        }
        Ok(RuleRef {
            tuple: rule.tuple,
            record,
            sequence,
        })
    }

    /// What there is to know of a rule that the next version sees.
    pub fn header(&self, rule: RuleRef) -> Option<Header> {
        let header = self.owned(rule.tuple)?.tuple.header(rule.record)?;
        (header.sequence == rule.sequence && header.until == u64::MAX).then_some(header)
    }

    /// Removes a rule from the next publication on; false when it is gone already.
    pub fn remove(&mut self, rule: RuleRef) -> bool {
        let version = self.pending();
        if self.header(rule).is_none() {
            return false;
        }
        let Some(owned) = self.owned(rule.tuple) else {
            return false;
        };
        let value = owned.tuple.value(rule.record);
        owned.tuple.end(rule.record, version);
        self.stamps.stamp(owned.tuple.class(&value), version);
        self.rules -= 1;
        self.ended.push_back(Retired {
            version,
            tuple: rule.tuple,
            record: rule.record,
        });
        true
    }

    /// Whether anything changed since the last publication.
    pub fn dirty(&self) -> bool {
        !self.changed.is_empty()
            || self
                .ended
                .back()
                .is_some_and(|last| last.version > self.version)
    }

    /// Makes all changes so far the next version. The caller gives it to the readers.
    pub fn publish(&mut self) -> View {
        self.version += 1;
        if !self.changed.is_empty() {
            self.shape = self.version;
            let groups = Arc::make_mut(&mut self.groups);
            for group in self.changed.drain(..) {
                let mut places = Vec::new();
                for id in self.members.get(&group).into_iter().flatten() {
                    let Some(owned) = self.tuples.get_mut(id.0 as usize).and_then(Option::as_mut)
                    else {
                        continue;
                    };
                    owned.published = owned.best();
                    places.push(Place {
                        tuple: owned.tuple.clone(),
                        index: owned.index.clone(),
                        best: owned.published,
                    });
                }
                places.sort_by_key(|place| place.best);
                match places.is_empty() {
                    true => groups.remove(&group),
                    false => groups.insert(group, places.into()),
                };
            }
        }
        self.stamps.stamp(EVERY_VERSION, self.version);
        self.view()
    }

    /// The version that was published last.
    pub fn view(&self) -> View {
        View {
            version: self.version,
            shape: self.shape,
            groups: self.groups.clone(),
            stamps: self.stamps.clone(),
        }
    }

    /// Takes back what readers need no longer, all of which run with version `acknowledged` or a later one. Tells what removed
    /// rules leave behind.
    pub fn reclaim(&mut self, acknowledged: u64, mut released: impl FnMut(Released)) {
        while let Some(retired) = self.ended.front()
            && retired.version <= acknowledged
        {
            let (tuple, record) = (retired.tuple, retired.record);
            self.ended.pop_front();
            if let Some(owned) = self
                .tuples
                .get_mut(tuple.0 as usize)
                .and_then(Option::as_mut)
            {
                owned.unlink(record).into_iter().for_each(&mut released);
                self.unlinked.push_back(Retired {
                    version: self.version + 1,
                    tuple,
                    record,
                });
            }
        }
        while let Some(retired) = self.unlinked.front()
            && retired.version <= acknowledged
        {
            let (id, record) = (retired.tuple, retired.record);
            self.unlinked.pop_front();
            let Some(owned) = self.tuples.get_mut(id.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            owned.waiting -= 1;
            owned.free.push(record);
            self.drop_if_unused(id);
        }
    }

    /// Keeps a tuple while it has no rule, until [`Self::unpin`].
    pub fn pin(&mut self, tuple: TupleId) {
        if let Some(Some(owned)) = self.tuples.get_mut(tuple.0 as usize) {
            owned.pins += 1;
        }
    }

    /// Takes one [`Self::pin`] back.
    pub fn unpin(&mut self, tuple: TupleId) {
        if let Some(Some(owned)) = self.tuples.get_mut(tuple.0 as usize) {
            owned.pins = owned.pins.saturating_sub(1);
            self.drop_if_unused(tuple);
        }
    }

    fn drop_if_unused(&mut self, id: TupleId) {
        let owned = self.tuples.get(id.0 as usize).and_then(Option::as_ref);
        let unused = |owned: &Owned| owned.linked == 0 && owned.waiting == 0 && owned.pins == 0;
        if owned.is_none_or(|owned| !unused(owned)) {
            return;
        }
        let Some(owned) = self.tuples.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        let group = owned.tuple.group;
        self.by_mask.remove(&(group, *owned.tuple.mask.words()));
        if let Some(members) = self.members.get_mut(&group) {
            members.retain(|member| *member != id);
            if members.is_empty() {
                self.members.remove(&group);
            }
        }
        self.changes(group);
    }

    /// Whether removed rules still take up memory.
    pub fn reclaimable(&self) -> bool {
        !self.ended.is_empty() || !self.unlinked.is_empty()
    }

    /// Bytes reserved for rules and their tables.
    pub fn bytes(&self) -> usize {
        let tuples = self.tuples.iter().flatten();
        tuples
            .map(|owned| {
                owned.tuple.records.bytes() + owned.index.bytes() + owned.free.capacity() * 4
            })
            .sum()
    }
}
