//! The flow cache of one lcore: decisions of the slow path, kept for all frames that agree in the bits that were looked at.
//!
//! Two levels. The wildcarded cache holds one entry per decision, in one hash table per mask. In front of it the signature
//! cache maps the hash of a frame's relevant bits straight to an entry; the entry's own masked compare makes the hit exact, so a
//! signature may be short and may be wrong.
//!
//! Entries carry the stamp of the moment they were made at; a stamp that is out of date makes the entry a miss. Nothing is searched
//! or freed when the configuration changes.

use std::collections::HashMap;

use sumeru_packet::key::ActiveWords;
use sumeru_packet::{FlowKey, FlowMask};

use crate::program::{Op, Validity};
use crate::snapshot::NetworkId;

/// Signatures; a power of two. 8 bytes each.
const SIGNATURES: usize = 1 << 15;
/// Ways of a set in the signature cache.
const WAYS: usize = 2;
/// Most entries.
pub const CAPACITY: usize = 1 << 16;

/// A cached decision.
#[derive(Debug)]
pub struct Entry {
    /// The bits that must agree, masked.
    key: FlowKey,
    mask: FlowMask,
    active: ActiveWords,
    tuple: u32,
    stamp: u32,
    validity: Validity,
    /// Frames that met it.
    pub hits: u64,
    /// `hits` when it was last looked after.
    swept: u64,
    /// Its sender, to be kept from ageing while frames come.
    pub sender: Option<(NetworkId, [u8; 6])>,
    /// What is done to its frames.
    pub ops: Box<[Op]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Signature {
    tag: u32,
    /// Entry index plus one; 0: free.
    entry: u32,
}

#[derive(Debug)]
struct Tuple {
    mask: FlowMask,
    active: ActiveWords,
    entries: HashMap<u64, u32>,
}

/// Which level answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The signature cache.
    Exact,
    /// The wildcarded cache.
    Wildcard,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    signatures: Box<[[Signature; WAYS]]>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    tuples: Vec<Tuple>,
    /// Current stamps by [`Validity`].
    stamps: [u32; 2],
    /// Bits that any decision may look at: what the signature's hash covers.
    relevant: FlowMask,
    relevant_active: ActiveWords,
    victim: u32,
}

impl Cache {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            signatures: vec![[Signature::default(); WAYS]; SIGNATURES / WAYS].into(),
            entries: Vec::new(),
            free: Vec::new(),
            tuples: Vec::new(),
            stamps: [1, 1],
            relevant: FlowMask::ZERO,
            relevant_active: ActiveWords::EMPTY,
            victim: 0,
        }
    }

    /// Everything decided so far is to be decided again.
    pub fn invalidate(&mut self) {
        self.stamps[Validity::Stable as usize] += 1;
        self.stamps[Validity::Unknown as usize] += 1;
    }

    /// What was decided because an address was unknown is to be decided again.
    pub fn invalidate_unknown(&mut self) {
        self.stamps[Validity::Unknown as usize] += 1;
    }

    /// The hash that [`Self::find`] wants.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(&self.relevant, self.relevant_active)
    }

    /// Asks for the line of the signature cache that a hash leads to.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        let set = &self.signatures[hash as usize & (SIGNATURES / WAYS - 1)];
        sumeru_virtio::slice::prefetch_read(std::ptr::from_ref(set).cast());
    }

    /// The entry for a frame.
    #[inline(always)]
    pub fn find(&mut self, key: &FlowKey, hash: u64) -> Option<(u32, Level)> {
        let tag = (hash >> 32) as u32;
        let set = &self.signatures[hash as usize & (SIGNATURES / WAYS - 1)];
        for signature in set {
            if signature.tag == tag
                && let Some(entry) = self.entries.get((signature.entry as usize).wrapping_sub(1))
                && entry.stamp == self.stamps[entry.validity as usize & 1]
                && key.matches(&entry.key, &entry.mask, entry.active)
            {
                return Some((signature.entry - 1, Level::Exact));
            }
        }
        self.find_wildcard(key, hash)
            .map(|index| (index, Level::Wildcard))
    }

    #[inline(never)]
    fn find_wildcard(&mut self, key: &FlowKey, hash: u64) -> Option<u32> {
        let found = self.tuples.iter().find_map(|tuple| {
            let index = *tuple.entries.get(&key.hash(&tuple.mask, tuple.active))?;
            let entry = self.entries.get(index as usize)?;
            let good = entry.stamp == self.stamps[entry.validity as usize & 1];
            (good && key.matches(&entry.key, &tuple.mask, tuple.active)).then_some(index)
        })?;
        self.remember(hash, found);
        Some(found)
    }

    fn remember(&mut self, hash: u64, entry: u32) {
        let set = &mut self.signatures[hash as usize & (SIGNATURES / WAYS - 1)];
        let tag = (hash >> 32) as u32;
        let way = set
            .iter()
            .position(|s| s.tag == tag || s.entry == 0)
            .unwrap_or(hash as usize >> 20 & (WAYS - 1));
        set[way] = Signature {
            tag,
            entry: entry + 1,
        };
    }

    /// The entry with this number, to run it.
    #[inline(always)]
    pub fn entry(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }

    /// Keeps a decision for the frames that agree with `key` under `mask`. Returns its entry.
    pub fn insert(
        &mut self,
        key: &FlowKey,
        mask: FlowMask,
        validity: Validity,
        ops: Box<[Op]>,
        sender: Option<(NetworkId, [u8; 6])>,
    ) -> u32 {
        let active = mask.active();
        let index = self
            .tuples
            .iter()
            .position(|tuple| tuple.mask == mask)
            .unwrap_or_else(|| {
                self.tuples.push(Tuple {
                    mask,
                    active,
                    entries: HashMap::new(),
                });
                self.tuples.len() - 1
            });
        if !self.relevant.covers(&mask) {
            // Hashes of before lead nowhere now; the signatures fill again by themselves.
            self.relevant.merge(&mask);
            self.relevant_active = self.relevant.active();
        }
        let hash = key.hash(&mask, active);
        let entry = Entry {
            key: key.masked(&mask),
            mask,
            active,
            tuple: index as u32,
            stamp: self.stamps[validity as usize & 1],
            validity,
            hits: 0,
            swept: 0,
            sender,
            ops,
        };
        // An older decision for the same frames, or one whose hash is the same, gives way.
        let slot = match self.tuples[index].entries.get(&hash) {
            Some(old) => *old,
            None => self.slot(),
        };
        match self.entries.get_mut(slot as usize) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
        self.tuples[index].entries.insert(hash, slot);
        self.remember(self.hash(key), slot);
        slot
    }

    /// A free place: a new one, a freed one, or that of a victim.
    fn slot(&mut self) -> u32 {
        if let Some(free) = self.free.pop() {
            return free;
        }
        if self.entries.len() < CAPACITY {
            return self.entries.len() as u32;
        }
        self.victim = (self.victim + 1) % CAPACITY as u32;
        self.unlink(self.victim);
        self.victim
    }

    /// Takes an entry out of its table. Its signatures fail by the stamp.
    fn unlink(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let (tuple, hash) = (
            entry.tuple as usize,
            entry.key.hash(&entry.mask, entry.active),
        );
        entry.stamp = 0;
        let table = &mut self.tuples[tuple].entries;
        if table.get(&hash) == Some(&index) {
            table.remove(&hash);
        }
    }

    /// Once in a while: frees what met no frame since the last time, and calls `used` for the senders of the rest.
    pub fn sweep(&mut self, mut used: impl FnMut(NetworkId, [u8; 6])) {
        for index in 0..self.entries.len() as u32 {
            let entry = &mut self.entries[index as usize];
            if entry.stamp == 0 {
                continue;
            }
            if entry.hits == entry.swept {
                entry.ops = Box::default();
                self.unlink(index);
                self.free.push(index);
                continue;
            }
            entry.swept = entry.hits;
            if let Some((network, mac)) = entry.sender {
                used(network, mac);
            }
        }
        if self.tuples.iter().all(|tuple| tuple.entries.is_empty()) && !self.tuples.is_empty() {
            self.clear();
        }
    }

    /// Nothing is cached any more: forget the masks too, so that the hash covers only what is looked at from now on.
    fn clear(&mut self) {
        self.entries.clear();
        self.free.clear();
        self.tuples.clear();
        self.signatures.fill([Signature::default(); WAYS]);
        (self.relevant, self.relevant_active) = (FlowMask::ZERO, ActiveWords::EMPTY);
    }

    /// Entries that are in use.
    pub fn len(&self) -> usize {
        self.tuples.iter().map(|tuple| tuple.entries.len()).sum()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sumeru_packet::{Field, Layer};

    fn key(port: u32, dst: u32) -> FlowKey {
        let mut key = FlowKey::with_metadata(port, 0);
        key.set(Field::IpDst(Layer::Outer), dst.into());
        key
    }

    fn mask(prefix: u32) -> FlowMask {
        let mut mask = FlowMask::ZERO;
        mask.merge_field(Field::InPort);
        mask.set(
            Field::IpDst(Layer::Outer),
            u128::from(u32::MAX << (32 - prefix)),
        );
        mask
    }

    fn find(cache: &mut Cache, key: &FlowKey) -> Option<(u32, Level)> {
        let hash = cache.hash(key);
        cache.find(key, hash)
    }

    #[test]
    fn a_decision_serves_all_frames_that_agree_and_no_other() {
        let mut cache = Cache::new();
        let entry = cache.insert(
            &key(1, 0x0a01_0203),
            mask(16),
            Validity::Stable,
            Box::default(),
            None,
        );
        assert_eq!(
            find(&mut cache, &key(1, 0x0a01_0203)),
            Some((entry, Level::Exact))
        );
        assert_eq!(
            find(&mut cache, &key(1, 0x0a01_ffff)),
            Some((entry, Level::Exact)),
            "the hash covers only what matters"
        );
        assert_eq!(find(&mut cache, &key(1, 0x0a02_0203)), None);
        assert_eq!(find(&mut cache, &key(2, 0x0a01_0203)), None);
        cache.insert(
            &key(1, 0x0b01_0203),
            mask(32),
            Validity::Unknown,
            Box::default(),
            None,
        );
        assert_eq!(
            find(&mut cache, &key(1, 0x0a01_ffff)),
            Some((entry, Level::Wildcard)),
            "a wider hash, then exact again"
        );
        assert_eq!(
            find(&mut cache, &key(1, 0x0a01_ffff)),
            Some((entry, Level::Exact))
        );
    }

    #[test]
    fn stamps_make_decisions_void() {
        let mut cache = Cache::new();
        cache.insert(&key(1, 1), mask(32), Validity::Stable, Box::default(), None);
        cache.insert(
            &key(1, 2),
            mask(32),
            Validity::Unknown,
            Box::default(),
            None,
        );
        cache.invalidate_unknown();
        assert!(find(&mut cache, &key(1, 1)).is_some() && find(&mut cache, &key(1, 2)).is_none());
        cache.invalidate();
        assert!(find(&mut cache, &key(1, 1)).is_none());
    }

    #[test]
    fn unused_decisions_are_freed_and_their_places_used_again() {
        let mut cache = Cache::new();
        for dst in 0..100 {
            let entry = cache.insert(
                &key(1, dst),
                mask(32),
                Validity::Stable,
                Box::default(),
                Some((5, [2; 6])),
            );
            cache.entry(entry).hits += u64::from(dst % 2);
        }
        let mut used = 0;
        cache.sweep(|_, _| used += 1);
        assert_eq!((used, cache.len()), (50, 50));
        assert!(find(&mut cache, &key(1, 0)).is_none() && find(&mut cache, &key(1, 1)).is_some());
        assert!(
            cache.insert(
                &key(1, 500),
                mask(32),
                Validity::Stable,
                Box::default(),
                None
            ) < 100
        );
    }

    #[test]
    fn a_full_cache_replaces_entries() {
        let mut cache = Cache::new();
        for dst in 0..CAPACITY as u32 + 10 {
            cache.insert(
                &key(1, dst),
                mask(32),
                Validity::Stable,
                Box::default(),
                None,
            );
        }
        assert_eq!(cache.len(), CAPACITY);
        assert!(find(&mut cache, &key(1, CAPACITY as u32 + 9)).is_some());
    }

    proptest! {
        /// Against a list searched from the newest: whatever was inserted under whatever masks.
        #[test]
        fn finds_what_was_inserted(
            inserts in proptest::collection::vec((0_u32..3, 0_u32..64, 20_u32..=32), 1..60),
            probes in proptest::collection::vec((0_u32..3, 0_u32..64), 1..60),
        ) {
            let mut cache = Cache::new();
            let mut list: Vec<(FlowKey, FlowMask)> = Vec::new();
            for (port, dst, prefix) in inserts {
                cache.insert(&key(port, dst), mask(prefix), Validity::Stable, Box::default(), None);
                list.push((key(port, dst), mask(prefix)));
            }
            for (port, dst) in probes {
                let probe = key(port, dst);
                let expected = list.iter().any(|(k, m)| probe.masked(m) == k.masked(m));
                let found = find(&mut cache, &probe);
                prop_assert_eq!(found.is_some(), expected);
                if let Some((index, _)) = found {
                    let entry = cache.entry(index);
                    prop_assert_eq!(probe.masked(&entry.mask), entry.key);
                }
            }
        }
    }
}
