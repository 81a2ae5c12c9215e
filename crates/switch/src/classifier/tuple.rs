//! Rules that look at the same bits: one hash table (tuple space search, Srinivasan et al., SIGCOMM 1999), with what is needed to
//! prove cheaply that no rule of it can match.
//!
//! In front of the table stand stages: ever larger parts of the mask, address prefixes in steps of a byte, each with a count of the rules by
//! the hash of that part. A count of zero proves that the frame meets no rule of the tuple, and only the bits of that part were
//! looked at (staged lookup and prefix tracking as in Open vSwitch, Pfaff et al., NSDI 2015, with one mechanism for both).
//!
//! Readers and the writer meet in atomics only. Nothing here decides which version sees which rule; see [`super::writer`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use sumeru_packet::field::{INNER_BASE, LAYER_WORDS, OUTER_BASE};
use sumeru_packet::key::{ActiveWords, WORDS};
use sumeru_packet::{Field, FlowKey, FlowMask, Layer};
use sumeru_virtio::slice::prefetch_read;

use super::arena::{Arena, zeroed};
use super::stamps::{Class, class};

/// Words of a record in front of its key.
pub const HEADER: usize = 6;
/// Most stages of a tuple.
pub const MAX_STAGES: usize = 10;
/// Fewest slots of an index.
const SLOTS: usize = 16;
/// Fewest cells of a stage, unless the index has fewer slots.
const CELLS: usize = 1 << 10;
/// A slot that was never used: a search ends here.
const FREE: u64 = 0;
/// A slot whose rule is gone: a search goes on.
const GONE: u64 = 1;
/// Most low bits of a field that siblings are joined over.
const JOINED: u32 = 8;

/// A part of a tuple's mask.
#[derive(Debug)]
pub struct Stage {
    pub mask: FlowMask,
    pub active: ActiveWords,
}

/// Low bits of the mask over which rules that do the same are joined in a cached decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Siblings {
    pub word: usize,
    pub shift: u32,
    pub bits: u32,
}

/// The unchanging part of a tuple, and its rules' records.
#[derive(Debug)]
pub struct Tuple {
    pub id: u64,
    pub group: u32,
    pub mask: FlowMask,
    pub active: ActiveWords,
    pub stages: Box<[Stage]>,
    pub siblings: Option<Siblings>,
    /// The mask without the bits that siblings differ in.
    coarse: FlowMask,
    pub records: Arena,
}

/// Where a tuple's rules are found; replaced by a larger one as they become more.
#[derive(Debug)]
pub struct Index {
    slots: Box<[AtomicU64]>,
    counts: Vec<Box<[AtomicU32]>>,
}

/// The fixed words of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Lower is better.
    pub priority: u32,
    /// Number of its actions.
    pub program: u32,
    /// Order of creation.
    pub sequence: u64,
    /// First version that sees it.
    pub from: u64,
    /// First version that does not see it any more.
    pub until: u64,
    /// What its owner calls it.
    pub name: u64,
    /// Counter, plus one; 0: it does not count.
    pub counter: u32,
}

/// Slots for so many rules: at most five of eight are filled.
fn slots_for(rules: usize) -> usize {
    (rules.saturating_mul(8) / 5).max(SLOTS).next_power_of_two()
}

fn intersection(a: &FlowMask, b: &FlowMask) -> FlowMask {
    let mut words = [0; WORDS];
    for (i, word) in words.iter_mut().enumerate() {
        *word = a.word(i) & b.word(i);
    }
    FlowMask::from_words(words)
}

/// The parts of `mask` in the order in which they are looked at, each holding the ones before, without the whole mask itself.
fn stages(mask: &FlowMask) -> Box<[Stage]> {
    let outer = Layer::Outer;
    let mut wanted = FlowMask::ZERO;
    // Metadata and the kind of packet.
    for i in (0..OUTER_BASE).chain(INNER_BASE + LAYER_WORDS..24) {
        wanted.set_word(i, u64::MAX);
    }
    wanted.merge_field(Field::EthType(outer));
    let mut parts = vec![wanted];
    // Addresses of the link layer.
    wanted.set_word(OUTER_BASE, u64::MAX);
    wanted.set_word(OUTER_BASE + 1, u64::MAX);
    parts.push(wanted);
    // The address of the network layer that tells most, byte by byte from the top. A key holds IPv4 in the low half.
    let fields = [Field::IpDst(outer), Field::IpSrc(outer)];
    if let Some(field) = fields.into_iter().find(|field| mask.get(*field) != 0) {
        let own = mask.get(field);
        let lengths: &[u32] = if own >> 32 == 0 {
            &[104, 112, 120, 128]
        } else {
            &[32, 48, 64, 128]
        };
        for length in lengths {
            wanted.set(field, u128::MAX << (128 - length));
            parts.push(wanted);
        }
    }
    let mut out: Vec<Stage> = Vec::new();
    for part in parts {
        let part = intersection(mask, &part);
        if !part.is_empty() && part != *mask && out.last().is_none_or(|last| last.mask != part) {
            out.push(Stage {
                active: part.active(),
                mask: part,
            });
        }
    }
    out.into()
}

/// The first field of the mask whose lowest compared bits may be joined.
fn siblings(mask: &FlowMask) -> Option<Siblings> {
    let fields = [
        Field::IpDst(Layer::Outer),
        Field::IpSrc(Layer::Outer),
        Field::IpDst(Layer::Inner),
        Field::IpSrc(Layer::Inner),
        Field::L4Dst(Layer::Outer),
        Field::L4Src(Layer::Outer),
    ];
    fields.into_iter().find_map(|field| {
        let own = mask.get(field);
        if own == 0 {
            return None;
        }
        let position = field.position();
        let lowest = own.trailing_zeros();
        let run = (own >> lowest).trailing_ones();
        let (word, shift) = match position.width {
            128 if lowest >= 64 => (position.word + 1, lowest - 64),
            _ => (position.word, position.shift + lowest),
        };
        let bits = run.min(JOINED).min(64 - shift);
        Some(Siblings { word, shift, bits })
    })
}

impl Tuple {
    pub fn new(id: u64, group: u32, mask: FlowMask) -> Self {
        let active = mask.active();
        let siblings = siblings(&mask);
        let mut coarse = mask;
        if let Some(s) = siblings {
            coarse.set_word(
                s.word,
                mask.word(s.word) & !(((1 << s.bits) - 1) << s.shift),
            );
        }
        Self {
            id,
            group,
            mask,
            active,
            stages: stages(&mask),
            siblings,
            coarse,
            records: Arena::new(HEADER + active.len()),
        }
    }

    /// The class of decisions that end at stage `stage`, at this cell of an index ([`Index::cell`]). An index of another size has other cells.
    #[inline]
    pub fn stage_class(&self, stage: usize, hash: u64) -> Class {
        class(
            hash ^ self
                .id
                .wrapping_mul(0xd6e8_feb8_6659_fd93)
                .rotate_left(stage as u32 + 1),
        )
    }

    /// The class of decisions that looked the key up under the whole mask.
    #[inline]
    pub fn class(&self, key: &FlowKey) -> Class {
        self.stage_class(0, key.hash(&self.coarse, self.active))
    }

    /// The fixed words of a record.
    pub fn header(&self, record: u32) -> Option<Header> {
        let words = self.records.get(record)?;
        let [first, sequence, from, until, name, counter, ..] = words else {
            return None;
        };
        let first = first.load(Ordering::Relaxed);
        Some(Header {
            priority: (first >> 32) as u32,
            program: first as u32,
            sequence: sequence.load(Ordering::Relaxed),
            from: from.load(Ordering::Relaxed),
            until: until.load(Ordering::Relaxed),
            name: name.load(Ordering::Relaxed),
            counter: counter.load(Ordering::Relaxed) as u32,
        })
    }

    /// Writes a record that no reader can reach. False when it was not reserved.
    pub fn write(&self, record: u32, header: &Header, value: &FlowKey) -> bool {
        let Some(words) = self.records.get(record) else {
            return false;
        };
        let fixed = [
            u64::from(header.priority) << 32 | u64::from(header.program),
            header.sequence,
            header.from,
            header.until,
            header.name,
            header.counter.into(),
        ];
        let key = self.active.map(|i| value.word(i));
        for (word, value) in words.iter().zip(fixed.into_iter().chain(key)) {
            word.store(value, Ordering::Relaxed);
        }
        true
    }

    /// From `version` on the record is not seen.
    pub fn end(&self, record: u32, version: u64) {
        if let Some(until) = self.records.get(record).and_then(|words| words.get(3)) {
            until.store(version, Ordering::Relaxed);
        }
    }

    /// The value of a record.
    pub fn value(&self, record: u32) -> FlowKey {
        let mut key = FlowKey::ZERO;
        if let Some(words) = self
            .records
            .get(record)
            .and_then(|words| words.get(HEADER..))
        {
            for (i, word) in self.active.zip(words) {
                key.set_word(i, word.load(Ordering::Relaxed));
            }
        }
        key
    }

    /// Whether the frame's key has the record's value.
    #[inline]
    fn matches(&self, record: u32, key: &FlowKey) -> bool {
        let Some(words) = self
            .records
            .get(record)
            .and_then(|words| words.get(HEADER..))
        else {
            return false;
        };
        self.active
            .zip(words)
            .all(|(i, word)| key.word(i) & self.mask.word(i) == word.load(Ordering::Relaxed))
    }

    /// The best rule for the key that `version` sees.
    pub fn find(
        &self,
        index: &Index,
        hash: u64,
        key: &FlowKey,
        version: u64,
    ) -> Option<(u32, Header)> {
        let mut best: Option<(u32, Header)> = None;
        index.each(hash, |record| {
            if self.matches(record, key)
                && let Some(header) = self.header(record)
                && header.from <= version
                && version < header.until
                && best.is_none_or(|(_, b)| {
                    (header.priority, header.sequence) < (b.priority, b.sequence)
                })
            {
                best = Some((record, header));
            }
        });
        best
    }

    /// How many of the low bits that siblings differ in do not matter: rules for every value of them do what `found` does.
    pub fn joined(&self, index: &Index, found: &Header, key: &FlowKey, version: u64) -> u32 {
        let Some(siblings) = self.siblings else {
            return 0;
        };
        let mut probe = *key;
        let own = key.word(siblings.word);
        for bits in 0..siblings.bits {
            // With `bits` low bits free already, the other half of the next larger block must do the same.
            for low in 0..1_u64 << bits {
                let block = own >> siblings.shift & !((1 << bits) - 1) ^ 1 << bits | low;
                let rest = own & !(((1 << siblings.bits) - 1) << siblings.shift);
                let inside = block & ((1 << siblings.bits) - 1);
                probe.set_word(siblings.word, rest | inside << siblings.shift);
                let sibling =
                    self.find(index, probe.hash(&self.mask, self.active), &probe, version);
                let same = sibling.is_some_and(|(_, other)| {
                    (other.priority, other.program) == (found.priority, found.program)
                        && other.counter == 0
                });
                if !same {
                    return bits;
                }
            }
        }
        siblings.bits
    }

    /// The mask without the lowest `bits` that siblings differ in.
    pub fn widened(&self, bits: u32) -> FlowMask {
        let mut mask = self.mask;
        if let Some(s) = self.siblings {
            mask.set_word(s.word, mask.word(s.word) & !(((1 << bits) - 1) << s.shift));
        }
        mask
    }
}

impl Index {
    /// Room for `rules` rules of a tuple whose stages' rules lie in so many `cells` each, for as many again; `None` when there is no memory.
    fn with_cells(rules: usize, cells: impl Iterator<Item = usize>) -> Option<Self> {
        let slots = slots_for(rules);
        let counts = cells
            .map(|cells| cells.next_power_of_two().clamp(CELLS.min(slots), slots))
            .map(zeroed::<AtomicU32>)
            .collect::<Option<Vec<Box<[AtomicU32]>>>>()?;
        let slots = zeroed::<AtomicU64>(slots)?;
        // A page that is read before it is written is mapped twice, and the second time every core has to hear of it.
        let page = 4096;
        slots
            .iter()
            .step_by(page / 8)
            .for_each(|slot| slot.store(FREE, Ordering::Relaxed));
        let cells = counts
            .iter()
            .flat_map(|counts| counts.iter().step_by(page / 4));
        cells.for_each(|count| count.store(0, Ordering::Relaxed));
        Some(Self { slots, counts })
    }

    /// For the first rules of a tuple with `stages` stages; `None` when there is no memory.
    pub fn new(stages: usize) -> Option<Self> {
        Self::with_cells(0, std::iter::repeat_n(CELLS, stages))
    }

    /// Room for `rules` of this one's rules and more, with as many cells as they need; `None` when there is no memory.
    pub fn resized(&self, rules: usize) -> Option<Self> {
        let same = slots_for(rules) == self.slots.len();
        let cells = self.counts.iter().map(|counts| {
            let loads = counts.iter().map(|count| count.load(Ordering::Relaxed));
            let used = loads.filter(|rules| *rules != 0).count();
            match same && used * 2 <= counts.len() {
                true => counts.len(),
                // As sparse as the slots, at least: rules whose parts are all different are one to a cell.
                false => used * 8,
            }
        });
        Self::with_cells(rules, cells)
    }

    /// Whether what rests on the cells of the one rests on the same of the other.
    pub fn has_cells_of(&self, other: &Self) -> bool {
        let mut pairs = self.counts.iter().zip(&other.counts);
        pairs.all(|(one, other)| one.len() == other.len())
    }

    /// Rules that fit.
    pub fn capacity(&self) -> usize {
        self.slots.len() / 8 * 5
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        self.slots.len() * 8
            + self
                .counts
                .iter()
                .map(|counts| counts.len() * 4)
                .sum::<usize>()
    }

    /// The slots in the order in which a rule with this hash is looked for.
    #[inline(always)]
    fn path(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let last = self.slots.len() - 1;
        let start = hash as usize & last;
        (0..self.slots.len()).filter_map(move |i| self.slots.get((start + i) & last))
    }

    /// Calls `visit` for every record whose hash agrees in its upper half.
    #[inline]
    pub fn each(&self, hash: u64, mut visit: impl FnMut(u32)) {
        let tag = hash >> 32;
        for slot in self.path(hash) {
            let content = slot.load(Ordering::Acquire);
            if content == FREE {
                return;
            }
            if content >> 32 == tag && content as u32 > GONE as u32 {
                visit(content as u32 - 2);
            }
        }
    }

    /// Where the rules with this hash of a stage's part are counted, together with others.
    #[inline]
    pub fn cell(&self, stage: usize, hash: u64) -> u64 {
        let cells = self.counts.get(stage).map_or(1, |counts| counts.len());
        hash & (cells as u64 - 1)
    }

    #[inline]
    fn count(&self, stage: usize, hash: u64) -> Option<&AtomicU32> {
        let counts = self.counts.get(stage)?;
        counts.get(hash as usize & (counts.len() - 1))
    }

    /// Whether any rule agrees with a frame in the part that `stage` looks at; may say yes when none does.
    #[inline]
    pub fn may_match(&self, stage: usize, hash: u64) -> bool {
        let count = self.count(stage, hash);
        count.is_none_or(|count| count.load(Ordering::Acquire) != 0)
    }

    /// Every record.
    pub fn records(&self) -> impl Iterator<Item = u32> {
        let contents = self
            .slots
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed) as u32);
        contents
            .filter(|content| *content > GONE as u32)
            .map(|content| content - 2)
    }

    /// Adds to the count of a stage; for the writer. Answers whether nothing was counted before.
    pub fn add(&self, stage: usize, hash: u64, by: i32) -> bool {
        let Some(count) = self.count(stage, hash) else {
            return true;
        };
        let before = count.load(Ordering::Relaxed);
        count.store(before.wrapping_add_signed(by), Ordering::Release);
        before == 0
    }

    /// Puts a record in; for the writer, who keeps the index from filling up. Answers whether a fresh slot was used.
    pub fn insert(&self, hash: u64, record: u32) -> bool {
        for slot in self.path(hash) {
            let content = slot.load(Ordering::Relaxed);
            if content == FREE || content as u32 == GONE as u32 {
                slot.store(hash >> 32 << 32 | u64::from(record + 2), Ordering::Release);
                return content == FREE;
            }
        }
        false
    }

    /// Takes a record out; for the writer.
    pub fn remove(&self, hash: u64, record: u32) {
        let wanted = hash >> 32 << 32 | u64::from(record + 2);
        for slot in self.path(hash) {
            let content = slot.load(Ordering::Relaxed);
            if content == wanted {
                slot.store(GONE, Ordering::Release);
                return;
            }
            if content == FREE {
                return;
            }
        }
    }

    /// Asks for the slot that a hash leads to.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        if let Some(slot) = self.slots.get(hash as usize & (self.slots.len() - 1)) {
            prefetch_read(std::ptr::from_ref(slot).cast());
        }
    }

    /// Asks for the count that a hash leads to.
    #[inline(always)]
    pub fn prefetch_count(&self, stage: usize, hash: u64) {
        if let Some(count) = self.count(stage, hash) {
            prefetch_read(std::ptr::from_ref(count).cast());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_as_many_cells_as_their_rules_need() {
        let mix = |rule: u64| rule.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        // The rules agree in the part of the first stage, and differ in that of the second.
        let enter = |index: &Index, rule: u64| {
            index.add(0, 7, 1);
            index.add(1, mix(rule), 1);
            assert!(index.insert(mix(rule), rule as u32));
        };
        let mut index = Index::new(2).unwrap();
        for rule in 0..20_000_u64 {
            if rule as usize == index.capacity() {
                let larger = index.resized(2 * index.capacity() + 1).unwrap();
                (0..rule).for_each(|rule| enter(&larger, rule));
                index = larger;
            }
            enter(&index, rule);
        }
        let cells: Vec<usize> = index.counts.iter().map(|counts| counts.len()).collect();
        assert_eq!(cells, [CELLS, index.slots.len()]);
        assert!((0..20_000).all(|rule| index.may_match(0, 7) && index.may_match(1, mix(rule))));
        assert!(!index.may_match(0, 8));
        let again = index.resized(index.capacity()).unwrap();
        assert!(again.has_cells_of(&index));
        assert!(!index.resized(1).unwrap().has_cells_of(&index));
        assert_eq!(again.records().count(), 0);
        assert_eq!(index.records().count(), 20_000);
    }
}
