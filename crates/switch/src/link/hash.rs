//! From a flow to a hash to a member of the bond.
//!
//! The hash takes what Linux's bonding driver takes for the same policy (`xmit_hash_policy`, Documentation/networking/bonding.rst), and
//! mixes it better: the kernel takes the remainder by the number of members, so that a change of that number moves nearly all flows.
//! Here a hash names one of [`BUCKETS`] buckets, and each bucket goes to the member with the highest weight for that bucket (rendezvous
//! hashing, Thaler and Ravishankar, 1998). So who carries a flow depends on the set of members only, not on history; a member that goes
//! moves its own flows and no others, one that comes takes over its share and nothing else moves. Shares of up to eight members are even
//! to within a sixth.

use arrayvec::ArrayVec;
use sumeru_packet::field::{ETHERTYPE_LENGTH, FRAGMENT_ANY};
use sumeru_packet::{Field, FlowKey, Layer};

use super::MemberId;

/// Most members of a bond.
pub const MEMBERS_MAX: usize = 16;
/// Buckets of a distribution.
pub const BUCKETS: usize = 4096;

/// What of a frame decides which member carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HashPolicy {
    /// MAC addresses and EtherType.
    Layer2,
    /// The same and IP addresses.
    Layer23,
    /// IP addresses and ports. Fragments go without ports, all of a packet the same way; what is not IP as [`HashPolicy::Layer2`].
    #[default]
    Layer34,
}

/// Spreads every bit over all (the finalizer of MurmurHash3).
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The hash of a flow. It is the outer headers that count: for a frame that is to be tunnelled, hash the key it came with, whose
/// entropy is in the outer source port on the wire anyway.
pub fn flow_hash(key: &FlowKey, policy: HashPolicy) -> u32 {
    let get = |field: fn(Layer) -> Field| key.get(field(Layer::Outer));
    let fold = |address: u128| (address ^ (address >> 64)) as u64;
    let ethertype = get(Field::EthType) as u64;
    let link = || {
        let kind = if ethertype == u64::from(ETHERTYPE_LENGTH) {
            0
        } else {
            ethertype
        };
        mix(get(Field::EthSrc) as u64) ^ mix(get(Field::EthDst) as u64) ^ kind
    };
    let ip = matches!(ethertype, 0x0800 | 0x86dd);
    // As in the kernel, both directions of a flow give the same hash.
    let addresses = || mix(fold(get(Field::IpSrc))) ^ mix(fold(get(Field::IpDst)));
    let hash = match policy {
        HashPolicy::Layer2 => link(),
        HashPolicy::Layer23 if ip => link() ^ addresses(),
        HashPolicy::Layer34 if ip => {
            let fragment = get(Field::Fragment) as u8 & FRAGMENT_ANY != 0;
            let ports = matches!(get(Field::IpProto), 6 | 17 | 132) && !fragment;
            let ports = if ports {
                mix(get(Field::L4Src) as u64) ^ mix(get(Field::L4Dst) as u64)
            } else {
                0
            };
            addresses() ^ ports
        }
        HashPolicy::Layer23 | HashPolicy::Layer34 => link(),
    };
    (mix(hash) >> 32) as u32
}

/// Which member carries which flows: what the data path copies from a bond whenever it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    policy: HashPolicy,
    members: ArrayVec<MemberId, MEMBERS_MAX>,
    /// Index into `members`.
    buckets: Box<[u8; BUCKETS]>,
}

impl Distribution {
    /// Spreads flows over `members`; those beyond [`MEMBERS_MAX`] carry nothing. Their order does not matter.
    pub fn new(policy: HashPolicy, members: impl IntoIterator<Item = MemberId>) -> Distribution {
        let mut members: ArrayVec<MemberId, MEMBERS_MAX> =
            members.into_iter().take(MEMBERS_MAX).collect();
        members.sort_unstable();
        let mut buckets = Box::new([0; BUCKETS]);
        for (number, bucket) in (0u64..).zip(buckets.iter_mut()) {
            let weight = |member: MemberId| mix((number << 16 | u64::from(member)) + 1);
            let best = (0u8..)
                .zip(&members)
                .max_by_key(|(_, member)| weight(**member));
            *bucket = best.map_or(0, |(index, _)| index);
        }
        Distribution {
            policy,
            members,
            buckets,
        }
    }

    /// The member that carries flows of `hash`; None while no member can.
    #[inline]
    pub fn member(&self, hash: u32) -> Option<MemberId> {
        let index = self.buckets[hash as usize % BUCKETS];
        self.members.get(usize::from(index)).copied()
    }

    /// The member that carries the flow of `key`; None while no member can.
    #[inline]
    pub fn member_of(&self, key: &FlowKey) -> Option<MemberId> {
        match self.members.as_slice() {
            [] => None,
            [only] => Some(*only),
            _ => self.member(flow_hash(key, self.policy)),
        }
    }

    /// Members that carry flows, in ascending order.
    pub fn members(&self) -> &[MemberId] {
        &self.members
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members() -> impl Strategy<Value = Vec<MemberId>> {
        prop::collection::btree_set(1u16..2_000, 1..=MEMBERS_MAX)
            .prop_map(|set| set.into_iter().collect())
    }

    proptest! {
        /// Only the flows of a member that goes move; the rest stay where they are, and shares are even.
        #[test]
        fn few_flows_move(members in members(), gone in any::<prop::sample::Index>()) {
            let all = Distribution::new(HashPolicy::Layer34, members.iter().rev().copied());
            let gone = *gone.get(&members);
            let rest = members.iter().copied().filter(|m| *m != gone);
            let without = Distribution::new(HashPolicy::Layer34, rest);
            for hash in 0..BUCKETS as u32 {
                let (before, after) = (all.member(hash), without.member(hash));
                prop_assert!(members.contains(&before.unwrap()));
                if before == Some(gone) {
                    prop_assert!(after != before && after.is_some() == (members.len() > 1));
                } else {
                    prop_assert_eq!(before, after);
                }
            }
        }
    }

    #[test]
    fn shares_are_even() {
        for count in 1..=8u16 {
            let spread = Distribution::new(HashPolicy::Layer2, 1..=count);
            let mut shares = vec![0u32; usize::from(count)];
            for hash in 0..BUCKETS as u32 {
                shares[usize::from(spread.member(hash).unwrap()) - 1] += 1;
            }
            let even = BUCKETS as f64 / f64::from(count);
            for share in &shares {
                assert!(
                    (f64::from(*share) / even - 1.0).abs() < 1.0 / 6.0,
                    "{shares:?}"
                );
            }
        }
        assert_eq!(Distribution::new(HashPolicy::Layer2, []).member(7), None);
    }

    fn key(src_port: u16, dst_port: u16, fragment: u8) -> FlowKey {
        let mut key = FlowKey::with_metadata(0, 0);
        let set = [
            (Field::EthSrc(Layer::Outer), 0x0200_0000_0001),
            (Field::EthDst(Layer::Outer), 0x0200_0000_0002),
            (Field::EthType(Layer::Outer), 0x0800),
            (Field::IpSrc(Layer::Outer), 0x0a00_0001),
            (Field::IpDst(Layer::Outer), 0x0a00_0002),
            (Field::IpProto(Layer::Outer), 17),
            (Field::L4Src(Layer::Outer), src_port.into()),
            (Field::L4Dst(Layer::Outer), dst_port.into()),
            (Field::Fragment(Layer::Outer), fragment.into()),
        ];
        for (field, value) in set {
            key.set(field, value);
        }
        key
    }

    #[test]
    fn policies_take_what_they_say() {
        let hash = |key: &FlowKey| {
            [HashPolicy::Layer2, HashPolicy::Layer23, HashPolicy::Layer34]
                .map(|policy| flow_hash(key, policy))
        };
        let base = hash(&key(1, 2, 0));
        let other_port = hash(&key(3, 2, 0));
        assert_eq!(base[..2], other_port[..2]);
        assert_ne!(base[2], other_port[2]);
        assert_eq!(base, hash(&key(2, 1, 0)), "the same way back");
        let fragment = |port| hash(&key(port, 2, FRAGMENT_ANY))[2];
        assert_eq!(fragment(1), fragment(3), "fragments stay together");
        let changed = |field, value| {
            let mut key = key(1, 2, 0);
            key.set(field, value);
            let hash = hash(&key);
            [0, 1, 2].map(|i| hash[i] != base[i])
        };
        assert_eq!(changed(Field::IpDst(Layer::Outer), 9), [false, true, true]);
        assert_eq!(changed(Field::EthDst(Layer::Outer), 9), [true, true, false]);
    }

    #[test]
    fn ports_one_apart_spread() {
        let spread = Distribution::new(HashPolicy::Layer34, [1, 2, 3, 4]);
        let mut shares = [0u32; 4];
        for port in 0..4_000 {
            shares[usize::from(spread.member_of(&key(port, 80, 0)).unwrap()) - 1] += 1;
        }
        assert!(
            shares.iter().all(|s| (800..1_200).contains(s)),
            "{shares:?}"
        );
    }
}
