//! Plain frames inside of a tunnel by their bytes: VXLAN (RFC 7348), or Geneve without options (RFC 8926), over a plain datagram without a checksum. All that a
//! [`FlowKey`] says of both layers stands in the first [`LEN`] bytes.

use super::{LEN as PLAIN_LEN, PlainKey, PlainMask, at, bytes_of, plain_layer, words};
use crate::ecn;
use crate::field::{INNER_BASE, OUTER_BASE};
use crate::key::{FlowKey, FlowMask};
use crate::layout::Layout;
use crate::parse::{PROTO_UDP, ParseOptions};

/// Bytes in front of the frame inside.
pub const FRONT: usize = 50;
/// Bytes that say all: the tunnel's headers, and the first ones of the frame inside.
pub const LEN: usize = FRONT + PLAIN_LEN;
/// Where the tunnel's own header begins, behind those of the datagram.
const TUNNEL: usize = 42;
/// The outer UDP checksum.
const CHECKSUM: usize = 40;
/// The bits of a type of service that tell of congestion.
const ECN: u8 = 3;
/// Of the second byte of a Geneve header: a control packet, and critical options (RFC 8926 section 3.4).
const GENEVE_FLAGS: u8 = 0xc0;
/// Of the first one: the length of the options.
const GENEVE_OPTIONS: u8 = 0x3f;

/// The masked bytes in front of a frame in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontKey {
    first: PlainKey,
    last: u16,
}

impl FrontKey {
    /// No frame's.
    pub const NONE: Self = Self {
        first: PlainKey::NONE,
        last: 0,
    };

    /// A hash that depends on every bit.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        self.first.hash() ^ u64::from(self.last).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Which bytes of plain frames in tunnels matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedMask {
    front: PlainKey,
    inside: PlainMask,
    options: ParseOptions,
}

impl WrappedMask {
    /// Those that a mask over keys looks at, and those that make the frames what they are. `None` when no tunnels are looked into, or frames' keys may hold extra fields.
    pub fn of(mask: &FlowMask, options: &ParseOptions) -> Option<Self> {
        if options.extras || !options.inner || !options.has_tunnels() {
            return None;
        }
        let mut front = bytes_of(mask, OUTER_BASE);
        front[at::L4 + 2..at::L4 + 4].fill(0xff);
        front[CHECKSUM..].fill(0xff);
        let mut inside = bytes_of(mask, INNER_BASE);
        // What the marks of both come to.
        front[at::TOS] |= ECN;
        inside[at::TOS] |= ECN;
        Some(Self {
            front: words(&front),
            inside: PlainMask::inside(inside, mask),
            options: *options,
        })
    }

    /// Whether a frame that begins so is one to a tunnel's port, if it is plain.
    #[inline(always)]
    pub fn may_be(&self, bytes: &[u8; PLAIN_LEN]) -> bool {
        let port = u16::from_be_bytes([bytes[at::L4 + 2], bytes[at::L4 + 3]]);
        bytes[at::PROTO] == PROTO_UDP && self.options.may_be_tunnel(port)
    }

    /// What matters of a frame of `frame_len` bytes that begins with `bytes`: in front, and of the frame inside. `None` when lengths contradict each other.
    #[inline(always)]
    pub fn read(&self, bytes: &[u8; LEN], frame_len: usize) -> Option<(FrontKey, PlainKey)> {
        let be16 = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (total_len, udp_len) = (
            usize::from(be16(at::TOTAL_LEN)),
            usize::from(be16(at::UDP_LEN)),
        );
        let (front, inside) = (bytes.first_chunk()?, bytes.last_chunk()?);
        if (20 + udp_len > total_len) | (14 + total_len > frame_len) {
            return None;
        }
        // The datagram may end before the frame does.
        let inside_len = (at::L4 + udp_len).checked_sub(FRONT)?;
        let inside = self.inside.read(inside, inside_len)?;
        let front = FrontKey {
            first: words(front).masked(&self.front),
            last: be16(PLAIN_LEN),
        };
        Some((front, inside))
    }
}

/// Whether a frame that was parsed with these options, and begins with `bytes`, is a plain one in a tunnel, so that its keys stand for all frames with the same; and nothing but what
/// is in front of it has to go: no mark of congestion has to be carried in (RFC 6040 section 4.2).
pub fn is_wrapped(key: &FlowKey, layout: &Layout, bytes: &[u8; LEN]) -> bool {
    let [outer, inner] = &layout.layers;
    // No second tag, no fragment.
    let plain = |base: usize| key.word(base + 7) & 0x0c00_ffff == 0;
    let tos = |from: usize| bytes[from + at::TOS];
    let is_geneve = outer.tunnel_kind() == crate::TunnelKind::Geneve;
    layout.has_inner()
        && outer.tunnel_kind().is_udp()
        && plain_layer(outer, 0)
        && outer.l4_proto == PROTO_UDP
        && plain(OUTER_BASE)
        && inner.has_ethernet()
        && plain_layer(inner, FRONT as u16)
        && plain(INNER_BASE)
        && bytes[CHECKSUM..TUNNEL] == [0; 2]
        && !(is_geneve
            && (bytes[TUNNEL] & GENEVE_OPTIONS != 0 || bytes[TUNNEL + 1] & GENEVE_FLAGS != 0))
        && ecn::decapsulated(tos(0), tos(FRONT)) == Some(tos(FRONT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use crate::parse;
    use proptest::prelude::*;
    use std::vec::Vec;

    const OPTIONS: ParseOptions = ParseOptions::TUNNELS;

    fn plain(few: [u8; 5], ports: [u16; 2], tcp: bool, payload: &[u8]) -> Vec<u8> {
        let [stations, tos, ttl, from, to] = few;
        let l4 = if tcp { 20 } else { 8 };
        let total = (20 + l4 + payload.len()) as u16;
        let mut f = std::vec![
            2, 0, 0, 0, 0, stations, 2, 0, 0, 0, 1, stations, 8, 0, 0x45, tos
        ];
        f.extend(total.to_be_bytes());
        f.extend([0, 7, 0x40, 0, ttl, if tcp { 6 } else { 17 }, 1, 2]);
        f.extend([10, 0, 0, from, 10, 0, 0, to]);
        f.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        if tcp {
            f.extend([0, 1, 2, 3, 4, 5, 6, 7, 0x50, from, 0, 9, 0, 0, 0, 0]);
        } else {
            f.extend(((8 + payload.len()) as u16).to_be_bytes());
            f.extend([0, 0]);
        }
        f.extend(payload);
        f
    }

    /// Frames in tunnels, or nearly so: from a small set of values, so that many agree, with a byte turned now and then.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let few = || prop_oneof![Just(1_u8), Just(2)];
        let layer = || {
            (
                few(),
                prop_oneof![Just(0_u8), Just(1), Just(2)],
                few(),
                few(),
                few(),
            )
        };
        let tunnel = prop_oneof![
            4 => Just((4789_u16, [8, 0, 0, 0])),
            4 => Just((6081, [0, 0, 0x65, 0x58])),
            1 => Just((6081, [1, 0, 0x65, 0x58])),
            1 => Just((6081, [0, 0x40, 0x65, 0x58])),
            1 => Just((4790, [0xc, 0, 0, 3])),
            1 => Just((80, [8, 0, 0, 0])),
        ];
        let ports = (1_u16..3, 1_u16..3, 1_u16..3);
        let turned = proptest::option::weighted(0.3, (0..LEN, any::<u8>()));
        let sizes = (0..30_usize, 0..8_usize, 0..3_usize);
        (
            layer(),
            layer(),
            tunnel,
            ports,
            any::<bool>(),
            few(),
            (turned, sizes),
        )
            .prop_map(
                |(
                    outer,
                    inner,
                    (port, head),
                    ports,
                    tcp,
                    vni,
                    (turned, (len, behind, padding)),
                )| {
                    let array = |(a, b, c, d, e)| [a, b, c, d, e];
                    let inner = plain(array(inner), [ports.1, ports.2], tcp, &std::vec![0; len]);
                    let mut payload = head.to_vec();
                    payload.extend([0, 0, vni, 0]);
                    payload.extend(inner);
                    payload.resize(payload.len() + behind, 0);
                    let mut frame = plain(array(outer), [ports.0, port], false, &payload);
                    frame.resize(frame.len() + padding, 0);
                    if let Some((at, value)) = turned
                        && let Some(byte) = frame.get_mut(at)
                    {
                        *byte = value;
                    }
                    frame
                },
            )
    }

    fn mask() -> impl Strategy<Value = FlowMask> {
        let word = prop_oneof![Just(0_u64), Just(u64::MAX), any::<u64>()];
        proptest::collection::vec(word, 16).prop_map(|layers| {
            let mut mask = FlowMask::ZERO;
            for (i, word) in layers.iter().enumerate() {
                mask.set_word(OUTER_BASE + i, *word);
            }
            mask.set_word(0, u64::MAX);
            mask.set_word(1, u64::MAX);
            mask
        })
    }

    fn parsed(frame: &[u8]) -> Option<(FlowKey, Layout)> {
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        let header = &frame[..frame.len().min(crate::HEADER_MAX)];
        parse(header, frame.len(), &mut key, &mut layout, &OPTIONS).ok()?;
        Some((key, layout))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        /// What makes it right to decide by the bytes, and to do nothing but take off what is in front.
        #[test]
        fn frames_with_equal_bytes_have_equal_keys(a in frame(), b in frame(), mask in mask()) {
            let Some((key, layout)) = parsed(&a) else { return Ok(()) };
            let Some(first) = a.first_chunk::<LEN>() else { return Ok(()) };
            if !is_wrapped(&key, &layout, first) {
                return Ok(());
            }
            let wrapped = WrappedMask::of(&mask, &OPTIONS).unwrap();
            let read = wrapped.read(first, a.len());
            prop_assert!(read.is_some());
            prop_assert!(wrapped.may_be(first.first_chunk().unwrap()));
            let mut carried = a.clone();
            crate::edit::carry_marks_in(&mut carried, &layout, false, false).unwrap();
            prop_assert_eq!(&carried[FRONT..], &a[FRONT..]);
            if let Some(other_first) = b.first_chunk::<LEN>()
                && wrapped.may_be(other_first.first_chunk().unwrap())
                && wrapped.read(other_first, b.len()) == read
            {
                let (other, its_layout) = parsed(&b).expect("as sound as the first");
                prop_assert!(is_wrapped(&other, &its_layout, other_first));
                prop_assert_eq!(its_layout, layout);
                prop_assert_eq!(key.masked(&mask), other.masked(&mask));
            }
        }
    }

    #[test]
    fn what_is_to_be_known_is() {
        let inner = plain([1; 5], [1, 2], true, &[0; 10]);
        let payload = [&[8, 0, 0, 0, 0, 0, 9, 0], &inner[..]].concat();
        let frame = plain([1, 0, 3, 4, 5], [77, 4789], false, &payload);
        let (key, layout) = parsed(&frame).unwrap();
        assert!(is_wrapped(&key, &layout, frame.first_chunk().unwrap()));
        // A mask that does not look at the outer source port does not tell by it.
        let mask = WrappedMask::of(&FlowMask::ZERO, &OPTIONS).unwrap();
        let other = plain([1, 0, 3, 4, 5], [78, 4789], false, &payload);
        let read = |frame: &[u8]| mask.read(frame.first_chunk().unwrap(), frame.len());
        assert!(read(&frame).is_some());
        assert_eq!(read(&frame), read(&other));
        let exact = WrappedMask::of(&FlowMask::EXACT, &OPTIONS).unwrap();
        let read = |frame: &[u8]| exact.read(frame.first_chunk().unwrap(), frame.len());
        assert_ne!(read(&frame), read(&other));
        // Not where nobody looks into tunnels.
        assert_eq!(WrappedMask::of(&FlowMask::ZERO, &ParseOptions::PLAIN), None);
    }
}
