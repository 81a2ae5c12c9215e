//! The flow cache of one lcore: decisions of the slow path, kept for all frames that agree in the bits that were looked at.
//!
//! Two levels. The wildcarded cache finds an entry by its mask and the hash of the masked key; every port has its own list of masks, so
//! that traffic made to need many masks slows down nobody but its sender (Csikor et al., "Tuple Space Explosion", CoNEXT 2019). In front of it
//! the signature cache maps the hash of a frame's relevant bits straight to an entry; the entry's own masked compare makes the
//! hit exact, so a signature may be short and may be wrong.
//!
//! A decision rests on what it looked up: rules (classes of the classifier, [`Stamps`]) and learned addresses (classes of this lcore). When
//! any of that changes, the epoch does, and an entry of an older epoch is checked class by class at its next hit. Nothing is
//! searched or freed when the configuration changes.

mod fronts;
mod plain;
mod sets;
mod sweep;
mod table;

use std::num::NonZeroU32;

use sumeru_packet::key::ActiveWords;
use sumeru_packet::{FlowKey, FlowMask};

use crate::classifier::{Class, MAX_CLASSES, Stamps};
use crate::conntrack::ConnRef;
use crate::frame::PortIndex;
use crate::interned::Interned;
use crate::program::Op;
use crate::snapshot::NetworkId;
use crate::track::{Track, Tracks};
use fronts::Fronts;
pub use fronts::{Realm, realm_of};
pub use plain::{Known, Met, Way};
use plain::{PlainPort, PlainSlots};
use table::{Entry, Far, NEAR, Table};

/// Most entries.
pub const CAPACITY: u32 = 1 << 22;
/// Most masks of a port whose entries are told apart; what needs more is kept under one mask that covers them all.
pub const MAX_MASKS: usize = 64;
/// Signatures at first, and at most; powers of two. 8 bytes each.
const SIGNATURES: [usize; 2] = [1 << 15, 1 << 23];
/// Ways of a set in the signature cache.
const WAYS: usize = 2;
/// A program of one output, whose frames may be counted: the port is in the low bits.
const QUICK: u32 = 1 << 31;
/// Set in the number of a program that does nothing but put a frame into a tunnel, asking nothing of it but its first bytes, and send it.
const TUNNEL: u32 = 1 << 30;
/// Set in the number of a program that does nothing but take a frame out of a tunnel and send it.
const UNWRAP: u32 = 1 << 29;
/// Set in the number of a program of one output for the frames of one connection.
const FOLLOW: u32 = 1 << 28;
/// What is said in a program's number beside the number.
const KINDS: u32 = QUICK | TUNNEL | UNWRAP | FOLLOW;
/// Classes of things that this lcore learns, as a power of two.
const LOCAL_CLASSES: u32 = 16;
/// Set in a class of this lcore.
const LOCAL: Class = 1 << 31;
/// Entries looked at in one step of [`Cache::sweep`].
const STEP: u32 = 128;

/// Who sent, by network.
pub type Sender = (NetworkId, [u8; 6]);

/// What a decision rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rests {
    /// Classes of rules, and of this lcore.
    classes: [Class; MAX_CLASSES],
    len: u8,
    /// On more than there is room for: good until anything changes.
    many: bool,
}

impl Rests {
    fn on(&mut self, class: Class) {
        let len = usize::from(self.len);
        if self.classes[..len].contains(&class) {
            return;
        }
        match self.classes.get_mut(len) {
            Some(free) => (*free, self.len) = (class, self.len + 1),
            None => self.many = true,
        }
    }

    /// On rules of a class.
    pub fn on_rules(&mut self, class: Class) {
        self.on(class);
    }

    /// On something that this lcore learns, with this hash.
    pub fn on_learned(&mut self, hash: u64) {
        self.on(local_class(hash));
    }

    fn classes(&self) -> &[Class] {
        self.classes
            .get(..usize::from(self.len))
            .unwrap_or_default()
    }
}

fn local_class(hash: u64) -> Class {
    LOCAL | (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LOCAL_CLASSES)) as u32
}

#[derive(Clone, Copy, Debug, Default)]
struct Signature {
    tag: u32,
    /// Entry index plus one; 0: free.
    entry: u32,
}

/// Entries with one mask that came in by one port.
#[derive(Debug)]
struct Tuple {
    port: PortIndex,
    mask: FlowMask,
    active: ActiveWords,
    /// Mixed into the hash, so that tuples do not meet in one chain.
    salt: u32,
    entries: u32,
    /// Frames it answered since the last sweep.
    hits: u64,
}

/// What is known of the frames of one port.
#[derive(Debug, Default)]
struct PortMasks {
    /// Bits that any decision may look at: what the signature's hash covers.
    relevant: FlowMask,
    active: ActiveWords,
    tuples: Vec<u32>,
    entries: u32,
    /// How plain frames are told apart by their bytes, once one of them was to be.
    plain: Option<PlainPort>,
}

/// Which level answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The signature cache.
    Exact,
    /// The wildcarded cache.
    Wildcard,
}

/// A decision to be kept.
#[derive(Debug)]
pub struct Decision {
    /// The bits it looked at.
    pub mask: FlowMask,
    /// What else it rests on.
    pub rests: Rests,
    /// What to do.
    pub ops: Vec<Op>,
    /// Its sender, if it is to be kept from ageing.
    pub sender: Option<Sender>,
    /// The connections it is about.
    pub tracks: Tracks,
}

/// Where to send a frame, and where to count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quick {
    /// The port that it leaves by.
    pub port: PortIndex,
    /// Where it is counted, plus one.
    counter: Option<NonZeroU32>,
}

impl Quick {
    /// The counter of the rule.
    #[inline(always)]
    pub fn counter(&self) -> Option<u32> {
        self.counter.map(|counter| counter.get() - 1)
    }
}

/// What to do with a frame that met an entry.
#[derive(Clone, Copy, Debug)]
pub enum Hit<'a> {
    /// Send it.
    Output(Quick),
    /// Run these, and count.
    Run(&'a [Op], Option<u32>),
    /// As before, if this still holds.
    Tracked(Track, &'a [Op], Option<u32>),
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    plain: PlainSlots,
    fronts: Fronts,
    signatures: Box<[[Signature; WAYS]]>,
    table: Table,
    tuples: Vec<Option<Tuple>>,
    ports: Vec<PortMasks>,
    /// Operations that entries share.
    programs: Interned<[Op]>,
    epoch: u64,
    /// Entries of an epoch before this one are void.
    oldest: u64,
    /// The version of the rules that the lcore runs with.
    version: u64,
    learned: Box<[u64]>,
    victim: u32,
    salt: u32,
    /// Of the decision put in last.
    serial: u32,
    limit: u32,
    /// Where a sweep is, while one is under way.
    sweeping: Option<u32>,
}

impl Cache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::with_limit(CAPACITY)
    }

    /// An empty cache for at most `limit` entries.
    pub fn with_limit(limit: u32) -> Self {
        Self {
            plain: PlainSlots::new(),
            fronts: Fronts::new(),
            signatures: signatures(SIGNATURES[0]),
            table: Table::new(limit),
            tuples: Vec::new(),
            ports: Vec::new(),
            programs: Interned::default(),
            epoch: 1,
            oldest: 1,
            version: 0,
            learned: vec![0; 1 << LOCAL_CLASSES].into(),
            victim: 0,
            salt: 0,
            serial: 0,
            limit,
            sweeping: None,
        }
    }

    /// Everything decided so far is to be decided again.
    pub fn invalidate(&mut self) {
        self.epoch += 1;
        self.oldest = self.epoch;
    }

    /// The lcore runs with another version of the rules from now on.
    pub fn adopt(&mut self, version: u64) {
        self.epoch += 1;
        self.version = version;
    }

    /// Something that [`Rests::on_learned`] names by this hash is different from now on.
    pub fn learned(&mut self, hash: u64) {
        self.epoch += 1;
        if let Some(stamp) = self.learned.get_mut((local_class(hash) & !LOCAL) as usize) {
            *stamp = self.epoch;
        }
    }

    /// The hash that [`Self::find`] wants.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        match self.ports.get(in_port(key)) {
            Some(port) => key.hash(&port.relevant, port.active),
            None => 0,
        }
    }

    #[inline(always)]
    fn set(&self, hash: u64) -> usize {
        hash as usize & (self.signatures.len() - 1)
    }

    /// Asks for the line of the signature cache that a hash leads to.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        if let Some(set) = self.signatures.get(self.set(hash)) {
            sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(set).cast());
        }
    }

    /// Asks for the entry that a hash most likely leads to; to be called when the line asked for by [`Self::prefetch`] is there.
    #[inline(always)]
    pub fn prefetch_entry(&self, hash: u64) {
        if let Some(entry) = self.likely(hash) {
            let line: *const u8 = std::ptr::from_ref(entry).cast();
            sumeru_virtio::slice::prefetch_read(line);
            sumeru_virtio::slice::prefetch_read(line.wrapping_add(64));
            sumeru_virtio::slice::prefetch_read(line.wrapping_add(128));
        }
    }

    /// The connection of the entry that a hash most likely leads to.
    #[inline(always)]
    pub fn connection(&self, hash: u64) -> Option<ConnRef> {
        match self.likely(hash)?.track {
            Some(Track::Connection { conn, .. }) => Some(conn),
            _ => None,
        }
    }

    #[inline(always)]
    fn likely(&self, hash: u64) -> Option<&Entry> {
        let tag = (hash >> 32) as u32;
        let set = self.signatures.get(self.set(hash))?;
        let entry = if set[0].tag == tag {
            set[0].entry
        } else {
            set[1].entry
        };
        self.table.get(entry.wrapping_sub(1))
    }

    /// Whether so much is cached of a port's frames that its lines must be asked for ahead.
    #[inline(always)]
    pub fn is_large(&self, port: PortIndex) -> bool {
        let port = self.ports.get(usize::from(port));
        port.is_some_and(|port| port.entries > 4096)
    }

    /// The entry for a frame.
    #[inline(always)]
    pub fn find(&mut self, key: &FlowKey, hash: u64, stamps: &Stamps) -> Option<(u32, Level)> {
        let tag = (hash >> 32) as u32;
        let set = *self.signatures.get(self.set(hash))?;
        for signature in set {
            let index = signature.entry.wrapping_sub(1);
            if signature.tag == tag
                && let Some(entry) = self.table.get(index)
                && let Some(Some(tuple)) = self.tuples.get(entry.tuple as usize)
                && agrees(key, entry, tuple)
                && (entry.epoch == self.epoch || self.check(index, stamps))
            {
                return Some((index, Level::Exact));
            }
        }
        self.find_wildcard(key, hash, stamps, None)
            .map(|index| (index, Level::Wildcard))
    }

    /// The entry for a frame that [`Self::find`] found one for that is about frames without a connection, of which the table says this, and it is not one of those.
    #[cold]
    pub fn find_other(
        &mut self,
        key: &FlowKey,
        hash: u64,
        stamps: &Stamps,
        decision: u32,
    ) -> Option<u32> {
        self.find_wildcard(key, hash, stamps, Some(decision))
    }

    #[inline(never)]
    fn find_wildcard(
        &mut self,
        key: &FlowKey,
        hash: u64,
        stamps: &Stamps,
        except: Option<u32>,
    ) -> Option<u32> {
        let masks = self.ports.get(in_port(key))?.tuples.len();
        for place in 0..masks {
            let number = *self.ports.get(in_port(key))?.tuples.get(place)?;
            let Some(Some(tuple)) = self.tuples.get(number as usize) else {
                continue;
            };
            let mut at = self.table.first(tuple.hash(key));
            while let Some(entry) = self.table.get(at)
                && !(entry.tuple == number && agrees(key, entry, tuple))
            {
                at = entry.next;
            }
            // An outdated decision says nothing of those under other masks.
            if self.check(at, stamps) {
                let fresh = self.fresh(at);
                if fresh.is_some() && fresh == except {
                    continue;
                }
                if let Some(Some(tuple)) = self.tuples.get_mut(number as usize) {
                    tuple.hits += 1;
                }
                // What is good for any new connection is asked for once by each.
                if fresh.is_none() {
                    self.remember(hash, at);
                }
                return Some(at);
            }
        }
        None
    }

    /// An entry is outdated, whatever its rules: its connection is gone or another.
    pub fn void(&mut self, index: u32) {
        if let Some(entry) = self.table.get_mut(index) {
            entry.epoch = 0;
        }
    }

    /// Of an entry about frames that belong to no connection: what the table says of them.
    fn fresh(&self, index: u32) -> Option<u32> {
        let entry = self.table.get(index)?;
        let Some(Track::None { decision, .. }) = entry.track else {
            return None;
        };
        let ops = self.programs.get(entry.number()).unwrap_or_default();
        let connected = |op: &Op| matches!(op, Op::Track(Track::Connection { .. }));
        (!ops.iter().any(connected)).then_some(decision)
    }

    /// Whether an entry is still right; notes it if so.
    #[inline(never)]
    fn check(&mut self, index: u32, stamps: &Stamps) -> bool {
        let (epoch, version, oldest) = (self.epoch, self.version, self.oldest);
        let learned = &self.learned;
        let Some(entry) = self.table.get_mut(index) else {
            return false;
        };
        if entry.epoch == epoch {
            return true;
        }
        let good = entry.epoch >= oldest
            && !entry.rests.many
            && entry
                .rests
                .classes()
                .iter()
                .all(|class| match class & LOCAL {
                    0 => stamps.unchanged_since(*class, entry.version),
                    _ => learned
                        .get((class & !LOCAL) as usize)
                        .is_some_and(|stamp| *stamp <= entry.epoch),
                });
        if good {
            (entry.epoch, entry.version) = (epoch, version);
        }
        good
    }

    fn remember(&mut self, hash: u64, entry: u32) {
        let place = self.set(hash);
        let Some(set) = self.signatures.get_mut(place) else {
            return;
        };
        let tag = (hash >> 32) as u32;
        let way = set
            .iter()
            .position(|s| s.tag == tag || s.entry == 0)
            .unwrap_or((hash >> 28) as usize & (WAYS - 1));
        set[way] = Signature {
            tag,
            entry: entry + 1,
        };
    }

    /// Counts a frame that met an entry, and answers what to do with it.
    #[inline(always)]
    pub fn hit(&mut self, index: u32) -> Hit<'_> {
        let Some(entry) = self.table.get_mut(index) else {
            return Hit::Run(&[], None);
        };
        entry.hits = entry.hits.wrapping_add(1);
        if entry.is_quick() {
            return Hit::Output(entry.quick());
        }
        let (counter, track) = (entry.counter.checked_sub(1), entry.track);
        let ops = self.programs.get(entry.number()).unwrap_or_default();
        match track {
            Some(track) => Hit::Tracked(track, ops, counter),
            None => Hit::Run(ops, counter),
        }
    }

    /// Keeps a decision for the frames that agree with `key` in the bits it looked at. Returns its entry.
    pub fn insert(&mut self, key: &FlowKey, decision: Decision) -> u32 {
        let Decision {
            mut mask,
            rests,
            mut ops,
            sender,
            tracks,
        } = decision;
        // The port is part of every decision: its masks are its own.
        mask.merge_field(sumeru_packet::Field::InPort);
        let number = self.tuple_for(in_port(key), mask);
        let counter = match ops.first() {
            Some(Op::Count(counter)) => {
                let counter = *counter;
                ops.remove(0);
                counter + 1
            }
            _ => 0,
        };
        // What a protected guest sends is moved before it is tracked.
        let front = usize::from(matches!(ops.first(), Some(Op::Splice(_, true))));
        let others = tracks.iter().skip(1).copied().map(Op::Track);
        ops.splice(front..front, others);
        let program = self.intern(ops, &tracks);
        let (hash, near, far) = match self.tuples.get(number as usize) {
            Some(Some(tuple)) => tuple.split(key),
            _ => (0, [0; NEAR], None),
        };
        let index = self.place(number, hash, &near, far.as_deref());
        let (epoch, version, serial) = (self.epoch, self.version, self.next_serial());
        let Some(entry) = self.table.get_mut(index) else {
            return index;
        };
        entry.serial = serial;
        let old = std::mem::replace(&mut entry.program, program);
        let linked = entry.used();
        (entry.epoch, entry.version, entry.hits, entry.swept) = (epoch, version, 0, 0);
        (entry.counter, entry.near, entry.far, entry.hash) = (counter, near, far, hash);
        (entry.tuple, entry.rests, entry.track) = (number, rests, tracks.first().copied());
        entry.set_sender(sender);
        if linked {
            self.let_go(old);
        } else {
            self.table.link(index);
            if let Some(Some(tuple)) = self.tuples.get_mut(number as usize) {
                tuple.entries += 1;
                if let Some(port) = self.ports.get_mut(usize::from(tuple.port)) {
                    port.entries += 1;
                }
            }
            self.widen_signatures();
        }
        // Room for what hits will keep, which allocate nothing.
        if program & KINDS != 0 {
            self.plain.widen();
        }
        if program & (QUICK | UNWRAP) == UNWRAP {
            self.fronts.widen();
        }
        if self.fresh(index).is_none() {
            self.remember(self.hash(key), index);
        }
        index
    }

    /// The entry for a masked key: the one that is there, a free one, or a victim's.
    fn place(&mut self, tuple: u32, hash: u32, near: &[u64; NEAR], far: Option<&Far>) -> u32 {
        let mut at = self.table.first(hash);
        while let Some(entry) = self.table.get(at) {
            if entry.tuple == tuple && entry.near == *near && entry.far.as_deref() == far {
                return at;
            }
            at = entry.next;
        }
        loop {
            if let Some(free) = self.table.take(self.limit) {
                return free;
            }
            // One that was not used since the last look, or whichever comes.
            for _ in 0..8 {
                self.victim = (self.victim + 1) % self.table.reserved().max(1);
                if self
                    .table
                    .get(self.victim)
                    .is_some_and(|entry| entry.hits == entry.swept)
                {
                    break;
                }
            }
            self.evict(self.victim);
        }
    }

    /// The number of a port's tuple with this mask, or of the one for everything when the port has too many.
    fn tuple_for(&mut self, port: usize, mut mask: FlowMask) -> u32 {
        if self.ports.len() <= port {
            self.ports.resize_with(port + 1, PortMasks::default);
        }
        let known = |mask: &FlowMask, tuples: &[u32], all: &[Option<Tuple>]| {
            let same = |n: &&u32| matches!(all.get(**n as usize), Some(Some(tuple)) if tuple.mask == *mask);
            tuples.iter().find(same).copied()
        };
        let masks = &mut self.ports[port];
        if let Some(number) = known(&mask, &masks.tuples, &self.tuples) {
            return number;
        }
        if masks.tuples.len() >= MAX_MASKS {
            // Whole words only, so that there is an end to these masks as well.
            mask.merge(&masks.relevant);
            for i in mask.active() {
                mask.set_word(i, u64::MAX);
            }
            if let Some(number) = known(&mask, &masks.tuples, &self.tuples) {
                return number;
            }
        }
        if !masks.relevant.covers(&mask) {
            // Hashes of before lead nowhere now; the signatures fill again by themselves.
            masks.relevant.merge(&mask);
            masks.active = masks.relevant.active();
            masks.plain = None;
        }
        self.salt = self.salt.wrapping_add(0x9e37_79b9);
        let tuple = Tuple {
            port: port as PortIndex,
            mask,
            active: mask.active(),
            salt: self.salt,
            entries: 0,
            hits: 0,
        };
        let number = self
            .tuples
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.tuples.len());
        match self.tuples.get_mut(number) {
            Some(free) => *free = Some(tuple),
            None => self.tuples.push(Some(tuple)),
        }
        self.ports[port].tuples.push(number as u32);
        number as u32
    }

    /// The number of a program, shared with all entries that do the same.
    fn intern(&mut self, ops: Vec<Op>, tracks: &[Track]) -> u32 {
        let quick = tracks.is_empty();
        if let [Op::Output(port)] = ops[..]
            && quick
        {
            return QUICK | u32::from(port);
        }
        let kind = match &ops[..] {
            [Op::Encapsulate(tunnel), Op::Output(_)] if quick && tunnel.is_front_alone() => TUNNEL,
            [Op::Decapsulate, Op::Output(_)] if quick => UNWRAP,
            [Op::Output(_)] if matches!(tracks, [Track::Connection { inner: false, .. }]) => FOLLOW,
            _ => 0,
        };
        let number = match self.programs.take(&ops) {
            Some(number) => number,
            None => self.programs.add(ops.into()),
        };
        number | kind
    }

    /// One entry less runs a program.
    fn let_go(&mut self, number: u32) {
        if number & QUICK == 0 {
            self.programs.give(number & !KINDS);
        }
    }

    /// Frees an entry. Its signatures fail by the compare.
    fn evict(&mut self, index: u32) {
        let Some(entry) = self.table.get(index).filter(|entry| entry.used()) else {
            return;
        };
        let (program, tuple) = (entry.program, entry.tuple);
        self.table.release(index);
        self.let_go(program);
        let Some(slot) = self.tuples.get_mut(tuple as usize) else {
            return;
        };
        if let Some(owned) = slot {
            owned.entries -= 1;
            let port = &mut self.ports[usize::from(owned.port)];
            port.entries -= 1;
            if owned.entries == 0 {
                port.tuples.retain(|number| *number != tuple);
                if port.tuples.is_empty() {
                    *port = PortMasks::default();
                }
                *slot = None;
            }
        }
    }

    /// More signatures when the entries have become many. The larger table fills by itself.
    fn widen_signatures(&mut self) {
        let now = self.signatures.len() * WAYS;
        if self.table.len() as usize > now / 2 && now < SIGNATURES[1] {
            self.signatures = signatures(now * 4);
        }
    }

    /// Entries that are in use.
    pub fn len(&self) -> usize {
        self.table.len() as usize
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Masks that are in use.
    pub fn masks(&self) -> usize {
        self.tuples.iter().flatten().count()
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        self.table.reserved() as usize * size_of::<Entry>()
            + self.signatures.len() * size_of::<[Signature; WAYS]>()
            + self.plain.bytes()
            + self.fronts.bytes()
    }
}

fn signatures(count: usize) -> Box<[[Signature; WAYS]]> {
    let signatures = vec![[Signature::default(); WAYS]; count / WAYS];
    sumeru_engine::huge::advise(&signatures);
    signatures.into()
}

#[inline(always)]
fn in_port(key: &FlowKey) -> usize {
    (key.word(0) as u32) as usize
}

/// Whether a frame's key agrees with an entry in the bits of its tuple.
#[inline(always)]
fn agrees(key: &FlowKey, entry: &Entry, tuple: &Tuple) -> bool {
    let (key, mask) = (key.words(), tuple.mask.words());
    // All words at once, so that the compiler uses vectors.
    let difference: [u64; NEAR] = std::array::from_fn(|i| (key[i] & mask[i]) ^ entry.near[i]);
    let near = difference.iter().fold(0, |all, word| all | word);
    near == 0 && (tuple.active.bits() >> NEAR == 0 || agrees_far(key, mask, entry))
}

#[inline(never)]
fn agrees_far(key: &[u64], mask: &[u64], entry: &Entry) -> bool {
    let own = key
        .iter()
        .zip(mask)
        .skip(NEAR)
        .map(|(key, mask)| key & mask);
    entry
        .far
        .as_deref()
        .is_some_and(|far| own.eq(far.iter().copied()))
}

impl Tuple {
    #[inline(always)]
    fn hash(&self, key: &FlowKey) -> u32 {
        let hash = key.hash(&self.mask, self.active);
        (hash >> 32) as u32 ^ hash as u32 ^ self.salt
    }

    /// Hash and masked words of a key.
    fn split(&self, key: &FlowKey) -> (u32, [u64; NEAR], Option<Box<Far>>) {
        let masked = key.masked(&self.mask);
        let words = masked.words();
        let far = (self.active.bits() >> NEAR != 0)
            .then(|| Box::new(std::array::from_fn(|i| words[NEAR + i])));
        (self.hash(key), std::array::from_fn(|i| words[i]), far)
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
