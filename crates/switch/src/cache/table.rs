//! The entries of the flow cache, found by hash: chains whose number grows one at a time (linear hashing, Litwin, VLDB 1980), so that no
//! insertion ever waits for a table to be made anew. Entries do not move.

use std::mem::size_of;
use std::num::NonZeroU32;

use sumeru_packet::field::{INNER_BASE, OUTER_BASE};
use sumeru_packet::key::WORDS;

use super::{KINDS, QUICK, Quick, Rests, Sender, UNWRAP};
use crate::frame::PortIndex;
use crate::track::Track;

/// Chains at first, as a power of two.
const FIRST: u32 = 6;
/// Entries that there is always room for.
const FEW: u32 = 1024;
/// The sender is not known.
const NO_NETWORK: u32 = u32::MAX;
/// Added to a network, which has 24 bits: the sender is that of the inner headers.
const INNER: u32 = 1 << 31;
/// No entry.
const NONE: u32 = u32::MAX;
/// Words of a key that every entry keeps beside its other fields.
pub const NEAR: usize = 12;
/// The rest of a key, kept elsewhere by the few entries that need it.
pub type Far = [u64; WORDS - NEAR];

/// A cached decision.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Entry {
    /// The moment it was last known to be right.
    pub epoch: u64,
    /// What is done: a program's number, or [`super::QUICK`] and a port.
    pub program: u32,
    /// Frames that met it, wrapping.
    pub hits: u32,
    /// Told apart by this from others that had or will have its place.
    pub serial: u32,
    /// Where it counts, plus one.
    pub counter: u32,
    /// The connection it is about.
    pub track: Option<Track>,
    /// The bits that must agree, masked.
    pub near: [u64; NEAR],
    /// Its mask.
    pub tuple: u32,
    /// The next of its chain; of a free entry the next free one.
    pub next: u32,
    /// `hits` when it was last looked after.
    pub swept: u32,
    /// The arrangement of the slots in which its frames were last told to be known by their bytes.
    pub told: u32,
    // What follows is touched by few frames.
    /// The version of the rules at its last check.
    pub version: u64,
    /// Low half of its hash.
    pub hash: u32,
    pub rests: Rests,
    /// The network that its sender was learned in, [`NO_NETWORK`] or with [`INNER`].
    network: u32,
    pub far: Option<Box<Far>>,
}

const _: () = assert!(size_of::<Entry>() == 256);

impl Entry {
    fn free() -> Self {
        Self {
            epoch: 0,
            program: 0,
            hits: 0,
            serial: 0,
            counter: 0,
            track: None,
            near: [0; NEAR],
            tuple: NONE,
            next: NONE,
            swept: 0,
            told: 0,
            version: 0,
            hash: 0,
            rests: Rests::default(),
            network: NO_NETWORK,
            far: None,
        }
    }

    /// Its sender, to be kept from ageing while frames come.
    pub fn sender(&self) -> Option<Sender> {
        let word = if self.network & INNER == 0 {
            OUTER_BASE
        } else {
            INNER_BASE
        } + 1;
        (self.network != NO_NETWORK).then(|| (self.network & !INNER, mac_of(self.near[word])))
    }

    /// Takes note of the sender, if it is the one that the key has. One that a rule wrote is learned again when it has aged.
    pub fn set_sender(&mut self, sender: Option<Sender>) {
        self.network = match sender {
            Some((network, mac)) if mac_of(self.near[OUTER_BASE + 1]) == mac => network,
            Some((network, mac)) if mac_of(self.near[INNER_BASE + 1]) == mac => network | INNER,
            _ => NO_NETWORK,
        };
    }

    /// Whether its frames need nothing but to be sent.
    #[inline(always)]
    pub fn is_quick(&self) -> bool {
        self.program & QUICK != 0
    }

    /// What to do with its frames, if it [is quick](Self::is_quick).
    #[inline(always)]
    pub fn quick(&self) -> Quick {
        Quick {
            port: self.program as PortIndex,
            counter: NonZeroU32::new(self.counter),
        }
    }

    /// Whether its frames need nothing but to be sent, perhaps into a tunnel or out of one, or as part of a connection.
    #[inline(always)]
    pub fn is_express(&self) -> bool {
        self.program & KINDS != 0
    }

    /// Whether its frames need nothing but to be taken out of a tunnel and sent.
    #[inline(always)]
    pub fn is_unwrap(&self) -> bool {
        self.program & (QUICK | UNWRAP) == UNWRAP
    }

    /// The number of its program, if that is not [quick](Self::is_quick).
    #[inline(always)]
    pub fn number(&self) -> u32 {
        self.program & !KINDS
    }

    /// Whether it holds a decision.
    pub fn used(&self) -> bool {
        self.tuple != NONE
    }
}

/// The source address in a key's word.
fn mac_of(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = word.to_be_bytes();
    [a, b, c, d, e, f]
}

/// Entries and the chains that lead to them.
#[derive(Debug)]
pub struct Table {
    /// Address space for all is reserved at once; memory comes as entries are first used.
    entries: Vec<Entry>,
    heads: Vec<Box<[u32]>>,
    chains: u32,
    free: u32,
    len: u32,
}

/// Segment and place of chain `n`; each segment doubles the number of chains.
#[inline(always)]
fn locate(chain: u32) -> (usize, usize) {
    let shifted = chain + (1 << FIRST);
    let top = shifted.ilog2();
    ((top - FIRST) as usize, (shifted - (1 << top)) as usize)
}

impl Table {
    /// Room for `limit` entries, or for as many as there is address space for.
    pub fn new(limit: u32) -> Self {
        let mut table = Self {
            entries: Vec::new(),
            heads: Vec::new(),
            chains: 0,
            free: NONE,
            len: 0,
        };
        table.clear(limit);
        table
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self, limit: u32) {
        self.entries = Vec::new();
        // Fewer entries make the cache smaller, not wrong.
        let mut room = limit as usize;
        while self.entries.try_reserve_exact(room).is_err() && room > FEW as usize {
            room /= 2;
        }
        sumeru_engine::huge::advise(&self.entries);
        self.heads.clear();
        self.heads.push(vec![NONE; 1 << FIRST].into());
        (self.chains, self.free, self.len) = (1 << FIRST, NONE, 0);
    }

    /// Entries in use.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Entries that were ever used.
    pub fn reserved(&self) -> u32 {
        self.entries.len() as u32
    }

    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index as usize)
    }

    /// The chain of a hash.
    #[inline(always)]
    fn chain(&self, hash: u32) -> u32 {
        // Chains below `chains` exist; a hash whose chain does not exist yet is in the one that will be split.
        let full = (self.chains).next_power_of_two();
        let chain = hash & (full - 1);
        if chain < self.chains {
            chain
        } else {
            chain & (full / 2 - 1)
        }
    }

    fn head(&mut self, chain: u32) -> Option<&mut u32> {
        let (segment, place) = locate(chain);
        self.heads.get_mut(segment)?.get_mut(place)
    }

    /// The first entry of a hash's chain.
    #[inline(always)]
    pub fn first(&self, hash: u32) -> u32 {
        let (segment, place) = locate(self.chain(hash));
        self.heads
            .get(segment)
            .and_then(|heads| heads.get(place))
            .copied()
            .unwrap_or(NONE)
    }

    /// A free entry, if there is room; it is not in a chain.
    pub fn take(&mut self, limit: u32) -> Option<u32> {
        if let Some(entry) = self.get(self.free) {
            let next = entry.next;
            return Some(std::mem::replace(&mut self.free, next));
        }
        // Beyond what was reserved only while they are few: that moves the entries.
        let full = self.entries.len() == self.entries.capacity() && self.reserved() >= FEW;
        if self.reserved() >= limit.max(1) || full {
            return None;
        }
        self.entries.push(Entry::free());
        Some(self.reserved() - 1)
    }

    /// Puts a taken entry, which has its hash and tuple, at the front of its chain.
    pub fn link(&mut self, index: u32) {
        let Some(hash) = self.get(index).map(|entry| entry.hash) else {
            return;
        };
        let chain = self.chain(hash);
        let Some(head) = self.head(chain) else {
            return;
        };
        let next = std::mem::replace(head, index);
        if let Some(entry) = self.get_mut(index) {
            entry.next = next;
        }
        self.len += 1;
        if self.len > self.chains {
            self.split();
        }
    }

    /// Makes one more chain out of the one that holds its entries so far.
    fn split(&mut self) {
        let new = self.chains;
        let (segment, _) = locate(new);
        if segment == self.heads.len() {
            self.heads
                .push(vec![NONE; 1 << (segment as u32 + FIRST)].into());
        }
        let old = self.chain(new);
        let Some(mut index) = self.head(old).map(|head| std::mem::replace(head, NONE)) else {
            return;
        };
        self.chains += 1;
        while let Some(entry) = self.get(index) {
            let (hash, next) = (entry.hash, entry.next);
            let chain = self.chain(hash);
            let first = self
                .head(chain)
                .map_or(NONE, |head| std::mem::replace(head, index));
            if let Some(entry) = self.get_mut(index) {
                entry.next = first;
            }
            index = next;
        }
    }

    /// Takes an entry out of its chain and frees it.
    pub fn release(&mut self, index: u32) {
        let Some((hash, after)) = self
            .get(index)
            .filter(|entry| entry.used())
            .map(|e| (e.hash, e.next))
        else {
            return;
        };
        let chain = self.chain(hash);
        let mut at = self.first(hash);
        if at == index {
            if let Some(head) = self.head(chain) {
                *head = after;
            }
        } else {
            while let Some(entry) = self.get_mut(at) {
                if entry.next == index {
                    entry.next = after;
                    break;
                }
                at = entry.next;
            }
        }
        let free = std::mem::replace(&mut self.free, index);
        if let Some(entry) = self.get_mut(index) {
            *entry = Entry {
                next: free,
                ..Entry::free()
            };
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(table: &Table, hash: u32) -> Vec<u32> {
        let mut out = Vec::new();
        let mut at = table.first(hash);
        while let Some(entry) = table.get(at) {
            out.push(at);
            at = entry.next;
        }
        out
    }

    proptest! {
        #[test]
        fn every_entry_is_in_the_chain_of_its_hash(steps in proptest::collection::vec((any::<u32>(), any::<bool>()), 1..3000)) {
            let mut table = Table::new(200_000);
            let mut there: Vec<(u32, u32)> = Vec::new();
            for (number, insert) in steps {
                if insert || there.is_empty() {
                    let index = table.take(u32::MAX).unwrap();
                    let entry = table.get_mut(index).unwrap();
                    (entry.hash, entry.tuple) = (number.wrapping_mul(0x9e37_79b9), 0);
                    there.push((entry.hash, index));
                    table.link(index);
                } else {
                    let (_, index) = there.swap_remove(number as usize % there.len());
                    table.release(index);
                    prop_assert!(!table.get(index).unwrap().used());
                }
            }
            prop_assert_eq!(table.len() as usize, there.len());
            for (hash, index) in there {
                prop_assert!(walk(&table, hash).contains(&index));
            }
        }
    }

    #[test]
    fn chains_stay_short_and_memory_is_bounded() {
        let mut table = Table::new(200_000);
        let mut taken = 0;
        while let Some(index) = table.take(100_000) {
            let entry = table.get_mut(index).unwrap();
            (entry.hash, entry.tuple) = (index.wrapping_mul(0x9e37_79b9) ^ index >> 16, 0);
            table.link(index);
            taken += 1;
        }
        assert_eq!(taken, table.reserved());
        let longest = (0..100_000_u32)
            .map(|i| walk(&table, i.wrapping_mul(0x9e37_79b9) ^ i >> 16).len())
            .max();
        assert!(longest < Some(12), "{longest:?}");
        table.clear(10);
        assert_eq!((table.len(), table.reserved()), (0, 0));
    }
}
