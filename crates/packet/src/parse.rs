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
pub use tunnel::geneve_option_types;

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

/// What the short way found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plain {
    /// Something else: the general way decides. Nothing was written.
    No,
    /// A plain frame, written.
    Yes,
    /// A datagram that may be a tunnel's. Nothing was written.
    Tunnel,
}

/// One layer in straight-line code: untagged Ethernet at `start` of `header`, IPv4 without options or fragmentation, TCP
/// or UDP, every length sound up to `end`. `is_tunnel` is asked for a datagram's destination port.
#[inline(always)]
fn parse_plain<const BASE: usize>(
    first: &[u8; FAST_LEN],
    (header, start, end): (&[u8], usize, usize),
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    is_tunnel: impl FnOnce(u16) -> bool,
) -> Plain {
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
        return Plain::No;
    }
    let proto = (ttl_proto >> 48) as u8;
    let flags;
    let l4_len;
    if proto == PROTO_UDP {
        let udp_len = (l4 >> 16 & 0xffff) as usize;
        if udp_len < 8 || 20 + udp_len > total_len {
            return Plain::No;
        }
        if is_tunnel((l4 >> 32) as u16) {
            return Plain::Tunnel;
        }
        flags = 0;
        l4_len = 8;
    } else if proto == PROTO_TCP {
        let at = start + 46;
        let Some(&[offset, bits]) = header.get(at..at + 2).and_then(|b| b.first_chunk::<2>())
        else {
            return Plain::No;
        };
        l4_len = usize::from(offset >> 4) * 4;
        if l4_len < 20 || 20 + l4_len > total_len || start + 34 + l4_len > header.len() {
            return Plain::No;
        }
        flags = bits;
    } else {
        return Plain::No;
    }

    words[BASE] = destination & !0xffff | ETHERTYPE_IPV4 as u64;
    words[BASE + 1] = source_type & !0xffff;
    words[BASE + 2] = l4 & 0xffff_ffff_0000_0000
        | (proto as u64) << 24
        | (ip >> 48 & 0xff) << 16
        | ttl_proto >> 56 << 8
        | flags as u64;
    words[BASE + 3] = addresses >> 32;
    words[BASE + 4] = 0;
    words[BASE + 5] = addresses & 0xffff_ffff;
    words[BASE + 6] = 0;
    words[BASE + 7] = 0;
    let start = start as u16;
    *layer = LayerLayout {
        eth: start,
        vlan: 0,
        l3: start + 14,
        l3_len: 20,
        l4: start + 34,
        payload: start + 34 + l4_len as u16,
        l3_kind: L3Kind::Ipv4,
        l4_proto: proto,
        vlan_tags: 0,
        flags: 0,
    };
    Plain::Yes
}

/// The common case: a plain frame, or one in VXLAN. Returns false for anything else; what was written is for the general way to write again.
#[inline(always)]
fn parse_plain_ipv4(
    first: &[u8; FAST_LEN],
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: &ParseOptions,
) -> bool {
    let words = &mut key.0;
    let [outer, inner] = &mut layout.layers;
    let place = (header, 0, frame_len);
    let is_tunnel = |port| options.may_be_tunnel(port);
    match parse_plain::<OUTER_BASE>(first, place, words, outer, is_tunnel) {
        Plain::No => return false,
        Plain::Tunnel => return parse_plain_vxlan(first, header, frame_len, key, layout, options),
        Plain::Yes => {}
    }
    words[1] = words[1] & 0xffff_ffff | (LAYER_OUTER_PRESENT as u64) << 32;
    words[INNER_BASE..LAYERS_END].fill(0);
    *inner = LayerLayout::EMPTY;
    true
}

/// The frame inside of VXLAN, as far as both are plain. `first` is that of a datagram that is one.
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
    let l4 = be64::<34>(first);
    let (port, udp_len) = ((l4 >> 32) as u16, (l4 >> 16 & 0xffff) as usize);
    // The end of the datagram, which may be before that of the frame.
    let end = 34 + udp_len;
    if port == 0 || port != options.vxlan_port || !options.inner || INSIDE + FAST_LEN > end {
        return false;
    }
    let (Some(vxlan), Some(inside)) = (
        header.get(VXLAN..).and_then(|b| b.first_chunk::<8>()),
        header
            .get(INSIDE..)
            .and_then(|b| b.first_chunk::<FAST_LEN>()),
    ) else {
        return false;
    };
    let vxlan = u64::from_be_bytes(*vxlan);
    let valid = u64::from(tunnel::VXLAN_VALID) << 56;
    let words = &mut key.0;
    let [outer, inner] = &mut layout.layers;
    // A tunnel in a tunnel is payload.
    if vxlan & valid == 0
        || parse_plain::<OUTER_BASE>(first, (header, 0, frame_len), words, outer, |_| false)
            != Plain::Yes
        || parse_plain::<INNER_BASE>(inside, (header, INSIDE, end), words, inner, |_| false)
            != Plain::Yes
    {
        return false;
    }
    let present = LAYER_OUTER_PRESENT | LAYER_INNER_PRESENT | LAYER_INNER_ETHERNET;
    words[1] = words[1] & 0xffff_ffff | (present as u64) << 32;
    let id = (vxlan >> 8) as u32 & 0x00ff_ffff;
    general::mark_tunnel::<OUTER_BASE>(words, outer, TunnelKind::Vxlan, id);
    true
}

#[cfg(test)]
mod tests;
