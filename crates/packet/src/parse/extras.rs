//! The extra fields of a key (words 24 to 39), fetched from a frame whose headers were found: only when asked for.
//!
//! Neighbour discovery is RFC 4861 section 4, with the first option of each kind, as receivers take it. What decides about a
//! neighbour must not hide behind the captured bytes, so a solicitation or advertisement that reaches beyond
//! [`HEADER_MAX`] is refused; options of router advertisements and redirects beyond it are not seen.

use super::general::{
    NEXT_AUTH, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ROUTING, extension_len,
};
use super::input::{Input, be16, be32, be64};
use super::tunnel::{LABELS_MAX, geneve_options, gtpu_extensions};
use super::{
    Malformed, PROTO_ESP, PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, ParseOptions,
    RawBase, RawExtract,
};
use crate::HEADER_MAX;
use crate::field::{
    EXTRA_BASE, FRAGMENT_LATER, FRAGMENT_SHIFT, GENEVE_DATA, IP_EXTRA, IPV6_EXT_AUTH,
    IPV6_EXT_DESTINATION, IPV6_EXT_ESP, IPV6_EXT_FRAGMENT, IPV6_EXT_HIP, IPV6_EXT_HOP_BY_HOP,
    IPV6_EXT_MOBILITY, IPV6_EXT_ROUTING, IPV6_EXT_SHIM6, L4_EXTRA, MPLS, ND_SOURCE_LINK, ND_TARGET,
    ND_TARGET_LINK, OUTER_BASE, RAW, TUNNEL_EXTRA, TunnelKind,
};
use crate::key::{FlowKey, WORDS};
use crate::layout::{L3Kind, LayerLayout, Layout};

const PROTO_MOBILITY: u8 = 135;
const PROTO_HIP: u8 = 139;
const PROTO_SHIM6: u8 = 140;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const OPTION_SOURCE_LINK: u8 = 1;
const OPTION_TARGET_LINK: u8 = 2;
/// The presence bit of a link-layer address option.
const PRESENT: u64 = 1 << 63;

const RAW_PRESENT: u64 = 1 << 2;

/// Writes the extra fields of the frame that `layout` describes.
#[inline(never)]
pub(super) fn fetch(
    header: &[u8],
    frame_len: usize,
    key: &mut FlowKey,
    layout: &Layout,
    options: &ParseOptions,
) -> Result<(), Malformed> {
    let words = &mut key.0;
    words[EXTRA_BASE..].fill(0);
    let captured = header.len().min(HEADER_MAX).min(frame_len);
    let input = Input {
        bytes: &header[..captured],
        end: frame_len,
    };
    for (index, layer) in layout.layers.iter().enumerate() {
        fetch_layer(input, index, layer, words)?;
    }
    fetch_tunnel(input, layout.outer(), words, options)?;
    if let Some(raw) = options.raw {
        fetch_raw(input, layout, words, raw)?;
    }
    Ok(())
}

fn fetch_layer(
    input: Input<'_>,
    index: usize,
    layer: &LayerLayout,
    words: &mut [u64; WORDS],
) -> Result<(), Malformed> {
    let (bytes, l3, l4) = (input.bytes, usize::from(layer.l3), usize::from(layer.l4));
    let end = match layer.l3_kind {
        L3Kind::Ipv4 => {
            let first = be64(bytes, l3);
            words[IP_EXTRA + index] = first & 0xff << 56 | (first & 0xffff_ffff) << 24;
            l3 + usize::from(be16(bytes, l3 + 2))
        }
        L3Kind::Ipv6 => {
            words[IP_EXTRA + index] = ipv6_extra(bytes, layer);
            l3 + 40 + usize::from(be16(bytes, l3 + 4))
        }
        L3Kind::Arp => {
            words[ND_TARGET] = be64(bytes, l3 + 8) >> 16;
            words[ND_TARGET + 1] = be64(bytes, l3 + 18) >> 16;
            return Ok(());
        }
        L3Kind::None => return Ok(()),
    };
    if l4 == 0 {
        return Ok(());
    }
    words[L4_EXTRA + index] = match layer.l4_proto {
        PROTO_TCP | PROTO_SCTP => be64(bytes, l4 + 4),
        PROTO_UDP | PROTO_ESP | PROTO_ICMP => u64::from(be32(bytes, l4 + 4)) << 32,
        PROTO_ICMPV6 => {
            let message = Input { bytes, end };
            if !layer.is_fragment() {
                fetch_neighbour(message, l4, words)?;
            }
            if l4 + 8 > end {
                return Ok(());
            }
            u64::from(be32(message.take::<4>(l4 + 4, Malformed::Icmpv6)?, 0)) << 32
        }
        _ => 0,
    };
    Ok(())
}

/// What [`Field::IpExtra`](crate::Field::IpExtra) holds for IPv6. The extension headers are whole, the parser saw to it.
fn ipv6_extra(bytes: &[u8], layer: &LayerLayout) -> u64 {
    let l3 = usize::from(layer.l3);
    let end = l3 + usize::from(layer.l3_len);
    let (mut next, mut at) = (be16(bytes, l3 + 6) >> 8, l3 + 40);
    let (mut present, mut fragment_id) = (0, 0);
    while at + 8 <= end {
        let kind = next as u8;
        present |= match kind {
            NEXT_HOP_BY_HOP => IPV6_EXT_HOP_BY_HOP,
            NEXT_ROUTING => IPV6_EXT_ROUTING,
            NEXT_FRAGMENT => {
                fragment_id = be32(bytes, at + 4);
                IPV6_EXT_FRAGMENT
            }
            NEXT_AUTH => IPV6_EXT_AUTH,
            NEXT_DESTINATION => IPV6_EXT_DESTINATION,
            _ => break,
        };
        let head = be16(bytes, at);
        next = head >> 8;
        at += extension_len(kind, head as u8);
    }
    present |= match layer.l4_proto {
        PROTO_ESP => IPV6_EXT_ESP,
        PROTO_MOBILITY => IPV6_EXT_MOBILITY,
        PROTO_HIP => IPV6_EXT_HIP,
        PROTO_SHIM6 => IPV6_EXT_SHIM6,
        _ => 0,
    };
    let flow_label = u64::from(be32(bytes, l3) & 0xf_ffff);
    flow_label << 44 | u64::from(present) << 32 | u64::from(fragment_id)
}

/// The ICMPv6 message at `l4`, if it is neighbour discovery.
fn fetch_neighbour(
    message: Input<'_>,
    l4: usize,
    words: &mut [u64; WORDS],
) -> Result<(), Malformed> {
    let fault = Malformed::NeighbourDiscovery;
    let kind = message.take::<1>(l4, fault)?[0];
    let options = match kind {
        ROUTER_SOLICITATION => 8,
        ROUTER_ADVERTISEMENT => 16,
        SOLICITATION | ADVERTISEMENT => 24,
        REDIRECT => 40,
        _ => return Ok(()),
    };
    if options >= 24 {
        let target = message.take::<16>(l4 + 8, fault)?;
        words[ND_TARGET] = be64(target, 8);
        words[ND_TARGET + 1] = be64(target, 0);
    }
    let mut at = l4 + options;
    if at > message.end {
        return Err(fault);
    }
    // What the capture cuts off is fetched by who captured less than the most; beyond that see the file's header.
    let may_end =
        message.bytes.len() >= HEADER_MAX && matches!(kind, ROUTER_ADVERTISEMENT | REDIRECT);
    while at < message.end {
        let option = match message.take::<8>(at, fault) {
            Err(Malformed::HeaderTooLong) if may_end => return Ok(()),
            other => other?,
        };
        let len = usize::from(option[1]) * 8;
        if len == 0 || at + len > message.end {
            return Err(fault);
        }
        let word = match option[0] {
            OPTION_SOURCE_LINK => &mut words[ND_SOURCE_LINK],
            OPTION_TARGET_LINK => &mut words[ND_TARGET_LINK],
            _ => {
                at += len;
                continue;
            }
        };
        if *word == 0 {
            *word = PRESENT | be64(option, 0) & 0xffff_ffff_ffff;
        }
        at += len;
    }
    Ok(())
}

fn fetch_tunnel(
    input: Input<'_>,
    outer: &LayerLayout,
    words: &mut [u64; WORDS],
    options: &ParseOptions,
) -> Result<(), Malformed> {
    let (bytes, at) = (input.bytes, usize::from(outer.payload));
    let head = u64::from(be32(bytes, at));
    words[TUNNEL_EXTRA] = match outer.tunnel_kind() {
        TunnelKind::None | TunnelKind::Esp => 0,
        TunnelKind::Vxlan => head >> 24 << 56,
        TunnelKind::VxlanGpe => head >> 24 << 56 | (head & 0xff) << 32,
        TunnelKind::Gre => head << 32,
        TunnelKind::Geneve => head << 32 | fetch_geneve(bytes, at, words, options)?,
        TunnelKind::Gtpu => {
            let (_, session) = gtpu_extensions(input, at)?;
            head >> 16 << 48 | u64::from(session) << 16
        }
        TunnelKind::Mpls => {
            const { assert!(LABELS_MAX >= 2) };
            let second = if head & 0x100 != 0 {
                0
            } else {
                be32(bytes, at + 4)
            };
            words[MPLS] = head << 32 | u64::from(second);
            0
        }
    };
    Ok(())
}

/// Fetches the options asked for; which ones are there as bits.
fn fetch_geneve(
    bytes: &[u8],
    at: usize,
    words: &mut [u64; WORDS],
    options: &ParseOptions,
) -> Result<u64, Malformed> {
    let mut present = 0;
    let len = usize::from(be16(bytes, at) >> 8 & 0x3f) * 4;
    geneve_options(bytes, at + 8, len, |class, kind, data| {
        for (slot, wanted) in options.geneve_options.iter().enumerate() {
            let Some(wanted) = wanted else { continue };
            if (wanted.class, wanted.kind) == (class, kind) && present >> slot & 1 == 0 {
                present |= 1 << slot;
                let value = number(data.get(..usize::from(wanted.len)).unwrap_or(data));
                words[GENEVE_DATA + 2 * slot] = value as u64;
                words[GENEVE_DATA + 2 * slot + 1] = (value >> 64) as u64;
            }
        }
    })?;
    Ok(present)
}

/// The first 16 bytes as a number, zeros after those there are.
fn number(bytes: &[u8]) -> u128 {
    let mut whole = [0; 16];
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    u128::from_be_bytes(whole)
}

fn fetch_raw(
    input: Input<'_>,
    layout: &Layout,
    words: &mut [u64; WORDS],
    raw: RawExtract,
) -> Result<(), Malformed> {
    let outer = layout.outer();
    let later_fragment = words[OUTER_BASE + 7] >> FRAGMENT_SHIFT & u64::from(FRAGMENT_LATER) != 0;
    let base = match raw.base {
        RawBase::L2 => 0,
        RawBase::L3 if outer.l3 != 0 => outer.l3,
        RawBase::L4 if matches!(outer.l3_kind, L3Kind::Ipv4 | L3Kind::Ipv6) && !later_fragment => {
            outer.l3 + outer.l3_len
        }
        RawBase::TunnelPayload if layout.has_inner() => layout.layers[1].eth,
        _ => return Ok(()),
    };
    let from = usize::from(base) + usize::from(raw.offset);
    let to = from + usize::from(raw.len.min(16));
    match input.bytes.get(from..to) {
        Some(bytes) => {
            let value = number(bytes);
            words[RAW] = value as u64;
            words[RAW + 1] = (value >> 64) as u64;
            words[TUNNEL_EXTRA] |= RAW_PRESENT;
            Ok(())
        }
        None if to <= input.end && input.bytes.len() < HEADER_MAX => Err(Malformed::HeaderTooLong),
        None => Ok(()),
    }
}
