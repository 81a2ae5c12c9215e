//! rte_flow's modify_field on header bytes: set, add or subtract any run of bits of a header, checksums following.
//!
//! What the layout rests on (versions, lengths, types and protocols of what follows, checksums themselves) is refused: a
//! change there makes another frame. Changes inside a tunnel do not reach the outer UDP checksum, see the parent module.

use super::{EditError, fix_l4, l4_checksum};
use crate::checksum::update_bytes;
use crate::crc32c;
use crate::field::TunnelKind;
use crate::layout::{L3Kind, LayerLayout};
use crate::parse::tunnel::GRE_CHECKSUM;
use crate::parse::{PROTO_ICMP, PROTO_SCTP, PROTO_TCP, PROTO_UDP};

/// A header of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// Ethernet.
    Ethernet,
    /// The first VLAN tag's control information and the type behind it.
    Vlan,
    /// The second VLAN tag's.
    SecondVlan,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP or ICMPv6.
    Icmp,
    /// The header of a tunnel of this kind, other than MPLS and ESP.
    Tunnel(TunnelKind),
}

/// A run of bits in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bits {
    /// Whose.
    pub header: Header,
    /// First (highest) bit, counted from the header's first bit as it is sent.
    pub offset: u16,
    /// Number of bits, 1..=128.
    pub width: u8,
}

const fn bits(header: Header, offset: u16, width: u8) -> Bits {
    Bits {
        header,
        offset,
        width,
    }
}

impl Bits {
    /// Destination MAC address.
    pub const MAC_DST: Bits = bits(Header::Ethernet, 0, 48);
    /// Source MAC address.
    pub const MAC_SRC: Bits = bits(Header::Ethernet, 48, 48);
    /// Priority of the first VLAN tag.
    pub const VLAN_PCP: Bits = bits(Header::Vlan, 0, 3);
    /// Id of the first VLAN tag.
    pub const VLAN_ID: Bits = bits(Header::Vlan, 4, 12);
    /// DSCP of IPv4.
    pub const IPV4_DSCP: Bits = bits(Header::Ipv4, 8, 6);
    /// ECN of IPv4.
    pub const IPV4_ECN: Bits = bits(Header::Ipv4, 14, 2);
    /// Time to live.
    pub const IPV4_TTL: Bits = bits(Header::Ipv4, 64, 8);
    /// Source address of IPv4.
    pub const IPV4_SRC: Bits = bits(Header::Ipv4, 96, 32);
    /// Destination address of IPv4.
    pub const IPV4_DST: Bits = bits(Header::Ipv4, 128, 32);
    /// DSCP of IPv6.
    pub const IPV6_DSCP: Bits = bits(Header::Ipv6, 4, 6);
    /// ECN of IPv6.
    pub const IPV6_ECN: Bits = bits(Header::Ipv6, 10, 2);
    /// Hop limit.
    pub const IPV6_HOP_LIMIT: Bits = bits(Header::Ipv6, 56, 8);
    /// Source address of IPv6.
    pub const IPV6_SRC: Bits = bits(Header::Ipv6, 64, 128);
    /// Destination address of IPv6.
    pub const IPV6_DST: Bits = bits(Header::Ipv6, 192, 128);
    /// Source port of TCP.
    pub const TCP_SRC: Bits = bits(Header::Tcp, 0, 16);
    /// Destination port of TCP.
    pub const TCP_DST: Bits = bits(Header::Tcp, 16, 16);
    /// Sequence number.
    pub const TCP_SEQUENCE: Bits = bits(Header::Tcp, 32, 32);
    /// Acknowledgement number.
    pub const TCP_ACKNOWLEDGEMENT: Bits = bits(Header::Tcp, 64, 32);
    /// Flags of TCP.
    pub const TCP_FLAGS: Bits = bits(Header::Tcp, 104, 8);
    /// Source port of UDP.
    pub const UDP_SRC: Bits = bits(Header::Udp, 0, 16);
    /// Destination port of UDP.
    pub const UDP_DST: Bits = bits(Header::Udp, 16, 16);
    /// Network identifier of VXLAN.
    pub const VXLAN_VNI: Bits = bits(Header::Tunnel(TunnelKind::Vxlan), 32, 24);
    /// Network identifier of Geneve.
    pub const GENEVE_VNI: Bits = bits(Header::Tunnel(TunnelKind::Geneve), 32, 24);
    /// Tunnel endpoint identifier of GTP-U.
    pub const GTPU_TEID: Bits = bits(Header::Tunnel(TunnelKind::Gtpu), 32, 32);
}

/// What is done to the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// They become the value.
    Set,
    /// The value is added; the sum wraps around at their width.
    Add,
    /// The value is subtracted; the difference wraps around at their width.
    Sub,
}

/// The bits, in the low end of a number.
///
/// # Errors
/// [`EditError::Absent`] without that header, [`EditError::OutOfRange`] when they are not all inside it.
pub fn read_bits(header: &[u8], layer: &LayerLayout, bits: Bits) -> Result<u128, EditError> {
    let place = place(header, layer, bits)?;
    let span = place.span(header)?;
    let mut value = [0; SPAN_MAX];
    value
        .get_mut(SPAN_MAX - span.len()..)
        .ok_or(EditError::OutOfRange)?
        .copy_from_slice(span);
    Ok(place.extract(value))
}

/// Changes the bits; of `value` only as many low bits count as there are. Checksums follow as with the other edits, SCTP's too.
///
/// # Errors
/// [`EditError::Absent`] without that header, [`EditError::OutOfRange`] when the bits are not all inside it,
/// [`EditError::Unsupported`] for bits that the layout rests on, and for SCTP in fragments.
pub fn modify(
    header: &mut [u8],
    layer: &LayerLayout,
    bits: Bits,
    change: Change,
    value: u128,
    partial_csum: bool,
) -> Result<(), EditError> {
    let place = place(header, layer, bits)?;
    if structural(bits.header)
        .iter()
        .any(|(from, to)| bits.offset < *to && *from < bits.offset + u16::from(bits.width))
    {
        return Err(EditError::Unsupported);
    }
    let old_value = read_bits(header, layer, bits)?;
    let mask = u128::MAX >> (128 - u32::from(bits.width));
    let new_value = mask
        & match change {
            Change::Set => value,
            Change::Add => old_value.wrapping_add(value),
            Change::Sub => old_value.wrapping_sub(value),
        };
    let span = place.span(header)?;
    let mut before = [0; SPAN_MAX];
    let room = SPAN_MAX - span.len();
    before
        .get_mut(room..)
        .ok_or(EditError::OutOfRange)?
        .copy_from_slice(span);
    let after = place.insert(before, mask, new_value);
    let (old, new) = (before.split_at(room).1, after.split_at(room).1);
    let fix = Fix {
        layer,
        at: place.from,
        partial_csum,
    };
    // Checked before anything is written.
    fix.check(header, bits.header)?;
    header
        .get_mut(place.from..place.to)
        .ok_or(EditError::OutOfRange)?
        .copy_from_slice(new);
    fix.checksums(header, bits.header, old, new)
}

/// Most bytes that 128 bits can touch, from an even to an even offset.
const SPAN_MAX: usize = 20;

/// Where the bits are: a span of bytes, of even length and at an even offset of the header, and the bits below them in it.
struct Place {
    from: usize,
    to: usize,
    below: u32,
    width: u32,
}

impl Place {
    fn span<'a>(&self, header: &'a [u8]) -> Result<&'a [u8], EditError> {
        header.get(self.from..self.to).ok_or(EditError::OutOfRange)
    }

    /// The bits out of the span, which is at the end of `span`.
    fn extract(&self, span: [u8; SPAN_MAX]) -> u128 {
        let (high, low) = halves(span);
        let shifted = if self.below == 0 {
            low
        } else {
            low >> self.below | u128::from(high) << (128 - self.below)
        };
        shifted & u128::MAX >> (128 - self.width)
    }

    fn insert(&self, span: [u8; SPAN_MAX], mask: u128, value: u128) -> [u8; SPAN_MAX] {
        let (mut high, mut low) = halves(span);
        low = low & !(mask << self.below) | value << self.below;
        if self.below != 0 {
            let (mask, value) = (mask >> (128 - self.below), value >> (128 - self.below));
            high = high & !(mask as u32) | value as u32;
        }
        let mut out = [0; SPAN_MAX];
        out[..4].copy_from_slice(&high.to_be_bytes());
        out[4..].copy_from_slice(&low.to_be_bytes());
        out
    }
}

fn halves(span: [u8; SPAN_MAX]) -> (u32, u128) {
    let (mut high, mut low) = ([0; 4], [0; 16]);
    high.copy_from_slice(&span[..4]);
    low.copy_from_slice(&span[4..]);
    (u32::from_be_bytes(high), u128::from_be_bytes(low))
}

fn place(header: &[u8], layer: &LayerLayout, bits: Bits) -> Result<Place, EditError> {
    let (at, len) = bounds(header, layer, bits.header)?;
    let (first, width) = (usize::from(bits.offset), usize::from(bits.width));
    if !(1..=128).contains(&width) || first + width > len * 8 {
        return Err(EditError::OutOfRange);
    }
    let from = first / 16 * 2;
    let to = (first + width).div_ceil(16) * 2;
    // A header of an odd length does not exist among these.
    if at + to > header.len() || to > len {
        return Err(EditError::OutOfRange);
    }
    Ok(Place {
        from: at + from,
        to: at + to,
        below: (to * 8 - first - width) as u32,
        width: width as u32,
    })
}

/// Where a header starts and how long it is.
fn bounds(header: &[u8], layer: &LayerLayout, which: Header) -> Result<(usize, usize), EditError> {
    let l4_len = usize::from(layer.payload.saturating_sub(layer.l4));
    let l4 = |proto| {
        (layer.l4 != 0 && layer.l4_proto == proto).then_some((usize::from(layer.l4), l4_len))
    };
    let l3 = |kind, len| (layer.l3_kind == kind).then_some((usize::from(layer.l3), len));
    let found = match which {
        Header::Ethernet => layer.has_ethernet().then_some((layer.eth.into(), 14)),
        Header::Vlan => (layer.vlan_tags >= 1).then_some((usize::from(layer.vlan) + 2, 4)),
        Header::SecondVlan => (layer.vlan_tags >= 2).then_some((usize::from(layer.vlan) + 6, 4)),
        Header::Ipv4 => l3(L3Kind::Ipv4, usize::from(layer.l3_len)),
        Header::Ipv6 => l3(L3Kind::Ipv6, 40),
        Header::Tcp => l4(PROTO_TCP),
        Header::Udp => l4(PROTO_UDP),
        Header::Sctp => l4(PROTO_SCTP),
        Header::Icmp => {
            // The second word is part of every message that has one.
            let icmp = l4(PROTO_ICMP).or_else(|| l4(crate::parse::PROTO_ICMPV6));
            icmp.map(|(at, _)| (at, header.len().saturating_sub(at).min(8) & !1))
        }
        Header::Tunnel(kind) => {
            let known = kind != TunnelKind::None
                && kind != TunnelKind::Esp
                && kind != TunnelKind::Mpls
                && layer.tunnel_kind() == kind;
            let len = if kind == TunnelKind::Gre { 4 } else { 8 };
            known.then_some((layer.payload.into(), len))
        }
    };
    found.ok_or(EditError::Absent)
}

/// Bit ranges of a header that the layout rests on.
const fn structural(header: Header) -> &'static [(u16, u16)] {
    match header {
        Header::Ethernet => &[(96, 112)],
        Header::Vlan | Header::SecondVlan => &[(16, 32)],
        Header::Ipv4 => &[(0, 8), (16, 32), (48, 64), (72, 96), (160, 480)],
        Header::Ipv6 => &[(0, 4), (32, 56)],
        Header::Tcp => &[(96, 100), (128, 144), (160, 480)],
        Header::Udp => &[(32, 64)],
        Header::Sctp => &[(64, 96)],
        Header::Icmp => &[(0, 8), (16, 32)],
        Header::Tunnel(TunnelKind::Gre) => &[(0, 32)],
        Header::Tunnel(_) => &[(0, 32)],
    }
}

/// The checksums after a change of the bytes from `at` on.
struct Fix<'a> {
    layer: &'a LayerLayout,
    at: usize,
    partial_csum: bool,
}

impl Fix<'_> {
    /// Whether the checksums can follow.
    fn check(&self, header: &[u8], which: Header) -> Result<(), EditError> {
        match which {
            Header::Ethernet | Header::Vlan | Header::SecondVlan => Ok(()),
            Header::Sctp => sctp_len(header, self.layer).map(|_| ()),
            _ => l4_checksum(header, self.layer).map(|_| ()),
        }
    }

    fn checksums(
        &self,
        header: &mut [u8],
        which: Header,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), EditError> {
        let layer = self.layer;
        let (l3, l4) = (usize::from(layer.l3), usize::from(layer.l4));
        match which {
            Header::Ethernet | Header::Vlan | Header::SecondVlan => Ok(()),
            Header::Ipv4 => {
                change_sum(header, l3 + 10, old, new)?;
                self.pseudo_header(header, l3 + 12..l3 + 20, old, new)
            }
            Header::Ipv6 => {
                let routed = layer.flags & LayerLayout::ROUTED != 0;
                let end = if routed { l3 + 24 } else { l3 + 40 };
                self.pseudo_header(header, l3 + 8..end, old, new)
            }
            Header::Sctp => fix_sctp(header, layer, self.at, old, new),
            Header::Icmp if layer.l4_proto == PROTO_ICMP => {
                if self.partial_csum {
                    return Ok(());
                }
                change_sum(header, l4 + 2, old, new)
            }
            Header::Tunnel(TunnelKind::Gre) => {
                let at = usize::from(layer.payload);
                match header.get(at) {
                    Some(flags) if u16::from(*flags) << 8 & GRE_CHECKSUM != 0 => {
                        change_sum(header, at + 4, old, new)
                    }
                    _ => Ok(()),
                }
            }
            Header::Tcp | Header::Udp | Header::Icmp | Header::Tunnel(_) => {
                match l4_checksum(header, layer)? {
                    Some(at) if !self.partial_csum => {
                        fix_l4(header, layer, at, false, |sum| update_bytes(sum, old, new))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// The L4 checksum after a change of what of the addresses, at `range`, is among the bytes.
    fn pseudo_header(
        &self,
        header: &mut [u8],
        range: core::ops::Range<usize>,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), EditError> {
        let Some(field) = l4_checksum(header, self.layer)? else {
            return Ok(());
        };
        let from = range.start.saturating_sub(self.at);
        let to = range.end.saturating_sub(self.at).min(old.len());
        let (Some(old), Some(new)) = (old.get(from..to), new.get(from..to)) else {
            return Ok(());
        };
        fix_l4(header, self.layer, field, self.partial_csum, |sum| {
            update_bytes(sum, old, new)
        })
    }
}

/// Updates a checksum that has no pseudo-header.
fn change_sum(header: &mut [u8], at: usize, old: &[u8], new: &[u8]) -> Result<(), EditError> {
    let field = super::field::<2>(header, at)?;
    *field = update_bytes(u16::from_be_bytes(*field), old, new).to_be_bytes();
    Ok(())
}

/// Length of the SCTP packet, by its IP header.
fn sctp_len(header: &[u8], layer: &LayerLayout) -> Result<u32, EditError> {
    if layer.is_fragment() {
        // The checksum covers all fragments.
        return Err(EditError::Unsupported);
    }
    let word = |at: usize| {
        let bytes = header.get(at..).and_then(|b| b.first_chunk::<2>());
        bytes
            .map(|b| u32::from(u16::from_be_bytes(*b)))
            .ok_or(EditError::OutOfRange)
    };
    let l3 = usize::from(layer.l3);
    let total = match layer.l3_kind {
        L3Kind::Ipv4 => word(l3 + 2)?,
        _ => word(l3 + 4)? + 40,
    };
    let len = total.checked_sub(layer.l3_len.into());
    let whole = header.len() >= usize::from(layer.l4) + 12;
    len.filter(|len| whole && *len >= 12)
        .ok_or(EditError::OutOfRange)
}

/// Updates SCTP's checksum after a change of the bytes from `at` on.
pub(super) fn fix_sctp(
    header: &mut [u8],
    layer: &LayerLayout,
    at: usize,
    old: &[u8],
    new: &[u8],
) -> Result<(), EditError> {
    let len = sctp_len(header, layer)?;
    let l4 = usize::from(layer.l4);
    let field = super::field::<4>(header, l4 + 8)?;
    let mut crc = u32::from_le_bytes(*field);
    for (index, (old, new)) in old.chunks(2).zip(new.chunks(2)).enumerate() {
        let ([a, b], [c, d]) = (old, new) else {
            return Err(EditError::OutOfRange);
        };
        let behind = at + 2 * index + 2 - l4;
        let after = len.saturating_sub(behind as u32);
        crc = crc32c::update(crc, [0, 0, *a, *b], [0, 0, *c, *d], after);
    }
    *field = crc.to_le_bytes();
    Ok(())
}

/// Whether SCTP's checksum can follow an edit.
pub(super) fn check_sctp(header: &[u8], layer: &LayerLayout) -> Result<(), EditError> {
    sctp_len(header, layer).map(|_| ())
}
