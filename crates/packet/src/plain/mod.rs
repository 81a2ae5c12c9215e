//! Plain frames by their bytes: untagged Ethernet, IPv4 without options or fragmentation, TCP or UDP. All that a [`FlowKey`] says of such a frame stands at
//! fixed places in its first [`LEN`] bytes, so that a frame like one that was parsed before is known again without being parsed.
//!
//! [`PlainMask::of`] says which of those bytes a mask over keys looks at; [`PlainMask::read`] takes them from a frame. If what is read from two frames is equal, parsing them
//! gives keys that are equal under the mask, and layouts that are equal.

use crate::field::{INNER_BASE, OUTER_BASE};
use crate::key::{self, Ends, FlowKey, FlowMask};
use crate::layout::{L3Kind, LayerLayout, Layout};
use crate::parse::{PROTO_TCP, PROTO_UDP, ParseOptions};

pub mod wrapped;

/// Bytes that say all: Ethernet, IPv4, and L4 up to TCP's flags.
pub const LEN: usize = 48;
/// Where the TCP or UDP header of a plain frame begins.
pub const L4: u16 = at::L4 as u16;
/// Words of the two vectors that they are read in.
const FIRST: usize = 4;
const LAST: usize = 2;
const _: () = assert!((FIRST + LAST) * 8 == LEN);

/// Places in a plain frame, in bytes.
mod at {
    pub const ETHERTYPE: usize = 12;
    pub const VERSION: usize = 14;
    pub const TOS: usize = 15;
    pub const TOTAL_LEN: usize = 16;
    pub const FRAGMENT: usize = 20;
    pub const TTL: usize = 22;
    pub const PROTO: usize = 23;
    pub const SOURCE: usize = 26;
    pub const DESTINATION: usize = 30;
    pub const L4: usize = 34;
    pub const UDP_LEN: usize = 38;
    pub const TCP_SEQ: usize = 38;
    pub const TCP_ACK: usize = 42;
    pub const TCP_OFFSET: usize = 46;
    pub const TCP_FLAGS: usize = 47;
}

/// The masked bytes of one plain frame, in the two vectors that they are read, compared and stored in. (Stored in words and read back as vectors, they would wait for every store
/// before to leave the store buffer.)
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct PlainKey {
    first: [u64; FIRST],
    last: [u64; LAST],
}

impl PlainKey {
    /// No frame's: nothing that [`PlainMask::read`] answers is equal to it, as no mask has all bits.
    pub const NONE: PlainKey = PlainKey {
        first: [u64::MAX; FIRST],
        last: [u64::MAX; LAST],
    };

    /// Those bits of it that a mask has.
    #[inline(always)]
    fn masked(&self, mask: &PlainKey) -> PlainKey {
        PlainKey {
            first: core::array::from_fn(|i| self.first[i] & mask.first[i]),
            last: core::array::from_fn(|i| self.last[i] & mask.last[i]),
        }
    }

    /// A hash that depends on every bit, all of whose bits are well mixed.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let ([to, from_to, kind, addresses], [ports, flags]) = (self.first, self.last);
        let ends = fold(
            addresses ^ 0xa076_1d64_78bd_642f,
            ports ^ 0xe703_7ed1_a0b4_28db,
        );
        let stations = fold(
            to ^ from_to.rotate_left(24) ^ 0x8ebc_6af0_9c88_c6e3,
            kind ^ flags.rotate_left(32) ^ 0x5899_65cc_7537_4cc3,
        );
        ends ^ stations.rotate_left(32)
    }
}

impl PartialEq for PlainKey {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let first: [u64; FIRST] = core::array::from_fn(|i| self.first[i] ^ other.first[i]);
        let last: [u64; LAST] = core::array::from_fn(|i| self.last[i] ^ other.last[i]);
        let either = |all: u64, word: &u64| all | word;
        first.iter().fold(0, either) | last.iter().fold(0, either) == 0
    }
}

impl Eq for PlainKey {}

/// Which bytes of plain frames matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainMask {
    /// Of datagrams.
    udp: PlainKey,
    /// Of TCP segments.
    tcp: PlainKey,
}

impl PlainMask {
    /// Those that a mask over keys looks at, and those that make a frame plain. `None` when frames' keys may hold extra fields.
    pub fn of(mask: &FlowMask, options: &ParseOptions) -> Option<PlainMask> {
        if options.extras {
            return None;
        }
        let bytes = bytes_of(mask, OUTER_BASE);
        let mut udp = bytes;
        if options.has_tunnels() {
            // Which datagrams are tunnels'.
            udp[at::L4 + 2..at::L4 + 4].fill(0xff);
        }
        Some(PlainMask {
            udp: words(&udp),
            tcp: words(&tcp_of(bytes, mask, OUTER_BASE)),
        })
    }

    /// Those of frames in tunnels: from the bytes that matter of the layer inside.
    fn inside(bytes: [u8; LEN], mask: &FlowMask) -> PlainMask {
        PlainMask {
            udp: words(&bytes),
            tcp: words(&tcp_of(bytes, mask, INNER_BASE)),
        }
    }

    /// What matters of a frame of `frame_len` bytes that begins with `bytes`; `None` when it is not plain in a way that a comparison does not see: with lengths that contradict each
    /// other. Whether it is IPv4 at all is seen by comparing.
    #[inline(always)]
    pub fn read(&self, bytes: &[u8; LEN], frame_len: usize) -> Option<PlainKey> {
        let be16 = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let total_len = be16(at::TOTAL_LEN);
        let (mask, least, l4_len) = if is_tcp(bytes) {
            let len = usize::from(bytes[at::TCP_OFFSET] >> 4) * 4;
            (&self.tcp, 20, len)
        } else {
            (&self.udp, 8, be16(at::UDP_LEN))
        };
        if (l4_len < least) | (20 + l4_len > total_len) | (14 + total_len > frame_len) {
            return None;
        }
        Some(words(bytes).masked(mask))
    }
}

/// The bytes that matter of a plain layer, by what a mask over keys looks at in the layer at `base`; but for what only TCP has.
fn bytes_of(mask: &FlowMask, base: usize) -> [u8; LEN] {
    let word = |i: usize| mask.word(base + i);
    let mut bytes = [0_u8; LEN];
    let mut put = |at: usize, value: &[u8]| {
        bytes[at..at + value.len()].copy_from_slice(value);
    };
    put(0, &word(0).to_be_bytes()[..6]);
    put(6, &word(1).to_be_bytes()[..6]);
    put(at::ETHERTYPE, &[0xff; 2]);
    put(at::VERSION, &[0xff]);
    // More fragments, and the offset.
    put(at::FRAGMENT, &[0x3f, 0xff]);
    put(at::PROTO, &[0xff]);
    let [s0, s1, d0, d1, _, tos, ttl, _] = word(2).to_be_bytes();
    put(at::TOS, &[tos]);
    put(at::TTL, &[ttl]);
    put(at::SOURCE, &word(3).to_be_bytes()[4..]);
    put(at::DESTINATION, &word(5).to_be_bytes()[4..]);
    put(at::L4, &[s0, s1, d0, d1]);
    bytes
}

/// With what only TCP has.
fn tcp_of(mut bytes: [u8; LEN], mask: &FlowMask, base: usize) -> [u8; LEN] {
    // The length of the header is not in the key, but in the layout.
    bytes[at::TCP_OFFSET] = 0xf0;
    bytes[at::TCP_FLAGS] = mask.word(base + 2) as u8;
    bytes
}

/// Whether a layer that begins at `start` is plain.
fn plain_layer(layer: &LayerLayout, start: u16) -> bool {
    let LayerLayout {
        eth,
        l3,
        l3_len,
        l4,
        ..
    } = *layer;
    layer.vlan_tags == 0
        && layer.l3_kind == L3Kind::Ipv4
        && (eth, l3, l3_len, l4) == (start, start + 14, 20, start + 34)
        && matches!(layer.l4_proto, PROTO_TCP | PROTO_UDP)
        && !layer.is_fragment()
}

/// Whether a frame that was parsed with these options is plain, so that its [`PlainKey`] stands for all frames with the same. One to a tunnel's port is not, even if no tunnel was found in
/// it: that is said by bytes behind the first ones.
pub fn is_plain(key: &FlowKey, layout: &Layout, options: &ParseOptions) -> bool {
    let outer = layout.outer();
    let to = (key.word(OUTER_BASE + 2) >> 32) as u16;
    // No tunnel, no second tag, no fragment.
    key.word(OUTER_BASE + 7) == 0
        && !layout.has_inner()
        && plain_layer(outer, 0)
        && (outer.l4_proto == PROTO_TCP || !options.may_be_tunnel(to))
}

/// Whether a plain frame is a TCP segment; else it is a datagram.
#[inline(always)]
pub fn is_tcp(bytes: &[u8; LEN]) -> bool {
    bytes[at::PROTO] == PROTO_TCP
}

/// What the first bytes of a plain TCP segment say of its place in the connection (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Bytes of data.
    pub payload: u16,
}

/// The TCP facts of a plain frame that [was read](PlainMask::read); nothing of a datagram.
#[inline(always)]
pub fn tcp(bytes: &[u8; LEN]) -> Option<TcpFacts> {
    let be16 = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let be32 = |at: usize| u32::from(be16(at)) << 16 | u32::from(be16(at + 2));
    is_tcp(bytes).then(|| TcpFacts {
        seq: be32(at::TCP_SEQ),
        ack: be32(at::TCP_ACK),
        flags: bytes[at::TCP_FLAGS],
        payload: be16(at::TOTAL_LEN).saturating_sub(20 + u16::from(bytes[at::TCP_OFFSET] >> 4) * 4),
    })
}

/// Type of service and time to live of a plain frame.
#[inline(always)]
pub(crate) fn marks(bytes: &[u8; LEN]) -> (u8, u8) {
    (bytes[at::TOS], bytes[at::TTL])
}

/// What [`FlowKey::entropy`] answers for a plain frame's key.
#[inline(always)]
pub fn entropy(bytes: &[u8; LEN]) -> u32 {
    let be32 = |at: usize| {
        let [a, b, c, d] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        u64::from(u32::from_be_bytes([a, b, c, d]))
    };
    let be64 = |at: usize| be32(at) << 32 | be32(at + 4);
    key::entropy(Ends {
        ports: be32(at::L4) << 32 | u64::from(bytes[at::PROTO]) << 24,
        low: [be32(at::SOURCE), be32(at::DESTINATION)],
        high: [0; 2],
        stations: [be64(0), be64(6)],
    })
}

#[inline(always)]
fn words(bytes: &[u8; LEN]) -> PlainKey {
    let (words, _) = bytes.as_chunks::<8>();
    PlainKey {
        first: core::array::from_fn(|i| u64::from_le_bytes(words[i])),
        last: core::array::from_fn(|i| u64::from_le_bytes(words[FIRST + i])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Frames that are plain or nearly so: from a small set of values, so that many agree, with a byte turned now and then. Some are to a tunnel's port, with and without a tunnel in them.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let few = || prop_oneof![Just(1_u8), Just(2)];
        let port = prop_oneof![
            1_u16..3,
            prop_oneof![Just(4789_u16), Just(4790), Just(6081), Just(2152)]
        ];
        let head = (few(), few(), few(), few(), few(), few(), port);
        let inside = (
            prop_oneof![Just(0_u8), Just(8), Just(0x30), Just(0xc0)],
            any::<u8>(),
        );
        let rest = (any::<bool>(), 0_u8..3, inside, 0..60_usize, 4_u8..8);
        let turned = proptest::option::weighted(0.3, (0..54_usize, any::<u8>()));
        (head, rest, turned).prop_map(|(head, (tcp, flags, (first, junk), extra, doff), turned)| {
            let (dst, src, ttl, tos, from, to, port) = head;
            let l4 = if tcp { usize::from(doff) * 4 } else { 8 };
            let total = 20 + l4 + extra;
            let mut f = std::vec![2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 8, 0, 0x45, tos];
            f.extend((total as u16).to_be_bytes());
            f.extend([junk, 7, 0x40, 0, ttl, if tcp { 6 } else { 17 }, junk, junk]);
            f.extend([10, 0, 0, from, 10, 0, 0, to, 0, from]);
            f.extend(port.to_be_bytes());
            if tcp {
                f.extend([junk, 1, 2, 3, 4, 5, 6, junk, doff << 4, flags]);
            } else {
                f.extend([0, (8 + extra) as u8, junk, 9, first]);
            }
            f.resize(14 + total + usize::from(junk & 15), junk);
            if let Some((at, value)) = turned
                && let Some(byte) = f.get_mut(at)
            {
                *byte = value;
            }
            f
        })
    }

    fn mask() -> impl Strategy<Value = FlowMask> {
        let word = prop_oneof![Just(0_u64), Just(u64::MAX), any::<u64>()];
        proptest::collection::vec(word, 8).prop_map(|outer| {
            let mut mask = FlowMask::ZERO;
            outer
                .iter()
                .enumerate()
                .for_each(|(i, word)| mask.set_word(OUTER_BASE + i, *word));
            mask.set_word(0, u64::MAX);
            mask
        })
    }

    fn read(plain: &PlainMask, frame: &[u8]) -> Option<PlainKey> {
        plain.read(frame.first_chunk()?, frame.len())
    }

    fn parsed(frame: &[u8], options: &ParseOptions) -> Option<(FlowKey, Layout)> {
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        let header = &frame[..frame.len().min(128)];
        parse(header, frame.len(), &mut key, &mut layout, options).ok()?;
        Some((key, layout))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        /// What makes it right to decide by the bytes.
        #[test]
        fn frames_with_equal_bytes_have_equal_keys(a in frame(), b in frame(), mask in mask(), deep in 0..3_usize) {
            let options = [ParseOptions::PLAIN, ParseOptions::VXLAN, ParseOptions::TUNNELS][deep];
            let Some((key, layout)) = parsed(&a, &options) else { return Ok(()) };
            let plain = PlainMask::of(&mask, &options).unwrap();
            let (read_a, read_b) = (read(&plain, &a), read(&plain, &b));
            if !is_plain(&key, &layout, &options) {
                return Ok(());
            }
            // Only frames too short for it are not read.
            prop_assert!(read_a.is_some() || a.len() < LEN);
            if let Some(first) = a.first_chunk() {
                prop_assert_eq!(entropy(first), key.entropy(crate::Layer::Outer));
            }
            if read_a.is_some() && read_a == read_b {
                let (other, its_layout) = parsed(&b, &options).expect("as sound as the first");
                prop_assert_eq!(its_layout, layout);
                prop_assert_eq!(key.masked(&mask), other.masked(&mask));
            }
        }

        /// And what makes it worth while: bytes that do not matter do not tell frames apart.
        #[test]
        fn frames_with_equal_keys_have_equal_bytes(a in frame(), b in frame(), mask in mask()) {
            let options = ParseOptions::PLAIN;
            let (Some((key, layout)), Some((other, its))) = (parsed(&a, &options), parsed(&b, &options)) else {
                return Ok(());
            };
            let plain = PlainMask::of(&mask, &options).unwrap();
            let (read_a, read_b) = (read(&plain, &a), read(&plain, &b));
            if is_plain(&key, &layout, &options) && layout == its && key.masked(&mask) == other.masked(&mask) && read_a.is_some() && read_b.is_some() {
                prop_assert_eq!(read_a, read_b);
            }
        }
    }

    #[test]
    fn nothing_reads_as_none() {
        let plain = PlainMask::of(&FlowMask::ZERO, &ParseOptions::PLAIN).unwrap();
        assert_eq!(plain.read(&[0; LEN], 64), None);
        let mut extras = ParseOptions::PLAIN;
        extras.extras = true;
        assert_eq!(PlainMask::of(&FlowMask::ZERO, &extras), None);
    }

    #[test]
    fn hashes_differ_in_every_bit() {
        let base = PlainKey {
            first: [3; FIRST],
            last: [3; LAST],
        };
        for bit in 0..LEN * 8 {
            let mut other = base;
            let mut words = other.first.iter_mut().chain(&mut other.last);
            *words.nth(bit / 64).unwrap() ^= 1 << (bit % 64);
            assert!((other.hash() ^ base.hash()).count_ones() > 10, "bit {bit}");
        }
    }
}
