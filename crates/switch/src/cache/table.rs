//! The entries of the flow cache, found by hash: chains whose number grows one at a time (linear hashing, Litwin, VLDB 1980), so that no
//! insertion ever waits for a table to be made anew. Entries lie in chunks that do not move.

use std::mem::size_of;

use sumeru_packet::field::{INNER_BASE, OUTER_BASE};
use sumeru_packet::key::WORDS;

use super::{Rests, Sender};
use crate::track::Track;

/// Entries of a chunk, as a power of two.
const CHUNK: u32 = 10;
/// Chains at first, as a power of two.
const FIRST: u32 = 6;
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
    /// The bits that must agree, masked.
    pub near: [u64; NEAR],
    /// Its mask.
    pub tuple: u32,
    /// The next of its chain; of a free entry the next free one.
    pub next: u32,
    /// Where it counts, plus one.
    pub counter: u32,
    /// `hits` when it was last looked after.
    pub swept: u32,
    // What follows is touched by few frames.
    /// The version of the rules at its last check.
    pub version: u64,
    /// Low half of its hash.
    pub hash: u32,
    pub rests: Rests,
    /// The network that its sender was learned in, [`NO_NETWORK`] or with [`INNER`].
    network: u32,
    pub far: Option<Box<Far>>,
    /// The connection it is about.
    pub track: Option<Track>,
}

const _: () = assert!(size_of::<Entry>() == 256);

impl Entry {
    fn free() -> Self {
        Self {
            epoch: 0,
            program: 0,
            hits: 0,
            near: [0; NEAR],
            tuple: NONE,
            next: NONE,
            counter: 0,
            swept: 0,
            version: 0,
            hash: 0,
            rests: Rests::default(),
            network: NO_NETWORK,
            far: None,
            track: None,
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
#[derive(Debug, Default)]
pub struct Table {
    chunks: Vec<Box<[Entry]>>,
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
    /// No entry yet.
    pub fn new() -> Self {
        let mut table = Self {
            free: NONE,
            ..Self::default()
        };
        table.clear();
        table
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.heads.clear();
        self.heads.push(vec![NONE; 1 << FIRST].into());
        (self.chains, self.free, self.len) = (1 << FIRST, NONE, 0);
    }

    /// Entries in use.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Entries that there is memory for.
    pub fn reserved(&self) -> u32 {
        (self.chunks.len() as u32) << CHUNK
    }

    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&Entry> {
        self.chunks
            .get((index >> CHUNK) as usize)?
            .get(index as usize & ((1 << CHUNK) - 1))
    }

    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.chunks
            .get_mut((index >> CHUNK) as usize)?
            .get_mut(index as usize & ((1 << CHUNK) - 1))
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

    /// A free entry, if one is there or `limit` allows another; it is not in a chain.
    pub fn take(&mut self, limit: u32) -> Option<u32> {
        if self.free == NONE {
            if self.reserved() >= limit {
                return None;
            }
            let first = self.reserved();
            let chunk: Vec<Entry> = (0..1_u32 << CHUNK)
                .map(|i| Entry {
                    next: if i + 1 < 1 << CHUNK {
                        first + i + 1
                    } else {
                        NONE
                    },
                    ..Entry::free()
                })
                .collect();
            self.chunks.push(chunk.into());
            self.free = first;
        }
        let index = self.free;
        self.free = self.get(index)?.next;
        Some(index)
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
            let mut table = Table::new();
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
        let mut table = Table::new();
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
        table.clear();
        assert_eq!((table.len(), table.reserved()), (0, 0));
    }
}
