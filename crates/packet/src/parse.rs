//! One pass over the captured header bytes of a frame: bytes in, [`FlowKey`] and [`Layout`] out.
//!
//! Ethernet II and IEEE 802.3, up to two VLAN tags (802.1Q, 802.1ad), ARP (RFC 826), IPv4 (RFC 791), IPv6 with
//! hop-by-hop, routing, fragment, authentication and destination headers (RFC 8200 section 4, RFC 4302), TCP
//! (RFC 9293), UDP (RFC 768), ICMP (RFC 792), ICMPv6 (RFC 4443), SCTP (RFC 9260), ESP (RFC 4303), and the tunnels VXLAN,
//! VXLAN-GPE, Geneve, GRE, GTP-U and MPLS with one packet inside: a tunnel in a tunnel is payload. Mobility, HIP and
//! shim6 headers end the chain, as they do for hosts.
//!
//! Lengths are checked against the headers around them, so what the layout points at is there. Checksums are not
//! verified here (a frame with an offloaded checksum has none yet). Nothing in the payload is read.

mod extras;
mod general;
mod input;
mod malformed;
mod options;
pub(crate) mod tunnel;

pub use malformed::Malformed;
pub use options::{GeneveExtract, ParseOptions, RawBase, RawExtract};

use crate::field::{
    INNER_BASE, LAYER_INNER_ETHERNET, LAYER_INNER_PRESENT, LAYER_OUTER_PRESENT, LAYERS_END,
    OUTER_BASE, TunnelKind,
};
use crate::key::{FlowKey, WORDS};
use crate::layout::{L3Kind, LayerLayout, Layout};

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) const PROTO_ICMP: u8 = 1;
pub(crate) const PROTO_TCP: u8 = 6;
pub(crate) const PROTO_UDP: u8 = 17;
pub(crate) const PROTO_GRE: u8 = 47;
pub(crate) const PROTO_ESP: u8 = 50;
pub(crate) const PROTO_ICMPV6: u8 = 58;
pub(crate) const PROTO_SCTP: u8 = 132;

const ETH_LEN: usize = 14;
/// Ethernet, IPv4 without options and the first eight bytes of L4: what the short way reads unconditionally.
const FAST_LEN: usize = 42;

/// Parses a frame.
///
/// `header` holds the first bytes of the frame ([`HEADER_MAX`](crate::HEADER_MAX) of them are used at most), and
/// `frame_len` is the length of the whole frame in bytes; `header` may be shorter than the frame. Of `key`, word 0,
/// the network of word 1 and words 18 to 23 are the caller's and stay; words 24 to 39 stay too without
/// [`ParseOptions::extras`]. Everything else is written. `layout` is written whole.
///
/// # Errors
/// The first header that is cut short or contradicts itself or the header around it. The key and layout then hold
/// the headers before it. [`Malformed::HeaderTooLong`] says that `header` is too short for the headers (or extra
/// fields) of this frame: with fewer than [`HEADER_MAX`](crate::HEADER_MAX) bytes given, parse again with more.
#[inline]
pub fn parse(
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: &ParseOptions,
) -> Result<(), Malformed> {
    if let Some(first) = header.first_chunk::<FAST_LEN>()
        && parse_plain_ipv4(first, header, frame_len, key, layout, options)
    {
        if options.extras {
            return extras::fetch(header, frame_len, key, layout, options);
        }
        return Ok(());
    }
    general::parse(header, frame_len, key, layout, options)?;
    if options.extras {
        return extras::fetch(header, frame_len, key, layout, options);
    }
    Ok(())
}

#[inline(always)]
fn be64<const AT: usize>(bytes: &[u8; FAST_LEN]) -> u64 {
    const { assert!(AT + 8 <= FAST_LEN) };
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[AT..AT + 8]);
    u64::from_be_bytes(word)
}

/// The common case in straight-line code: untagged Ethernet, IPv4 without options or fragmentation, TCP or UDP, every
/// length sound. Returns false, having written nothing, for anything else.
#[inline(always)]
fn parse_plain_ipv4(
    first: &[u8; FAST_LEN],
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: &ParseOptions,
) -> bool {
    let destination = be64::<0>(first);
    let source_type = be64::<6>(first);
    let ip = be64::<14>(first); // version, ihl, tos, total length, id, fragment
    let ttl_proto = be64::<22>(first); // ttl, protocol, checksum, source
    let addresses = be64::<26>(first);
    let l4 = be64::<34>(first); // ports, then UDP length and checksum or TCP sequence number

    let not_plain =
        (source_type ^ ETHERTYPE_IPV4 as u64) & 0xffff | (ip >> 56) ^ 0x45 | ip & 0x3fff;
    let total_len = (ip >> 32 & 0xffff) as usize;
    if not_plain != 0 || ETH_LEN + total_len > frame_len {
        return false;
    }
    let proto = (ttl_proto >> 48) as u8;
    let flags;
    let l4_len;
    if proto == PROTO_UDP {
        let udp_len = (l4 >> 16 & 0xffff) as usize;
        let port = (l4 >> 32) as u16;
        if udp_len < 8 || 20 + udp_len > total_len {
            return false;
        }
        if options.may_be_tunnel(port) {
            return parse_plain_vxlan(first, header, frame_len, key, layout, options);
        }
        flags = 0;
        l4_len = 8;
    } else if proto == PROTO_TCP {
        let Some(&[offset, bits]) = header.get(46..48).and_then(|b| b.first_chunk::<2>()) else {
            return false;
        };
        l4_len = usize::from(offset >> 4) * 4;
        if l4_len < 20 || 20 + l4_len > total_len || 34 + l4_len > header.len() {
            return false;
        }
        flags = bits;
    } else {
        return false;
    }

    let words = &mut key.0;
    words[1] = words[1] & 0xffff_ffff | (LAYER_OUTER_PRESENT as u64) << 32;
    words[OUTER_BASE] = destination & !0xffff | ETHERTYPE_IPV4 as u64;
    words[OUTER_BASE + 1] = source_type & !0xffff;
    words[OUTER_BASE + 2] = l4 & 0xffff_ffff_0000_0000
        | (proto as u64) << 24
        | (ip >> 48 & 0xff) << 16
        | ttl_proto >> 56 << 8
        | flags as u64;
    words[OUTER_BASE + 3] = addresses >> 32;
    words[OUTER_BASE + 4] = 0;
    words[OUTER_BASE + 5] = addresses & 0xffff_ffff;
    words[OUTER_BASE + 6] = 0;
    words[OUTER_BASE + 7] = 0;
    words[INNER_BASE..LAYERS_END].fill(0);
    layout.layers = [
        LayerLayout {
            eth: 0,
            vlan: 0,
            l3: 14,
            l3_len: 20,
            l4: 34,
            payload: 34 + l4_len as u16,
            l3_kind: L3Kind::Ipv4,
            l4_proto: proto,
            vlan_tags: 0,
            flags: 0,
        },
        LayerLayout::EMPTY,
    ];
    true
}

/// The headers of a plain frame, read but not yet taken for good.
#[derive(Clone, Copy)]
struct Plain {
    /// The words of the layer that are not zero, in order: 0 to 3, 5.
    words: [u64; 5],
    proto: u8,
    l4_len: u16,
    /// Destination port and length of a UDP datagram.
    udp: (u16, usize),
}

/// Untagged Ethernet at `start` of `header`, IPv4 without options or fragmentation, TCP or UDP, every length sound up to `end`.
#[inline(always)]
fn read_plain(first: &[u8; FAST_LEN], header: &[u8], start: usize, end: usize) -> Option<Plain> {
    let destination = be64::<0>(first);
    let source_type = be64::<6>(first);
    let ip = be64::<14>(first); // version, ihl, tos, total length, id, fragment
    let ttl_proto = be64::<22>(first); // ttl, protocol, checksum, source
    let addresses = be64::<26>(first);
    let l4 = be64::<34>(first); // ports, then UDP length and checksum or TCP sequence number

    let not_plain =
        (source_type ^ ETHERTYPE_IPV4 as u64) & 0xffff | (ip >> 56) ^ 0x45 | ip & 0x3fff;
    let total_len = (ip >> 32 & 0xffff) as usize;
    if not_plain != 0 || start + ETH_LEN + total_len > end {
        return None;
    }
    let proto = (ttl_proto >> 48) as u8;
    let mut udp = (0, 0);
    let flags;
    let l4_len;
    if proto == PROTO_UDP {
        udp = ((l4 >> 32) as u16, (l4 >> 16 & 0xffff) as usize);
        if udp.1 < 8 || 20 + udp.1 > total_len {
            return None;
        }
        flags = 0;
        l4_len = 8;
    } else if proto == PROTO_TCP {
        let &[offset, bits] = header.get(start + 46..start + 48)?.first_chunk::<2>()?;
        l4_len = usize::from(offset >> 4) * 4;
        if l4_len < 20 || 20 + l4_len > total_len || start + 34 + l4_len > header.len() {
            return None;
        }
        flags = bits;
    } else {
        return None;
    }
    Some(Plain {
        words: [
            destination & !0xffff | ETHERTYPE_IPV4 as u64,
            source_type & !0xffff,
            l4 & 0xffff_ffff_0000_0000
                | (proto as u64) << 24
                | (ip >> 48 & 0xff) << 16
                | ttl_proto >> 56 << 8
                | flags as u64,
            addresses >> 32,
            addresses & 0xffff_ffff,
        ],
        proto,
        l4_len: l4_len as u16,
        udp,
    })
}

impl Plain {
    #[inline(always)]
    fn write<const BASE: usize>(&self, words: &mut [u64; WORDS]) {
        words[BASE..BASE + 4].copy_from_slice(&self.words[..4]);
        words[BASE + 4] = 0;
        words[BASE + 5] = self.words[4];
        words[BASE + 6] = 0;
        words[BASE + 7] = 0;
    }

    #[inline(always)]
    fn layout(&self, start: u16) -> LayerLayout {
        LayerLayout {
            eth: start,
            vlan: 0,
            l3: start + 14,
            l3_len: 20,
            l4: start + 34,
            payload: start + 34 + self.l4_len,
            l3_kind: L3Kind::Ipv4,
            l4_proto: self.proto,
            vlan_tags: 0,
            flags: 0,
        }
    }
}

/// The frame inside of VXLAN, as far as both are plain.
#[inline(never)]
fn parse_plain_vxlan(
    first: &[u8; FAST_LEN],
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: &ParseOptions,
) -> bool {
    /// Where the VXLAN header begins, and the frame inside.
    const VXLAN: usize = FAST_LEN;
    const INSIDE: usize = VXLAN + 8;
    let header = &header[..header.len().min(crate::HEADER_MAX).min(frame_len)];
    let Some(outer) = read_plain(first, header, 0, frame_len) else {
        return false;
    };
    // The end of the datagram, which may be before that of the frame.
    let end = 34 + outer.udp.1;
    if outer.udp.0 == 0 || outer.udp.0 != options.vxlan_port || !options.inner {
        return false;
    }
    let (Some(vxlan), Some(first)) = (
        header.get(VXLAN..).and_then(|b| b.first_chunk::<8>()),
        header
            .get(INSIDE..)
            .and_then(|b| b.first_chunk::<FAST_LEN>()),
    ) else {
        return false;
    };
    let vxlan = u64::from_be_bytes(*vxlan);
    let valid = u64::from(tunnel::VXLAN_VALID) << 56;
    if vxlan & valid == 0 || INSIDE + FAST_LEN > end {
        return false;
    }
    let Some(inner) = read_plain(first, header, INSIDE, end) else {
        return false;
    };
    let words = &mut key.0;
    let present = LAYER_OUTER_PRESENT | LAYER_INNER_PRESENT | LAYER_INNER_ETHERNET;
    words[1] = words[1] & 0xffff_ffff | (present as u64) << 32;
    outer.write::<OUTER_BASE>(words);
    inner.write::<INNER_BASE>(words);
    layout.layers = [outer.layout(0), inner.layout(INSIDE as u16)];
    let id = (vxlan >> 8) as u32 & 0x00ff_ffff;
    general::mark_tunnel::<OUTER_BASE>(words, &mut layout.layers[0], TunnelKind::Vxlan, id);
    true
}

#[cfg(test)]
mod tests;
