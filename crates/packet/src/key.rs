//! Flow keys: everything a classifier may match on, as 40 words (five cache lines).
//!
//! The key never holds pointers or offsets (those are in [`Layout`](crate::Layout)) and is compared and hashed as
//! plain words, in three blocks: [0, 12), [12, 20), [20, 40). A mask without bits in a block never looks there.
//!
//! | word | bits 63..48 | 47..32 | 31..16 | 15..0 |
//! |---|---|---|---|---|
//! | 0 | mark | mark | in_port | in_port |
//! | 1 | – | layers (3 bits from 32) | network | network |
//! | L+0 | eth_dst | eth_dst | eth_dst | ethertype |
//! | L+1 | eth_src | eth_src | eth_src | vlan tci, bit 12 = tag present |
//! | L+2 | l4_src, ICMP type | l4_dst, ICMP code, ARP opcode | ip_proto, ip_tos | ip_ttl, tcp_flags |
//! | L+3 | ip src low half | | IPv4 here | IPv4 here |
//! | L+4 | ip src high half | | | |
//! | L+5 | ip dst low half | | IPv4 here | IPv4 here |
//! | L+6 | ip dst high half | | | |
//! | L+7 | tunnel id | tunnel id | kind (31..28), fragment (27..26), GRE key present (25) | second vlan tci |
//! | 18 | ct_state | ct_zone | ct_mark | ct_mark |
//! | 19, 20 | ct_label | | | |
//! | 21 | meta | meta | tag0 | tag0 |
//! | 22 | tag1 | tag1 | tag2 | tag2 |
//! | 23 | tag3 | tag3 | out_port | conntrack item (7..0) |
//! | 24, 25 | l4_extra, outer and inner | | | |
//! | 26, 27 | ip_extra, outer and inner | | | |
//! | 28, 29 | nd_target, or ARP sender's (28) and target's (29) MAC address | | | |
//! | 30 | present (63) | nd source link address | | |
//! | 31 | present (63) | nd target link address | | |
//! | 32 | outermost MPLS entry | | second MPLS entry | |
//! | 33 | tunnel head | tunnel protocol | GTP-U session | raw present (2), Geneve present (1..0) |
//! | 34, 35 | data of the first Geneve option | | | |
//! | 36, 37 | data of the second Geneve option | | | |
//! | 38, 39 | raw bytes | | | |
//!
//! L is 2 for the outer layer (the outermost headers) and 10 for the inner layer (inside a tunnel). Words 18 to 23 are
//! the caller's; [`parse`](crate::parse()) never touches them. It writes words 24 to 39 only when
//! [`ParseOptions::extras`](crate::ParseOptions::extras) is set and else leaves them as they are, so they stay zero in a
//! key that never saw that option.

use crate::field::{EXTRA_BASE, Field, LAYER_INNER_PRESENT};

/// Words of a key.
pub const WORDS: usize = crate::field::USED_WORDS_END;
/// Words of a key that can be other than zero: all of them.
pub const USED_WORDS: usize = WORDS;

/// What a packet is, as far as matching goes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey(pub(crate) [u64; WORDS]);

/// Which bits of a [`FlowKey`] matter: same shape, a one bit is compared.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowMask(pub(crate) [u64; WORDS]);

const _: () = assert!(size_of::<FlowKey>() == 320 && align_of::<FlowKey>() == 64);
const _: () = assert!(size_of::<FlowMask>() == 320 && align_of::<FlowMask>() == 64);

/// The set of words of a mask that are not zero; bit `i` stands for word `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ActiveWords(u64);

impl ActiveWords {
    /// No word.
    pub const EMPTY: ActiveWords = ActiveWords(0);
    /// Every used word.
    pub const ALL: ActiveWords = ActiveWords((1 << USED_WORDS) - 1);

    /// A set from its bitmap; bits beyond the last word are dropped.
    pub const fn from_bits(bits: u64) -> ActiveWords {
        ActiveWords(bits & Self::ALL.0)
    }

    /// The bitmap.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Number of words in the set, 0..=40.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no word is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether word `index` is in the set.
    pub const fn contains(self, index: usize) -> bool {
        index < USED_WORDS && self.0 >> index & 1 == 1
    }

    /// Words of either set.
    #[must_use]
    pub const fn union(self, other: ActiveWords) -> ActiveWords {
        ActiveWords(self.0 | other.0)
    }
}

impl Iterator for ActiveWords {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

/// Odd 64-bit constants, one per word and two to finish with: a Weyl sequence over the golden ratio, mixed so that no two are close.
const MULTIPLIERS: [u64; WORDS + 2] = {
    let mut out = [0u64; WORDS + 2];
    let mut state = 0u64;
    let mut i = 0;
    while i < WORDS + 2 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out[i] = (x ^ (x >> 31)) | 1;
        i += 1;
    }
    out
};

/// High and low half of a 128-bit product, folded: every input bit reaches both ends of the result.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ (product >> 64) as u64
}

#[inline(always)]
const fn finish(sum: u64) -> u64 {
    fold(sum ^ MULTIPLIERS[WORDS], MULTIPLIERS[WORDS + 1])
}

/// The first words, handled at once: metadata and the outer layer, rounded up to whole vectors.
const FIRST_BLOCK: usize = 12;
/// The inner layer and the start of connection tracking, likewise.
const SECOND_BLOCK: usize = 20;
/// Registers and extra fields.
const THIRD_BLOCK: usize = WORDS;

/// Adds the NH products of words `FROM..TO`, four lanes wide so that the compiler uses vectors.
#[inline(always)]
fn sum_products<const FROM: usize, const TO: usize>(
    key: &[u64; WORDS],
    mask: &[u64; WORDS],
    lanes: &mut [u64; 4],
) {
    let mut i = FROM;
    while i < TO {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            let (word, offset) = (key[i + lane] & mask[i + lane], MULTIPLIERS[i + lane]);
            let low = (word as u32).wrapping_add(offset as u32);
            let high = ((word >> 32) as u32).wrapping_add((offset >> 32) as u32);
            *sum = sum.wrapping_add(u64::from(low) * u64::from(high));
        }
        i += 4;
    }
}

/// Collects the bits under the mask in which words `FROM..TO` differ from a masked key's.
#[inline(always)]
fn differ<const FROM: usize, const TO: usize>(
    key: &[u64; WORDS],
    entry: &[u64; WORDS],
    mask: &[u64; WORDS],
    difference: &mut [u64; 4],
) {
    let mut i = FROM;
    while i < TO {
        for (lane, bits) in difference.iter_mut().enumerate() {
            *bits |= (key[i + lane] & mask[i + lane]) ^ entry[i + lane];
        }
        i += 4;
    }
}

macro_rules! word_array {
    ($type:ident) => {
        impl $type {
            /// All words zero.
            pub const ZERO: $type = $type([0; WORDS]);

            /// From its words.
            pub const fn from_words(words: [u64; WORDS]) -> $type {
                $type(words)
            }

            /// All words.
            #[inline(always)]
            pub const fn words(&self) -> &[u64; WORDS] {
                &self.0
            }

            /// Word `index`; zero beyond the last.
            #[inline(always)]
            pub const fn word(&self, index: usize) -> u64 {
                if index < WORDS { self.0[index] } else { 0 }
            }

            /// Sets word `index`; no effect beyond the last.
            #[inline(always)]
            pub const fn set_word(&mut self, index: usize, value: u64) {
                if index < WORDS {
                    self.0[index] = value;
                }
            }

            /// Sets a field; bits of `value` above the field's width are dropped.
            #[inline]
            pub const fn set(&mut self, field: Field, value: u128) {
                let p = field.position();
                if p.width > 64 {
                    self.0[p.word] = value as u64;
                    self.0[p.word + 1] = (value >> 64) as u64;
                } else {
                    let mask = p.word_mask();
                    self.0[p.word] = self.0[p.word] & !mask | (value as u64) << p.shift & mask;
                }
            }

            /// Reads a field.
            #[inline]
            pub const fn get(&self, field: Field) -> u128 {
                let p = field.position();
                if p.width > 64 {
                    self.0[p.word] as u128 | (self.0[p.word + 1] as u128) << 64
                } else {
                    ((self.0[p.word] & p.word_mask()) >> p.shift) as u128
                }
            }
        }

        impl Default for $type {
            fn default() -> $type {
                $type::ZERO
            }
        }
    };
}

word_array!(FlowKey);
word_array!(FlowMask);

impl FlowKey {
    /// A zero key with the metadata that `parse` leaves alone.
    #[inline]
    pub const fn with_metadata(in_port: u32, network: u32) -> FlowKey {
        let mut key = FlowKey::ZERO;
        key.set_metadata(in_port, 0, network);
        key
    }

    /// Sets in_port, mark and network; clears the layer bits, which `parse` sets.
    #[inline(always)]
    pub const fn set_metadata(&mut self, in_port: u32, mark: u32, network: u32) {
        self.0[0] = in_port as u64 | (mark as u64) << 32;
        self.0[1] = network as u64;
    }

    /// Clears the extra fields (words 24 to 39), as is needed when a key was parsed into with
    /// [`ParseOptions::extras`](crate::ParseOptions::extras) and the next frame's options have none.
    #[inline]
    pub fn clear_extras(&mut self) {
        self.0[EXTRA_BASE..].fill(0);
    }

    /// Whether an inner layer was parsed.
    #[inline(always)]
    pub const fn has_inner(&self) -> bool {
        self.0[1] >> 32 & LAYER_INNER_PRESENT as u64 != 0
    }

    /// The key with every bit outside `mask` cleared.
    #[must_use]
    #[inline]
    pub fn masked(&self, mask: &FlowMask) -> FlowKey {
        let mut out = FlowKey::ZERO;
        for (o, (k, m)) in out.0.iter_mut().zip(self.0.iter().zip(&mask.0)) {
            *o = k & m;
        }
        out
    }

    /// Hash of the bits under `mask`, looking only at the words in `active` (which must be `mask.active()`, or a
    /// superset). Equal masked keys with the same active set hash equal; low and high bits are both well mixed.
    ///
    /// Two 32-bit halves of a word, each offset by a constant, are multiplied and the products summed (the NH
    /// universal hash of UMAC, RFC 4418 section 5.2), four words at a time in straight-line code.
    ///
    /// Parse a whole burst before hashing it: reading back words that were stored a moment ago as wide vectors waits
    /// for the stores, about 20 cycles a key (`examples/parse_cycles.rs`, "parse then hash").
    #[inline]
    pub fn hash(&self, mask: &FlowMask, active: ActiveWords) -> u64 {
        let mut lanes = [0u64; 4];
        sum_products::<0, FIRST_BLOCK>(&self.0, &mask.0, &mut lanes);
        if active.bits() >> FIRST_BLOCK != 0 {
            sum_products::<FIRST_BLOCK, SECOND_BLOCK>(&self.0, &mask.0, &mut lanes);
            if active.bits() >> SECOND_BLOCK != 0 {
                sum_products::<SECOND_BLOCK, THIRD_BLOCK>(&self.0, &mask.0, &mut lanes);
            }
        }
        finish(
            lanes[0]
                .wrapping_add(lanes[1])
                .wrapping_add(lanes[2].wrapping_add(lanes[3])),
        )
    }

    /// Whether the bits under `mask` equal those of `entry`, which is already masked. `active` must be
    /// `mask.active()`, or a superset.
    #[inline]
    pub fn matches(&self, entry: &FlowKey, mask: &FlowMask, active: ActiveWords) -> bool {
        let mut difference = [0u64; 4];
        differ::<0, FIRST_BLOCK>(&self.0, &entry.0, &mask.0, &mut difference);
        if active.bits() >> FIRST_BLOCK != 0 {
            differ::<FIRST_BLOCK, SECOND_BLOCK>(&self.0, &entry.0, &mask.0, &mut difference);
            if active.bits() >> SECOND_BLOCK != 0 {
                differ::<SECOND_BLOCK, THIRD_BLOCK>(&self.0, &entry.0, &mask.0, &mut difference);
            }
        }
        difference[0] | difference[1] | difference[2] | difference[3] == 0
    }

    /// Hash of the addresses, protocol and ports of a layer, the same for both directions of a connection: the
    /// entropy of a tunnel's source port and of receive-side scaling.
    #[inline]
    pub fn entropy(&self, layer: crate::Layer) -> u32 {
        let b = layer.base();
        let w = &self.0;
        entropy(Ends {
            ports: w[b + 2],
            low: [w[b + 3], w[b + 5]],
            high: [w[b + 4], w[b + 6]],
            stations: [w[b], w[b + 1]],
        })
    }
}

/// The words of a layer that say who talks to whom.
pub(crate) struct Ends {
    /// Ports in bits 63..32, the protocol in 31..24.
    pub ports: u64,
    /// Low halves of the addresses.
    pub low: [u64; 2],
    /// High halves.
    pub high: [u64; 2],
    /// MAC addresses in bits 63..16.
    pub stations: [u64; 2],
}

/// As [`FlowKey::entropy`].
#[inline(always)]
pub(crate) fn entropy(ends: Ends) -> u32 {
    let Ends {
        ports,
        low,
        high,
        stations,
    } = ends;
    let (source, destination) = (ports >> 48, ports >> 32 & 0xffff);
    // Sums and products of both ends do not depend on their order.
    let mut sum = fold(
        source.wrapping_add(destination) ^ (ports & 0xff00_0000) << 16,
        MULTIPLIERS[0],
    );
    sum = sum.wrapping_add(fold(low[0].wrapping_add(low[1]), MULTIPLIERS[1]));
    sum = sum.wrapping_add(fold(high[0].wrapping_add(high[1]), MULTIPLIERS[2]));
    sum = sum.wrapping_add(fold(
        (stations[0] >> 16).wrapping_add(stations[1] >> 16),
        MULTIPLIERS[3],
    ));
    (finish(sum) >> 32) as u32
}

impl FlowMask {
    /// Every bit of every word.
    pub const EXACT: FlowMask = FlowMask::from_words([u64::MAX; WORDS]);

    /// The words that are not zero.
    pub const fn active(&self) -> ActiveWords {
        let mut bits = 0u64;
        let mut i = 0;
        while i < USED_WORDS {
            if self.0[i] != 0 {
                bits |= 1 << i;
            }
            i += 1;
        }
        ActiveWords(bits)
    }

    /// Adds the bits of `other`.
    #[inline]
    pub fn merge(&mut self, other: &FlowMask) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }

    /// Adds every bit of a field.
    #[inline]
    pub const fn merge_field(&mut self, field: Field) {
        self.set(field, u128::MAX);
    }

    /// Whether every bit of `other` is in this mask.
    pub fn covers(&self, other: &FlowMask) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| b & !a == 0)
    }

    /// Whether no bit is set.
    pub const fn is_empty(&self) -> bool {
        self.active().is_empty()
    }
}

#[cfg(test)]
mod tests;
