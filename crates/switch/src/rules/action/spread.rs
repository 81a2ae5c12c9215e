//! `rss`: which fields of a key are hashed, and how (rte_flow's `struct rte_flow_action_rss`; Microsoft's RSS specification for Toeplitz).

use std::fmt;

use sumeru_flow::model::{Rss, RssFunction, RssTypes};
use sumeru_packet::{Field, FlowKey, Layer};

use crate::program::Choice;
use crate::rules::RuleError;

/// Most bytes hashed: two MAC addresses, two IPv6 addresses and two ports.
const INPUT_MAX: usize = 48;
/// The key of those who give none: a repeated pattern, which makes the hash of a connection the same in both directions.
const DEFAULT_KEY: [u8; INPUT_MAX + 4] = {
    let mut key = [0x6d; INPUT_MAX + 4];
    let mut i = 0;
    while i < key.len() {
        key[i + 1] = 0x5a;
        i += 2;
    }
    key
};

/// Spreading over receive queues.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    func: RssFunction,
    layer: Layer,
    types: u64,
    key: Box<[u8]>,
    /// None: all that the guest has.
    queues: Box<[u16]>,
}

const fn bit(number: u32) -> u64 {
    1 << number
}
const IPV4: u64 = bit(2) | bit(3) | bit(7);
const IPV6: u64 = bit(8) | bit(9) | bit(13) | bit(15);
const TCP: [u64; 2] = [bit(4), bit(10) | bit(16)];
const UDP: [u64; 2] = [bit(5), bit(11) | bit(17)];
const SCTP: [u64; 2] = [bit(6), bit(12)];
const ETH: u64 = bit(24);
const L2_DST: u64 = bit(58);
const L2_SRC: u64 = bit(59);
const L4_DST: u64 = bit(60);
const L4_SRC: u64 = bit(61);
const L3_DST: u64 = bit(62);
const L3_SRC: u64 = bit(63);
const PORTS: u64 = TCP[0] | TCP[1] | UDP[0] | UDP[1] | SCTP[0] | SCTP[1];
/// What is hashed where nothing is asked for.
const USUAL: u64 = IPV4 | IPV6 | PORTS;
const KNOWN: u64 = USUAL | ETH | L2_DST | L2_SRC | L4_DST | L4_SRC | L3_DST | L3_SRC;

impl Spread {
    /// From the model.
    ///
    /// # Errors
    /// [`RuleError::Unsupported`] for types that are not hashed.
    pub fn new(rss: &Rss) -> Result<Self, RuleError> {
        let types = rss.types.bits();
        // `all` names whatever a device has.
        let all = RssTypes::NAMES
            .iter()
            .any(|(name, bits)| *name == "all" && *bits == types);
        let types = if all { types & KNOWN } else { types };
        if types & !KNOWN != 0 {
            return Err(RuleError::Unsupported {
                what: "rss over other types",
                expected: "ipv4, ipv6, tcp, udp, sctp and their kin, eth, l2/l3/l4-src-only, -dst-only",
            });
        }
        if rss.level > 2 {
            return Err(RuleError::Unsupported {
                what: "rss at a level above 2",
                expected: "the outermost headers (0, 1) or those inside the tunnel (2)",
            });
        }
        let mut key = DEFAULT_KEY;
        if let Some(own) = &rss.key {
            // A short key goes on from its beginning.
            let own = own.as_bytes().iter().cycle();
            key.iter_mut().zip(own).for_each(|(to, from)| *to = *from);
        }
        Ok(Self {
            func: rss.func,
            layer: if rss.level == 2 {
                Layer::Inner
            } else {
                Layer::Outer
            },
            types: if types == 0 { USUAL } else { types },
            key: key.into(),
            queues: rss.queues.clone().into(),
        })
    }

    /// The queue of a frame with this key.
    pub fn choose(&self, key: &FlowKey) -> Choice {
        let hash = self.hash(key);
        let place = (u64::from(hash) * self.queues.len() as u64) >> 32;
        match self.queues.get(place as usize) {
            Some(queue) => Choice::Queue(*queue),
            None => Choice::Hash(hash),
        }
    }

    fn hash(&self, key: &FlowKey) -> u32 {
        let inner = self.layer == Layer::Inner && key.has_inner();
        let layer = if inner { Layer::Inner } else { Layer::Outer };
        let mut input = arrayvec::ArrayVec::<u8, INPUT_MAX>::new();
        self.fill(key, layer, &mut input);
        match self.func {
            // A hash without known key is as good for spreading, and cheaper; but asked for types or a key it must be Toeplitz, too.
            RssFunction::Default | RssFunction::Toeplitz | RssFunction::SymmetricToeplitz => {
                toeplitz(&self.key, &input)
            }
            RssFunction::SimpleXor => {
                let words = input.chunks(4).map(|chunk| {
                    let mut word = [0; 4];
                    word.iter_mut()
                        .zip(chunk)
                        .for_each(|(to, from)| *to = *from);
                    u32::from_be_bytes(word)
                });
                // The queue is taken from the high bits.
                words
                    .fold(0, |all, word| all ^ word)
                    .wrapping_mul(0x9e37_79b1)
            }
        }
    }

    /// The bytes that are hashed.
    fn fill(&self, key: &FlowKey, layer: Layer, input: &mut arrayvec::ArrayVec<u8, INPUT_MAX>) {
        let (types, symmetric) = (self.types, self.func == RssFunction::SymmetricToeplitz);
        let mut pair = |src: Field, dst: Field, bytes: usize, only: (u64, u64)| {
            let (mut a, mut b) = (key.get(src), key.get(dst));
            if symmetric && a > b {
                (a, b) = (b, a);
            }
            let (src_only, dst_only) = (types & only.0 != 0, types & only.1 != 0);
            for (value, wanted) in [(a, src_only || !dst_only), (b, dst_only || !src_only)] {
                if wanted && let Some(tail) = value.to_be_bytes().get(16 - bytes..) {
                    let _ = input.try_extend_from_slice(tail);
                }
            }
        };
        let v6 = match key.get(Field::EthType(layer)) {
            0x0800 => Some(false),
            0x86dd => Some(true),
            _ => None,
        };
        if types & ETH != 0 || types & (L2_SRC | L2_DST) != 0 {
            pair(
                Field::EthSrc(layer),
                Field::EthDst(layer),
                6,
                (L2_SRC, L2_DST),
            );
        }
        let Some(v6) = v6 else { return };
        let version = usize::from(v6);
        let ports = match key.get(Field::IpProto(layer)) {
            6 => TCP[version],
            17 => UDP[version],
            132 => SCTP[version],
            _ => 0,
        } & types;
        let addresses = types & if v6 { IPV6 } else { IPV4 };
        if addresses | ports != 0 {
            let bytes = if v6 { 16 } else { 4 };
            pair(
                Field::IpSrc(layer),
                Field::IpDst(layer),
                bytes,
                (L3_SRC, L3_DST),
            );
        }
        // Fragments have none, or those of the first only: they stay together.
        if ports != 0 && key.get(Field::Fragment(layer)) == 0 {
            pair(
                Field::L4Src(layer),
                Field::L4Dst(layer),
                2,
                (L4_SRC, L4_DST),
            );
        }
    }
}

/// The Toeplitz hash: for every bit of the input that is set, the 32 bits of the key that begin there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut window = u64::from_be_bytes([
        at(key, 0),
        at(key, 1),
        at(key, 2),
        at(key, 3),
        at(key, 4),
        0,
        0,
        0,
    ]);
    let mut hash = 0;
    for (i, byte) in input.iter().enumerate() {
        for bit in 0..8 {
            if byte << bit & 0x80 != 0 {
                hash ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
        window |= u64::from(at(key, i + 5)) << 24;
        // Eight bits went out at the top; the next byte comes in below the 40 that count.
    }
    hash
}

fn at(key: &[u8], index: usize) -> u8 {
    key.get(index).copied().unwrap_or(0)
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.queues.len() {
            0 => write!(f, "spread over all receive queues"),
            count => write!(f, "spread over {count} receive queues"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first two lines of the verification suite of Microsoft's RSS specification.
    #[test]
    fn toeplitz_is_the_specified_one() {
        let key: [u8; 40] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let input = [
            66,
            9,
            149,
            187,
            161,
            142,
            100,
            80,
            2794_u16.to_be_bytes()[0],
            2794_u16.to_be_bytes()[1],
            1766_u16.to_be_bytes()[0],
            1766_u16.to_be_bytes()[1],
        ];
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
        assert_eq!(toeplitz(&key, &input[..8]), 0x323e_8fc2);
    }

    #[test]
    fn frames_are_spread_by_what_is_asked_for() {
        let mut key = FlowKey::ZERO;
        let o = Layer::Outer;
        key.set(Field::EthType(o), 0x0800);
        key.set(Field::IpProto(o), 17);
        let with = |types: u64, func| Spread {
            func,
            layer: o,
            types,
            key: DEFAULT_KEY.into(),
            queues: Box::new([4, 7, 9]),
        };
        let (by_address, by_port) = (
            with(IPV4, RssFunction::Toeplitz),
            with(USUAL, RssFunction::Toeplitz),
        );
        let both = with(USUAL, RssFunction::SymmetricToeplitz);
        let mut seen = [0; 10];
        for port in 0..600_u16 {
            key.set(Field::IpSrc(o), 0x0a00_0001);
            key.set(Field::IpDst(o), 0x0a00_0002);
            key.set(Field::L4Src(o), port.into());
            key.set(Field::L4Dst(o), 80);
            assert_eq!(by_address.choose(&key), {
                let mut other = key;
                other.set(Field::L4Src(o), 1);
                by_address.choose(&other)
            });
            match by_port.choose(&key) {
                Choice::Queue(queue) => seen[usize::from(queue)] += 1,
                other => panic!("{other:?}"),
            }
            let there = both.choose(&key);
            for (a, b) in [
                (Field::IpSrc(o), Field::IpDst(o)),
                (Field::L4Src(o), Field::L4Dst(o)),
            ] {
                let (x, y) = (key.get(a), key.get(b));
                key.set(a, y);
                key.set(b, x);
            }
            assert_eq!(both.choose(&key), there);
        }
        assert!([4, 7, 9].iter().all(|queue| seen[*queue] > 120), "{seen:?}");
    }
}
