//! One pass over the captured header bytes of a frame: bytes in, [`FlowKey`] and [`Layout`] out.
//!
//! Ethernet II and IEEE 802.3, up to two VLAN tags (802.1Q, 802.1ad), ARP (RFC 826), IPv4 (RFC 791), IPv6 with
//! hop-by-hop, routing, fragment and destination options (RFC 8200 section 4), TCP (RFC 9293), UDP (RFC 768),
//! ICMP (RFC 792), ICMPv6 (RFC 4443), SCTP ports (RFC 9260) and VXLAN (RFC 7348) with the frame inside it.
//!
//! Lengths are checked against the headers around them, so what the layout points at is there. Checksums are not
//! verified here (a frame with an offloaded checksum has none yet). Nothing in the payload is read.

mod general;
mod malformed;

pub use malformed::Malformed;

use crate::field::{INNER_BASE, LAYER_OUTER_PRESENT, OUTER_BASE, USED_WORDS_END};
use crate::key::FlowKey;
use crate::layout::{L3Kind, LayerLayout, Layout};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseOptions {
    /// UDP destination port of VXLAN, host order; 0 recognises no VXLAN. 4789 is IANA's.
    pub vxlan_port: u16,
    /// Whether to parse the frame inside VXLAN. When not, the VNI is still found.
    pub inner: bool,
}

impl ParseOptions {
    /// VXLAN on port 4789, inner headers parsed.
    pub const VXLAN: ParseOptions = ParseOptions {
        vxlan_port: 4789,
        inner: true,
    };
    /// No tunnel is looked for.
    pub const PLAIN: ParseOptions = ParseOptions {
        vxlan_port: 0,
        inner: false,
    };
}

impl Default for ParseOptions {
    fn default() -> ParseOptions {
        ParseOptions::VXLAN
    }
}

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) const PROTO_ICMP: u8 = 1;
pub(crate) const PROTO_TCP: u8 = 6;
pub(crate) const PROTO_UDP: u8 = 17;
pub(crate) const PROTO_ICMPV6: u8 = 58;
pub(crate) const PROTO_SCTP: u8 = 132;

const ETH_LEN: usize = 14;
/// Ethernet, IPv4 without options and the first eight bytes of L4: what the short way reads unconditionally.
const FAST_LEN: usize = 42;

/// Parses a frame.
///
/// `header` holds the first bytes of the frame ([`HEADER_MAX`](crate::HEADER_MAX) of them are used at most), and
/// `frame_len` is the length of the whole frame in bytes; `header` may be shorter than the frame. Of `key`, word 0
/// and the network of word 1 are the caller's and stay; everything else is written. `layout` is written whole.
///
/// # Errors
/// The first header that is cut short or contradicts itself or the header around it. The key and layout then hold
/// the headers before it.
#[inline]
pub fn parse(
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: ParseOptions,
) -> Result<(), Malformed> {
    if let Some(first) = header.first_chunk::<FAST_LEN>()
        && parse_plain_ipv4(first, header, frame_len, key, layout, options)
    {
        return Ok(());
    }
    general::parse(header, frame_len, key, layout, options)
}

#[inline(always)]
fn be64<const AT: usize>(bytes: &[u8; FAST_LEN]) -> u64 {
    const { assert!(AT + 8 <= FAST_LEN) };
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[AT..AT + 8]);
    u64::from_be_bytes(word)
}

/// The common case in straight-line code: untagged Ethernet, IPv4 without options or fragmentation, TCP or UDP that
/// is not VXLAN, every length sound. Returns false, having written nothing, for anything else.
#[inline(always)]
fn parse_plain_ipv4(
    first: &[u8; FAST_LEN],
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: ParseOptions,
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
        if udp_len < 8 || 20 + udp_len > total_len || (port == options.vxlan_port && port != 0) {
            return false;
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
    words[INNER_BASE..USED_WORDS_END].fill(0);
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

#[cfg(test)]
mod tests;
