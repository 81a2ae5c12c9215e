//! The parser for every frame: the reference that the short way for plain IPv4 must agree with.

use super::{
    ETH_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN,
    Malformed, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, ParseOptions,
};
use crate::HEADER_MAX;
use crate::field::{
    ETHERTYPE_LENGTH, FRAGMENT_ANY, FRAGMENT_LATER, INNER_BASE, LAYER_INNER_PRESENT,
    LAYER_OUTER_PRESENT, OUTER_BASE, USED_WORDS_END, VLAN_PRESENT,
};
use crate::key::{FlowKey, WORDS};
use crate::layout::{L3Kind, LayerLayout, Layout};

/// IPv6 extension headers followed before a packet is refused.
const EXTENSIONS_MAX: usize = 8;
/// VXLAN flags with only the I bit, which says that the VNI is valid (RFC 7348 section 5).
const VXLAN_VALID: u8 = 0x08;

const NEXT_HOP_BY_HOP: u8 = 0;
const NEXT_ROUTING: u8 = 43;
const NEXT_FRAGMENT: u8 = 44;
const NEXT_DESTINATION: u8 = 60;

/// The captured bytes and how far the innermost enclosing length says that data goes.
struct Input<'a> {
    bytes: &'a [u8],
    end: usize,
}

impl<'a> Input<'a> {
    /// `N` bytes at `at`: `fault` if the enclosing header ends before them, too long if only the capture does.
    #[inline(always)]
    fn take<const N: usize>(&self, at: usize, fault: Malformed) -> Result<&'a [u8; N], Malformed> {
        if at + N > self.end {
            return Err(fault);
        }
        self.bytes
            .get(at..)
            .and_then(|b| b.first_chunk())
            .ok_or(Malformed::HeaderTooLong)
    }

    /// The same for a length known only at run time.
    #[inline(always)]
    fn require(&self, at: usize, len: usize, fault: Malformed) -> Result<(), Malformed> {
        if at + len > self.end {
            Err(fault)
        } else if at + len > self.bytes.len() {
            Err(Malformed::HeaderTooLong)
        } else {
            Ok(())
        }
    }
}

#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..).and_then(|b| b.first_chunk()) {
        Some(b) => u16::from_be_bytes(*b),
        None => 0,
    }
}

#[inline(always)]
fn be32(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..).and_then(|b| b.first_chunk()) {
        Some(b) => u32::from_be_bytes(*b),
        None => 0,
    }
}

#[inline(always)]
fn be64(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|b| b.first_chunk()) {
        Some(b) => u64::from_be_bytes(*b),
        None => 0,
    }
}

#[inline(never)]
pub(super) fn parse(
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: ParseOptions,
) -> Result<(), Malformed> {
    let words = &mut key.0;
    words[1] &= 0xffff_ffff;
    words[OUTER_BASE..USED_WORDS_END].fill(0);
    *layout = Layout::EMPTY;

    let captured = header.len().min(HEADER_MAX).min(frame_len);
    let mut input = Input {
        bytes: &header[..captured],
        end: frame_len,
    };
    let [outer, inner] = &mut layout.layers;
    let tunnel = parse_layer::<OUTER_BASE>(&mut input, 0, words, outer, options)?;
    if let Some(at) = tunnel
        && options.inner
    {
        let plain = ParseOptions {
            vxlan_port: 0,
            ..options
        };
        parse_layer::<INNER_BASE>(&mut input, at, words, inner, plain)?;
    }
    Ok(())
}

/// Parses the frame at `start` into the layer at word `BASE`. Returns where the frame inside VXLAN starts.
#[inline(always)]
fn parse_layer<const BASE: usize>(
    input: &mut Input<'_>,
    start: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: ParseOptions,
) -> Result<Option<usize>, Malformed> {
    let eth = input.take::<ETH_LEN>(start, Malformed::Ethernet)?;
    let present = if BASE == OUTER_BASE {
        LAYER_OUTER_PRESENT
    } else {
        LAYER_INNER_PRESENT
    };
    words[1] |= u64::from(present) << 32;
    let mut ethertype = be16(eth, 12);
    let mut at = start + ETH_LEN;
    layer.eth = start as u16;
    layer.payload = at as u16;
    words[BASE + 1] = be64(eth, 6) & !0xffff;

    if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
        layer.vlan = (at - 2) as u16;
        let tag = input.take::<4>(at, Malformed::Vlan)?;
        words[BASE + 1] |= u64::from(be16(tag, 0) | VLAN_PRESENT);
        ethertype = be16(tag, 2);
        layer.vlan_tags = 1;
        at += 4;
        if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
            let tag = input.take::<4>(at, Malformed::Vlan)?;
            words[BASE + 7] |= u64::from(be16(tag, 0) | VLAN_PRESENT);
            ethertype = be16(tag, 2);
            layer.vlan_tags = 2;
            at += 4;
        }
        layer.payload = at as u16;
    }
    let named = if ethertype < 0x0600 {
        ETHERTYPE_LENGTH
    } else {
        ethertype
    };
    words[BASE] = be64(eth, 0) & !0xffff | u64::from(named);

    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4::<BASE>(input, at, words, layer, options),
        ETHERTYPE_IPV6 => parse_ipv6::<BASE>(input, at, words, layer, options),
        ETHERTYPE_ARP => parse_arp::<BASE>(input, at, words, layer).map(|()| None),
        _ => Ok(None),
    }
}

#[inline(always)]
fn parse_arp<const BASE: usize>(
    input: &Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
) -> Result<(), Malformed> {
    let kind = input.take::<8>(at, Malformed::Arp)?;
    // Hardware Ethernet, protocol IPv4, address lengths 6 and 4; other ARP is passed on as an unknown protocol.
    if be64(kind, 0) >> 16 != 0x0001_0800_0604 {
        return Ok(());
    }
    let arp = input.take::<28>(at, Malformed::Arp)?;
    words[BASE + 2] = u64::from(be16(arp, 6)) << 32;
    words[BASE + 3] = u64::from(be32(arp, 14));
    words[BASE + 5] = u64::from(be32(arp, 24));
    layer.l3 = at as u16;
    layer.l3_len = 28;
    layer.l3_kind = L3Kind::Arp;
    layer.payload = (at + 28) as u16;
    Ok(())
}

#[inline(always)]
fn parse_ipv4<const BASE: usize>(
    input: &mut Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: ParseOptions,
) -> Result<Option<usize>, Malformed> {
    let ip = input.take::<20>(at, Malformed::Ipv4Header)?;
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header_len < 20 {
        return Err(Malformed::Ipv4Header);
    }
    let total_len = usize::from(be16(ip, 2));
    if total_len < header_len || at + total_len > input.end {
        return Err(Malformed::Ipv4Length);
    }
    input.end = at + total_len;
    input.require(at, header_len, Malformed::Ipv4Header)?;
    let fragment = be16(ip, 6) & 0x3fff;
    let later = fragment & 0x1fff != 0;
    let proto = ip[9];
    words[BASE + 2] = u64::from(proto) << 24 | u64::from(ip[1]) << 16 | u64::from(ip[8]) << 8;
    words[BASE + 3] = u64::from(be32(ip, 12));
    words[BASE + 5] = u64::from(be32(ip, 16));
    layer.l3 = at as u16;
    layer.l3_len = header_len as u16;
    layer.l3_kind = L3Kind::Ipv4;
    layer.l4_proto = proto;
    layer.payload = (at + header_len) as u16;
    if fragment != 0 {
        mark_fragment::<BASE>(words, layer, later);
        if later {
            return Ok(None);
        }
    }
    parse_l4::<BASE>(input, at + header_len, words, layer, options)
}

#[inline(always)]
fn mark_fragment<const BASE: usize>(
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    later: bool,
) {
    let bits = if later {
        FRAGMENT_ANY | FRAGMENT_LATER
    } else {
        FRAGMENT_ANY
    };
    words[BASE + 7] |= u64::from(bits) << 32;
    layer.flags |= LayerLayout::FRAGMENT;
}

#[inline(always)]
fn parse_ipv6<const BASE: usize>(
    input: &mut Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: ParseOptions,
) -> Result<Option<usize>, Malformed> {
    let ip = input.take::<40>(at, Malformed::Ipv6Header)?;
    if ip[0] >> 4 != 6 {
        return Err(Malformed::Ipv6Header);
    }
    let l4 = at + 40;
    let payload_len = usize::from(be16(ip, 4));
    if l4 + payload_len > input.end {
        return Err(Malformed::Ipv6Length);
    }
    input.end = l4 + payload_len;
    let class = be16(ip, 0) >> 4 & 0xff;
    let next = ip[6];
    words[BASE + 2] = u64::from(class) << 16 | u64::from(ip[7]) << 8;
    words[BASE + 3] = be64(ip, 16);
    words[BASE + 4] = be64(ip, 8);
    words[BASE + 5] = be64(ip, 32);
    words[BASE + 6] = be64(ip, 24);
    layer.l3 = at as u16;
    layer.l3_len = 40;
    layer.l3_kind = L3Kind::Ipv6;
    layer.payload = l4 as u16;

    let (proto, l4) = match next {
        NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_DESTINATION => {
            let (proto, l4, later) = skip_extensions::<BASE>(input, next, l4, words, layer)?;
            layer.l3_len = (l4 - at) as u16;
            layer.payload = l4 as u16;
            if later {
                layer.l4_proto = proto;
                words[BASE + 2] |= u64::from(proto) << 24;
                return Ok(None);
            }
            (proto, l4)
        }
        other => (other, l4),
    };
    layer.l4_proto = proto;
    words[BASE + 2] |= u64::from(proto) << 24;
    parse_l4::<BASE>(input, l4, words, layer, options)
}

/// Walks extension headers. Returns the protocol after them, where it starts, and whether it is not there because
/// the packet is a later fragment.
#[inline(never)]
fn skip_extensions<const BASE: usize>(
    input: &Input<'_>,
    mut next: u8,
    mut at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
) -> Result<(u8, usize, bool), Malformed> {
    for _ in 0..EXTENSIONS_MAX {
        match next {
            NEXT_FRAGMENT => {
                let header = input.take::<8>(at, Malformed::Ipv6Extension)?;
                next = header[0];
                at += 8;
                let offset_more = be16(header, 2) & 0xfff9;
                // An atomic fragment (offset zero, none to follow) is a whole packet (RFC 6946).
                if offset_more != 0 {
                    let later = offset_more & 0xfff8 != 0;
                    mark_fragment::<BASE>(words, layer, later);
                    if later {
                        return Ok((next, at, true));
                    }
                }
            }
            NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION => {
                let header = input.take::<8>(at, Malformed::Ipv6Extension)?;
                let len = usize::from(header[1]) * 8 + 8;
                input.require(at, len, Malformed::Ipv6Extension)?;
                if next == NEXT_ROUTING && header[3] != 0 {
                    layer.flags |= LayerLayout::ROUTED;
                }
                next = header[0];
                at += len;
            }
            _ => return Ok((next, at, false)),
        }
    }
    match next {
        NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_DESTINATION => {
            Err(Malformed::Ipv6Extension)
        }
        _ => Ok((next, at, false)),
    }
}

#[inline(always)]
fn parse_l4<const BASE: usize>(
    input: &mut Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: ParseOptions,
) -> Result<Option<usize>, Malformed> {
    let header_len;
    match layer.l4_proto {
        PROTO_TCP => {
            let tcp = input.take::<20>(at, Malformed::Tcp)?;
            header_len = usize::from(tcp[12] >> 4) * 4;
            if header_len < 20 {
                return Err(Malformed::Tcp);
            }
            input.require(at, header_len, Malformed::Tcp)?;
            words[BASE + 2] |= u64::from(be32(tcp, 0)) << 32 | u64::from(tcp[13]);
        }
        PROTO_UDP => {
            let udp = input.take::<8>(at, Malformed::Udp)?;
            let len = usize::from(be16(udp, 4));
            // The first fragment of a datagram carries the length of the whole.
            if len < 8 || (at + len > input.end && !layer.is_fragment()) {
                return Err(Malformed::Udp);
            }
            words[BASE + 2] |= u64::from(be32(udp, 0)) << 32;
            header_len = 8;
            let port = be16(udp, 2);
            if BASE == OUTER_BASE
                && port == options.vxlan_port
                && port != 0
                && len >= 16
                && !layer.is_fragment()
            {
                layer.l4 = at as u16;
                layer.payload = (at + 8) as u16;
                return parse_vxlan::<BASE>(input, at + 8, at + len, words);
            }
        }
        PROTO_ICMP if layer.l3_kind == L3Kind::Ipv4 => {
            let icmp = input.take::<8>(at, Malformed::Icmp)?;
            words[BASE + 2] |= u64::from(icmp[0]) << 48 | u64::from(icmp[1]) << 32;
            header_len = 8;
        }
        PROTO_ICMPV6 if layer.l3_kind == L3Kind::Ipv6 => {
            let icmp = input.take::<4>(at, Malformed::Icmpv6)?;
            words[BASE + 2] |= u64::from(icmp[0]) << 48 | u64::from(icmp[1]) << 32;
            header_len = 4;
        }
        PROTO_SCTP => {
            let sctp = input.take::<12>(at, Malformed::Sctp)?;
            words[BASE + 2] |= u64::from(be32(sctp, 0)) << 32;
            header_len = 12;
        }
        _ => return Ok(None),
    }
    layer.l4 = at as u16;
    layer.payload = (at + header_len) as u16;
    Ok(None)
}

/// A UDP datagram to the VXLAN port that is long enough for the header: VXLAN if its flags say so.
#[inline(always)]
fn parse_vxlan<const BASE: usize>(
    input: &mut Input<'_>,
    at: usize,
    end: usize,
    words: &mut [u64; WORDS],
) -> Result<Option<usize>, Malformed> {
    let vxlan = input.take::<8>(at, Malformed::Udp)?;
    if vxlan[0] & VXLAN_VALID == 0 {
        return Ok(None);
    }
    input.end = end;
    words[BASE + 7] |= u64::from(be32(vxlan, 4) >> 8) << 40 | 1 << 39;
    Ok(Some(at + 8))
}
