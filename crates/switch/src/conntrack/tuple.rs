//! Connection tuples: what names one direction of a connection, and how the other direction is called.
//!
//! ICMP and ICMPv6 queries (RFC 792, RFC 4443) have no ports: `sport` is the identifier in both directions and `dport` is type and code; the reverse of a
//! request is the reply of its kind. Reads no packet; the caller fills tuples from parsed headers.

use std::hash::{BuildHasher, RandomState};

/// IP protocol numbers that the tracker treats specially.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;

    /// Whether the protocol's header begins with two ports.
    pub const fn has_ports(proto: u8) -> bool {
        matches!(proto, TCP | UDP | SCTP | UDP_LITE | DCCP)
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// IPv4: addresses are the low 32 bits.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// Whether `address` is one of this family.
    pub fn holds(self, address: u128) -> bool {
        self == Family::V6 || address <= u128::from(u32::MAX)
    }
}

/// Which side of a connection a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From who opened it.
    Original = 0,
    /// From who answers.
    Reply = 1,
}

impl Direction {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// One direction of a connection as its packets show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address; IPv4 in the low 32 bits, the rest zero.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port; identifier of an ICMP query; zero for protocols without ports.
    pub sport: u16,
    /// Destination port; `type << 8 | code` of an ICMP query; zero for protocols without ports.
    pub dport: u16,
    /// IP protocol.
    pub proto: u8,
    /// Address family.
    pub family: Family,
    /// Zone: tables of their own within the table.
    pub zone: u16,
}

/// The type that answers a query type, and the reverse: echo, timestamp, information, address mask; ICMPv6 echo and node information.
fn counterpart(proto: u8, kind: u8) -> Option<u8> {
    const ICMP: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
    const ICMPV6: [(u8, u8); 2] = [(128, 129), (139, 140)];
    let pairs: &[(u8, u8)] = match proto {
        protocol::ICMP => &ICMP,
        protocol::ICMPV6 => &ICMPV6,
        _ => return None,
    };
    pairs.iter().find_map(|&(request, reply)| match kind {
        _ if kind == request => Some(reply),
        _ if kind == reply => Some(request),
        _ => None,
    })
}

impl Tuple {
    /// The tuple of an ICMP or ICMPv6 query or its answer; nothing when `kind` is no query: such messages are related to a connection or untracked.
    pub fn query(
        family: Family,
        addresses: (u128, u128),
        kind: u8,
        code: u8,
        identifier: u16,
        zone: u16,
    ) -> Option<Self> {
        let proto = match family {
            Family::V4 => protocol::ICMP,
            Family::V6 => protocol::ICMPV6,
        };
        counterpart(proto, kind)?;
        let (src, dst) = addresses;
        let dport = u16::from(kind) << 8 | u16::from(code);
        Some(Self {
            src,
            dst,
            sport: identifier,
            dport,
            proto,
            family,
            zone,
        })
    }

    /// Whether this is an ICMP query or answer, whose `sport` is an identifier.
    pub fn is_query(&self) -> bool {
        matches!(self.proto, protocol::ICMP | protocol::ICMPV6)
    }

    /// Whether it may open a connection: anything but the answer of a query.
    pub fn may_open(&self) -> bool {
        let kind = (self.dport >> 8) as u8;
        match self.proto {
            protocol::ICMP => matches!(kind, 8 | 13 | 15 | 17),
            protocol::ICMPV6 => matches!(kind, 128 | 139),
            _ => true,
        }
    }

    /// Whether its answer would look the same.
    pub fn is_its_reverse(&self) -> bool {
        self.src == self.dst && self.sport == self.dport && !self.is_query()
    }

    /// What the answer to a packet of this tuple looks like.
    pub fn reversed(&self) -> Self {
        let swapped = Self {
            src: self.dst,
            dst: self.src,
            ..*self
        };
        if self.is_query() {
            let kind =
                counterpart(self.proto, (self.dport >> 8) as u8).map_or(self.dport >> 8, u16::from);
            return Self {
                dport: kind << 8 | self.dport & 0xff,
                ..swapped
            };
        }
        Self {
            sport: self.dport,
            dport: self.sport,
            ..swapped
        }
    }
}

/// A tuple as it is stored and compared: five words.
#[derive(Clone, Copy, Debug, Eq)]
pub(super) struct Half(pub [u64; 5]);

impl PartialEq for Half {
    /// Without the call that comparing arrays becomes.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        (a[4] ^ b[4]) | (a[3] ^ b[3]) | (a[2] ^ b[2]) | (a[1] ^ b[1]) | (a[0] ^ b[0]) == 0
    }
}

impl Half {
    pub const ZERO: Self = Self([0; 5]);

    #[inline(always)]
    pub fn new(tuple: &Tuple) -> Self {
        let ports = u64::from(tuple.sport) << 48 | u64::from(tuple.dport) << 32;
        let rest = u64::from(tuple.zone) << 16 | u64::from(tuple.proto) << 8 | tuple.family as u64;
        Self([
            (tuple.src >> 64) as u64,
            tuple.src as u64,
            (tuple.dst >> 64) as u64,
            tuple.dst as u64,
            ports | rest,
        ])
    }

    pub fn tuple(&self) -> Tuple {
        let [src_high, src_low, dst_high, dst_low, rest] = self.0;
        Tuple {
            src: u128::from(src_high) << 64 | u128::from(src_low),
            dst: u128::from(dst_high) << 64 | u128::from(dst_low),
            sport: (rest >> 48) as u16,
            dport: (rest >> 32) as u16,
            zone: (rest >> 16) as u16,
            proto: (rest >> 8) as u8,
            family: if rest as u8 == Family::V4 as u8 {
                Family::V4
            } else {
                Family::V6
            },
        }
    }

    pub fn zone(&self) -> u16 {
        (self.0[4] >> 16) as u16
    }

    /// As [`Tuple::reversed`].
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        let [src_high, src_low, dst_high, dst_low, rest] = self.0;
        if matches!((rest >> 8) as u8, protocol::ICMP | protocol::ICMPV6) {
            return self.reversed_query();
        }
        let ports = rest >> 48 << 32 | (rest >> 32 & 0xffff) << 48;
        let rest = ports | rest & 0xffff_ffff;
        Self([dst_high, dst_low, src_high, src_low, rest])
    }

    #[cold]
    fn reversed_query(&self) -> Self {
        Self::new(&self.tuple().reversed())
    }
}

/// The secret of a table's hashes: who does not know it cannot choose tuples that fall together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secret([u64; 6]);

/// Multiplies to 128 bits and folds: each bit of the answer depends on all bits of both.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Secret {
    /// A random one.
    pub fn new() -> Self {
        let state = RandomState::new();
        Self(std::array::from_fn(|index| state.hash_one(index)))
    }

    #[inline(always)]
    pub fn hash(&self, half: &Half) -> u64 {
        let k = &self.0;
        let w = &half.0;
        let addresses = if w[4] as u8 == Family::V4 as u8 {
            w[1] << 32 | w[3]
        } else {
            fold(w[0] ^ k[0], w[1] ^ k[1]) ^ fold(w[2] ^ k[2], w[3] ^ k[3]).rotate_left(17)
        };
        fold(fold(addresses ^ k[4], w[4] ^ k[5]) ^ k[0], k[1] | 1)
    }

    /// A number for anything else that must not be foreseen.
    pub fn mix(&self, words: [u64; 4]) -> u64 {
        let k = &self.0;
        fold(
            fold(words[0] ^ k[2], words[1] ^ k[3])
                ^ fold(words[2] ^ k[4], words[3] ^ k[5]).rotate_left(23)
                ^ k[1],
            k[0] | 1,
        )
    }
}

/// Where the two halves of a connection that a tuple opens are entered, if its answers are not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tags {
    pub(super) original: u32,
    pub(super) reply: u32,
}

/// A tuple made ready for a look-up.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub(super) half: Half,
    pub(super) tag: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn any_tuple() -> impl Strategy<Value = Tuple> {
        let kinds = prop_oneof![Just(6_u8), Just(17), Just(132), Just(47), Just(1), Just(58)];
        (any::<(u128, u128, u16, u16, u16)>(), kinds, 0_usize..6).prop_map(
            |((src, dst, sport, dport, zone), proto, kind)| {
                let family = if proto == 1 || proto != 58 && src & 1 == 0 {
                    Family::V4
                } else {
                    Family::V6
                };
                let cut = |address: u128| {
                    if family == Family::V4 {
                        address & 0xffff_ffff
                    } else {
                        address
                    }
                };
                let dport = match proto {
                    1 => [8, 0, 13, 14, 17, 18][kind] << 8,
                    58 => [128, 129, 139, 140, 128, 129][kind] << 8,
                    _ => dport,
                };
                Tuple {
                    src: cut(src),
                    dst: cut(dst),
                    sport,
                    dport,
                    proto,
                    family,
                    zone,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn stored_and_reversed_tuples_come_back(tuple in any_tuple()) {
            prop_assert_eq!(Half::new(&tuple).tuple(), tuple);
            prop_assert_eq!(tuple.reversed().reversed(), tuple);
            prop_assert_eq!(Half::new(&tuple).reversed().tuple(), tuple.reversed());
            let same = Tuple { dst: tuple.src, dport: if tuple.is_query() { tuple.dport } else { tuple.sport }, ..tuple };
            prop_assert_eq!(same.is_its_reverse(), same.reversed() == same);
            prop_assert_eq!(tuple.is_its_reverse(), tuple.reversed() == tuple);
            prop_assert_eq!((tuple.reversed().src, tuple.reversed().dst), (tuple.dst, tuple.src));
            if tuple.is_query() {
                prop_assert!(tuple.may_open() != tuple.reversed().may_open());
            }
        }
    }

    #[test]
    fn only_queries_have_a_tuple() {
        let query = |kind| Tuple::query(Family::V4, (1, 2), kind, 0, 7, 0);
        assert!(query(3).is_none() && query(11).is_none() && query(5).is_none());
        let request = query(8).unwrap();
        assert_eq!(
            request.reversed(),
            Tuple {
                src: 2,
                dst: 1,
                ..query(0).unwrap()
            }
        );
        assert!(
            Tuple::query(Family::V6, (1, 2), 135, 0, 7, 0).is_none(),
            "neighbour discovery"
        );
    }

    #[test]
    fn hashes_spread_and_depend_on_the_secret() {
        let (one, two) = (Secret::new(), Secret::new());
        let mut buckets = [0_u32; 256];
        let mut same = 0;
        for n in 0..65536_u32 {
            let tuple = Tuple {
                src: 0x0a00_0000 + u128::from(n & 255),
                dst: 9,
                sport: (n >> 8) as u16,
                dport: 80,
                proto: 17,
                family: Family::V4,
                zone: 0,
            };
            let half = Half::new(&tuple);
            buckets[one.hash(&half) as usize & 255] += 1;
            same += u32::from(one.hash(&half) as u16 == two.hash(&half) as u16);
        }
        assert!(
            buckets.iter().all(|&count| (150..370).contains(&count)),
            "{buckets:?}"
        );
        assert!(same < 20, "{same}");
    }
}
