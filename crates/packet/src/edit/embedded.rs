//! The packet inside an ICMP error, for network address translation (RFC 5508 section 4, RFC 7915 section 4.3): found, and
//! its addresses, ports and checksums rewritten, with the error's own checksum following.
//!
//! An error quotes at least the IP header and eight bytes behind it (RFC 792), so a quoted TCP checksum may be missing.

use super::{EditError, field};
use crate::checksum::{update_bytes, update16};
use crate::layout::{L3Kind, LayerLayout};
use crate::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP};

/// Most bytes of a quoted packet that can change: IPv4 with options, or IPv6 with some extension headers, and TCP up to its
/// checksum.
const QUOTE_MAX: usize = 128;

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Where its headers are in the frame. `l4` is zero for a later fragment and for unknown protocols.
    pub layer: LayerLayout,
    /// Source address; IPv4 in the low 32 bits.
    pub src: u128,
    /// Destination address, likewise.
    pub dst: u128,
    /// Source port; identifier of an ICMP echo or reply; zero without.
    pub src_port: u16,
    /// Destination port; identifier likewise.
    pub dst_port: u16,
}

/// New ends for a quoted packet; what is `None` stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ends {
    /// Source address; IPv4 in the low 32 bits.
    pub src: Option<u128>,
    /// Destination address, likewise.
    pub dst: Option<u128>,
    /// Source port; for an ICMP echo either port is the identifier.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
}

/// The packet quoted by the ICMP or ICMPv6 error in `layer`; `None` when it is no error or quotes too little. `header` are
/// the captured bytes.
pub fn embedded(header: &[u8], layer: &LayerLayout) -> Option<Embedded> {
    if layer.l4 == 0 || layer.is_fragment() {
        return None;
    }
    let l4 = usize::from(layer.l4);
    let kind = *header.get(l4)?;
    let version = match (layer.l3_kind, layer.l4_proto, kind) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (L3Kind::Ipv4, PROTO_ICMP, 3 | 4 | 5 | 11 | 12) => 4,
        (L3Kind::Ipv6, PROTO_ICMPV6, 1..=4) => 6,
        _ => return None,
    };
    let at = l4 + 8;
    let quoted = header.get(at..)?;
    let (quoted_layer, src, dst) = if version == 4 {
        quoted_ipv4(quoted, at)?
    } else {
        quoted_ipv6(quoted, at)?
    };
    let (src_port, dst_port) = quoted_ports(header, &quoted_layer)?;
    Some(Embedded {
        layer: quoted_layer,
        src,
        dst,
        src_port,
        dst_port,
    })
}

fn quoted_ipv4(quoted: &[u8], at: usize) -> Option<(LayerLayout, u128, u128)> {
    let ip = quoted.first_chunk::<20>()?;
    let len = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || len < 20 {
        return None;
    }
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    let address = |at: usize| {
        let bytes = ip.get(at..).and_then(|b| b.first_chunk::<4>());
        bytes.map(|b| u128::from(u32::from_be_bytes(*b)))
    };
    let has_l4 = fragment & 0x1fff == 0 && has_ports(ip[9]);
    let layer = quoted_layer(at, len, L3Kind::Ipv4, ip[9], has_l4);
    Some((layer, address(12)?, address(16)?))
}

fn quoted_ipv6(quoted: &[u8], at: usize) -> Option<(LayerLayout, u128, u128)> {
    let ip = quoted.first_chunk::<40>()?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| {
        let bytes = ip.get(at..).and_then(|b| b.first_chunk::<16>());
        bytes.map(|b| u128::from_be_bytes(*b))
    };
    let (mut proto, mut len, mut later) = (ip[6], 40, false);
    // At most as many as the quote can hold; a chain that goes on beyond it has no ports to see.
    while let 0 | 43 | 44 | 60 = proto {
        let head = quoted.get(len..).and_then(|b| b.first_chunk::<8>())?;
        if proto == 44 {
            later |= u16::from_be_bytes([head[2], head[3]]) & 0xfff8 != 0;
            len += 8;
        } else {
            len += usize::from(head[1]) * 8 + 8;
        }
        proto = head[0];
        if later {
            break;
        }
    }
    let layer = quoted_layer(at, len, L3Kind::Ipv6, proto, !later && has_ports(proto));
    Some((layer, address(8)?, address(24)?))
}

const fn has_ports(proto: u8) -> bool {
    matches!(
        proto,
        PROTO_TCP | PROTO_UDP | PROTO_SCTP | PROTO_ICMP | PROTO_ICMPV6
    )
}

fn quoted_layer(at: usize, len: usize, kind: L3Kind, proto: u8, has_l4: bool) -> LayerLayout {
    LayerLayout {
        eth: at as u16,
        l3: at as u16,
        l3_len: len as u16,
        l4: if has_l4 { (at + len) as u16 } else { 0 },
        payload: (at + len) as u16,
        l3_kind: kind,
        l4_proto: proto,
        flags: LayerLayout::NO_ETHERNET,
        ..LayerLayout::EMPTY
    }
}

/// The ports, or the identifier of an echo twice.
fn quoted_ports(header: &[u8], quoted: &LayerLayout) -> Option<(u16, u16)> {
    if quoted.l4 == 0 {
        return Some((0, 0));
    }
    let l4 = header.get(usize::from(quoted.l4)..)?.first_chunk::<8>()?;
    Some(match quoted.l4_proto {
        PROTO_ICMP | PROTO_ICMPV6 => {
            let echo = matches!(
                (quoted.l4_proto, l4[0]),
                (PROTO_ICMP, 0 | 8) | (PROTO_ICMPV6, 128 | 129)
            );
            let id = if echo {
                u16::from_be_bytes([l4[4], l4[5]])
            } else {
                0
            };
            (id, id)
        }
        _ => (
            u16::from_be_bytes([l4[0], l4[1]]),
            u16::from_be_bytes([l4[2], l4[3]]),
        ),
    })
}

/// Rewrites the ends of the quoted packet. `layer` is the error's own, `quote` what [`embedded`] found. The quoted IPv4
/// and L4 checksums (as far as they are quoted) and the error's checksum follow; with `partial_csum` the error's own is
/// computed later. A quoted SCTP checksum is left: it covers what is not quoted, and its receiver (the sender of the
/// quoted packet) finds the association by the tag (RFC 9260 section 10.2).
///
/// # Errors
/// [`EditError::OutOfRange`] when the quote is longer than can be followed or not in `header`, [`EditError::Absent`] when
/// `layer` is not IP; nothing changes then.
pub fn rewrite_embedded(
    header: &mut [u8],
    layer: &LayerLayout,
    quote: &Embedded,
    ends: &Ends,
    partial_csum: bool,
) -> Result<(), EditError> {
    let quoted = &quote.layer;
    let from = usize::from(quoted.l3);
    let end = packet_end(header, layer)?;
    let to = (from + usize::from(quoted.l3_len) + 18)
        .min(header.len())
        .min(end)
        .max(from);
    let to = to - (to - from) % 2;
    let before = header.get(from..to).ok_or(EditError::OutOfRange)?;
    let mut work = [0; QUOTE_MAX];
    let work = work.get_mut(..before.len()).ok_or(EditError::OutOfRange)?;
    work.copy_from_slice(before);
    let base = quoted.l3;
    let own = LayerLayout {
        eth: 0,
        l3: 0,
        l4: quoted.l4.saturating_sub(base),
        payload: quoted.payload - base,
        ..*quoted
    };
    for (address, offset) in [(ends.src, 0), (ends.dst, 1)] {
        if let Some(address) = address {
            set_address(work, &own, offset, address)?;
        }
    }
    if own.l4 != 0 {
        set_ports(work, &own, ends)?;
    }
    // The error's checksum covers the quote; both start at even offsets of the message.
    let old = header.get(from..to).ok_or(EditError::OutOfRange)?;
    let field_at = usize::from(layer.l4) + 2;
    let sum = header
        .get(field_at..)
        .and_then(|b| b.first_chunk::<2>())
        .map(|b| update_bytes(u16::from_be_bytes(*b), old, work))
        .ok_or(EditError::OutOfRange)?;
    if !partial_csum {
        *field::<2>(header, field_at)? = sum.to_be_bytes();
    }
    header
        .get_mut(from..to)
        .ok_or(EditError::OutOfRange)?
        .copy_from_slice(work);
    Ok(())
}

/// Where the error ends in the frame, by its IP header.
fn packet_end(header: &[u8], layer: &LayerLayout) -> Result<usize, EditError> {
    let l3 = usize::from(layer.l3);
    let (at, fixed) = match layer.l3_kind {
        L3Kind::Ipv4 => (l3 + 2, 0),
        L3Kind::Ipv6 => (l3 + 4, 40),
        _ => return Err(EditError::Absent),
    };
    let bytes = header.get(at..).and_then(|b| b.first_chunk::<2>());
    bytes
        .map(|b| l3 + fixed + usize::from(u16::from_be_bytes(*b)))
        .ok_or(EditError::OutOfRange)
}

/// Sets an address (0 source, 1 destination) of the quoted packet at the front of `work`.
fn set_address(
    work: &mut [u8],
    own: &LayerLayout,
    which: usize,
    address: u128,
) -> Result<(), EditError> {
    if own.l3_kind == L3Kind::Ipv4 {
        let new = (address as u32).to_be_bytes();
        let ip = field::<20>(work, 0)?;
        let mut old = [0; 4];
        let place = &mut ip[12 + 4 * which..16 + 4 * which];
        old.copy_from_slice(place);
        place.copy_from_slice(&new);
        let sum = update_bytes(u16::from_be_bytes([ip[10], ip[11]]), &old, &new);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        fix(work, own, &old, &new);
    } else {
        let new = address.to_be_bytes();
        let place = field::<16>(work, 8 + 16 * which)?;
        let old = core::mem::replace(place, new);
        fix(work, own, &old, &new);
    }
    Ok(())
}

fn set_ports(work: &mut [u8], own: &LayerLayout, ends: &Ends) -> Result<(), EditError> {
    let echo = matches!(own.l4_proto, PROTO_ICMP | PROTO_ICMPV6);
    let places = if echo {
        [(ends.src_port.or(ends.dst_port), 4), (None, 4)]
    } else {
        [(ends.src_port, 0), (ends.dst_port, 2)]
    };
    for (port, offset) in places {
        let Some(port) = port else { continue };
        let place = field::<2>(work, usize::from(own.l4) + offset)?;
        let old = core::mem::replace(place, port.to_be_bytes());
        if own.l4_proto == PROTO_ICMP {
            let sum = field::<2>(work, usize::from(own.l4) + 2)?;
            *sum = update16(u16::from_be_bytes(*sum), u16::from_be_bytes(old), port).to_be_bytes();
        } else {
            fix(work, own, &old, &port.to_be_bytes());
        }
    }
    Ok(())
}

/// Follows a change in the quoted L4 checksum with a pseudo-header, if there is one among the bytes.
fn fix(work: &mut [u8], own: &LayerLayout, old: &[u8], new: &[u8]) {
    let offset = match own.l4_proto {
        _ if own.l4 == 0 => return,
        PROTO_TCP => 16,
        PROTO_UDP => 6,
        PROTO_ICMPV6 if own.l3_kind == L3Kind::Ipv6 => 2,
        _ => return,
    };
    let Ok(place) = field::<2>(work, usize::from(own.l4) + offset) else {
        return;
    };
    let sum = u16::from_be_bytes(*place);
    if own.l4_proto == PROTO_UDP && sum == 0 {
        return;
    }
    let mut sum = update_bytes(sum, old, new);
    if own.l4_proto == PROTO_UDP && sum == 0 {
        sum = 0xffff;
    }
    *place = sum.to_be_bytes();
}
