//! The parser for every frame: the reference that the short way for plain IPv4 must agree with.

use super::input::{Input, be16, be32, be64};
use super::tunnel::{self, ETHERTYPE_MPLS, ETHERTYPE_MPLS_UPSTREAM, ETHERTYPE_TEB, Inside};
use super::{
    ETH_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN,
    Malformed, PROTO_ESP, PROTO_GRE, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP,
    ParseOptions,
};
use crate::HEADER_MAX;
use crate::field::{
    ETHERTYPE_LENGTH, FRAGMENT_ANY, FRAGMENT_LATER, FRAGMENT_SHIFT, INNER_BASE,
    LAYER_INNER_ETHERNET, LAYER_INNER_PRESENT, LAYER_OUTER_PRESENT, LAYERS_END, OUTER_BASE,
    TUNNEL_KIND_SHIFT, TunnelKind, VLAN_PRESENT,
};
use crate::key::{FlowKey, WORDS};
use crate::layout::{L3Kind, LayerLayout, Layout};

/// Bytes of a frame that count; a longer one is taken for one of this length.
const FRAME_MAX: usize = u32::MAX as usize;
/// IPv6 extension headers followed before a packet is refused; of bytes it is the captured ones.
const EXTENSIONS_MAX: usize = 8;

pub(super) const NEXT_HOP_BY_HOP: u8 = 0;
pub(super) const NEXT_ROUTING: u8 = 43;
pub(super) const NEXT_FRAGMENT: u8 = 44;
pub(super) const NEXT_AUTH: u8 = 51;
pub(super) const NEXT_DESTINATION: u8 = 60;

#[inline(never)]
pub(super) fn parse(
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &mut Layout,
    options: &ParseOptions,
) -> Result<(), Malformed> {
    let words = &mut key.0;
    words[1] &= 0xffff_ffff;
    words[OUTER_BASE..LAYERS_END].fill(0);
    *layout = Layout::EMPTY;

    let captured = header.len().min(HEADER_MAX).min(frame_len);
    let input = Input {
        bytes: &header[..captured],
        end: frame_len.min(FRAME_MAX),
    };
    let [outer, inner] = &mut layout.layers;
    let inside = parse_layer::<OUTER_BASE>(input, 0, words, outer, options)?;
    if !options.inner || inside == Inside::NONE {
        return Ok(());
    }
    let input = Input {
        end: inside.end(),
        ..input
    };
    if inside.ethertype() == ETHERTYPE_TEB {
        parse_layer::<INNER_BASE>(input, inside.at(), words, inner, options).map(|_| ())
    } else {
        parse_bare(input, inside, words, inner, options)
    }
}

/// Parses the IP packet inside a tunnel.
#[inline(never)]
fn parse_bare(
    input: Input<'_>,
    inside: Inside,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Result<(), Malformed> {
    words[1] |= u64::from(LAYER_INNER_PRESENT) << 32;
    words[INNER_BASE] = u64::from(inside.ethertype());
    layer.eth = inside.at() as u16;
    layer.payload = layer.eth;
    layer.flags = LayerLayout::NO_ETHERNET;
    let parsed = parse_network::<INNER_BASE>(
        input,
        inside.ethertype(),
        inside.at(),
        words,
        layer,
        options,
    );
    match parsed {
        Err(fault) if inside.is_guessed() && fault != Malformed::HeaderTooLong => {
            words[1] &= !(u64::from(LAYER_INNER_PRESENT) << 32);
            words[INNER_BASE..LAYERS_END].fill(0);
            *layer = LayerLayout::EMPTY;
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// Parses the frame at `start` into the layer at word `BASE`. Returns the packet inside a tunnel.
#[inline(always)]
fn parse_layer<const BASE: usize>(
    input: Input<'_>,
    start: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Result<Inside, Malformed> {
    let eth = input.take::<ETH_LEN>(start, Malformed::Ethernet)?;
    let present = if BASE == OUTER_BASE {
        LAYER_OUTER_PRESENT
    } else {
        LAYER_INNER_PRESENT | LAYER_INNER_ETHERNET
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

    parse_network::<BASE>(input, ethertype, at, words, layer, options)
}

/// Parses what follows a link header.
#[inline(always)]
fn parse_network<const BASE: usize>(
    input: Input<'_>,
    ethertype: u16,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Result<Inside, Malformed> {
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4::<BASE>(input, at, words, layer, options),
        ETHERTYPE_IPV6 => parse_ipv6::<BASE>(input, at, words, layer, options),
        ETHERTYPE_ARP => parse_arp::<BASE>(input, at, words, layer).map(|()| Inside::NONE),
        ETHERTYPE_MPLS | ETHERTYPE_MPLS_UPSTREAM if BASE == OUTER_BASE && options.mpls => {
            tunnel::parse_mpls(input, at, words, layer)
        }
        _ => Ok(Inside::NONE),
    }
}

#[inline(always)]
fn parse_arp<const BASE: usize>(
    input: Input<'_>,
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
    mut input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Result<Inside, Malformed> {
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
            return Ok(Inside::NONE);
        }
    }
    parse_l4::<BASE>(input, at + header_len, words, layer, options)
}

/// Notes that the layer carries a tunnel.
#[inline(always)]
pub(super) fn mark_tunnel<const BASE: usize>(
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    kind: TunnelKind,
    id: u32,
) {
    words[BASE + 7] |= u64::from(id) << 32 | (kind as u64) << TUNNEL_KIND_SHIFT;
    layer.flags |= (kind as u8) << LayerLayout::TUNNEL_SHIFT;
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
    words[BASE + 7] |= u64::from(bits) << FRAGMENT_SHIFT;
    layer.flags |= LayerLayout::FRAGMENT;
}

#[inline(always)]
fn parse_ipv6<const BASE: usize>(
    mut input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Result<Inside, Malformed> {
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
        NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_AUTH | NEXT_DESTINATION => {
            let (proto, l4, later) = skip_extensions::<BASE>(input, next, l4, words, layer)?;
            layer.l3_len = (l4 - at) as u16;
            layer.payload = l4 as u16;
            if later {
                layer.l4_proto = proto;
                words[BASE + 2] |= u64::from(proto) << 24;
                return Ok(Inside::NONE);
            }
            (proto, l4)
        }
        other => (other, l4),
    };
    layer.l4_proto = proto;
    words[BASE + 2] |= u64::from(proto) << 24;
    parse_l4::<BASE>(input, l4, words, layer, options)
}

/// Length of the extension header of type `kind` whose length field is `field`. That of an authentication header
/// counts in four bytes (RFC 4302 section 2.2), the others in eight.
#[inline(always)]
pub(super) const fn extension_len(kind: u8, field: u8) -> usize {
    match kind {
        NEXT_AUTH => field as usize * 4 + 8,
        NEXT_FRAGMENT => 8,
        _ => field as usize * 8 + 8,
    }
}

/// Walks extension headers. Returns the protocol after them, where it starts, and whether it is not there because
/// the packet is a later fragment.
#[inline(never)]
fn skip_extensions<const BASE: usize>(
    input: Input<'_>,
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
            NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_AUTH | NEXT_DESTINATION => {
                let header = input.take::<8>(at, Malformed::Ipv6Extension)?;
                let len = extension_len(next, header[1]);
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
        NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_AUTH | NEXT_DESTINATION => {
            Err(Malformed::Ipv6Extension)
        }
        _ => Ok((next, at, false)),
    }
}

#[inline(always)]
fn parse_l4<const BASE: usize>(
    input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Result<Inside, Malformed> {
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
            if BASE == OUTER_BASE && options.may_be_tunnel(port) && !layer.is_fragment() {
                layer.l4 = at as u16;
                layer.payload = (at + 8) as u16;
                return tunnel::parse_udp(input, port, at + 8, at + len, words, layer, options);
            }
        }
        _ => return parse_rare_l4::<BASE>(input, at, words, layer, options),
    }
    layer.l4 = at as u16;
    layer.payload = (at + header_len) as u16;
    Ok(Inside::NONE)
}

/// What is neither TCP nor UDP, out of their way.
#[inline(never)]
fn parse_rare_l4<const BASE: usize>(
    input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Result<Inside, Malformed> {
    let header_len = match layer.l4_proto {
        PROTO_ICMP if layer.l3_kind == L3Kind::Ipv4 => {
            let icmp = input.take::<8>(at, Malformed::Icmp)?;
            words[BASE + 2] |= u64::from(icmp[0]) << 48 | u64::from(icmp[1]) << 32;
            8
        }
        PROTO_ICMPV6 if layer.l3_kind == L3Kind::Ipv6 => {
            let icmp = input.take::<4>(at, Malformed::Icmpv6)?;
            words[BASE + 2] |= u64::from(icmp[0]) << 48 | u64::from(icmp[1]) << 32;
            4
        }
        PROTO_SCTP => {
            let sctp = input.take::<12>(at, Malformed::Sctp)?;
            words[BASE + 2] |= u64::from(be32(sctp, 0)) << 32;
            12
        }
        PROTO_ESP => {
            let esp = input.take::<8>(at, Malformed::Esp)?;
            mark_tunnel::<BASE>(words, layer, TunnelKind::Esp, be32(esp, 0));
            8
        }
        PROTO_GRE if BASE == OUTER_BASE && options.gre && !layer.is_fragment() => {
            return tunnel::parse_gre(input, at, words, layer);
        }
        _ => return Ok(Inside::NONE),
    };
    layer.l4 = at as u16;
    layer.payload = (at + header_len) as u16;
    Ok(Inside::NONE)
}
