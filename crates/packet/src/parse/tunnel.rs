//! Tunnel headers: VXLAN (RFC 7348), VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe), Geneve (RFC 8926), GRE (RFC 2784, RFC 2890),
//! GTP-U (3GPP TS 29.281) and MPLS (RFC 3032). Says where the packet inside starts; never reads into it but for the
//! first four bits, where no header says what it is.

use super::general::mark_tunnel;
use super::input::{Input, be16, be32};
use super::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Malformed, ParseOptions};
use crate::field::{GRE_KEY_SHIFT, OUTER_BASE, TunnelKind};
use crate::key::WORDS;
use crate::layout::LayerLayout;

/// EtherType of an Ethernet frame in GRE and Geneve (transparent Ethernet bridging).
pub(crate) const ETHERTYPE_TEB: u16 = 0x6558;
/// EtherType of MPLS unicast.
pub(crate) const ETHERTYPE_MPLS: u16 = 0x8847;
/// EtherType of MPLS with an upstream-assigned label.
pub(crate) const ETHERTYPE_MPLS_UPSTREAM: u16 = 0x8848;

/// MPLS labels followed; a deeper stack is not looked under.
pub(crate) const LABELS_MAX: usize = 8;
/// GTP-U extension headers followed before a packet is refused.
const GTPU_EXTENSIONS_MAX: usize = 8;

/// VXLAN flag I: the VNI is valid.
pub(super) const VXLAN_VALID: u8 = 0x08;
/// VXLAN-GPE flag P: the next protocol field is valid. Without it the payload is Ethernet.
const GPE_PROTOCOL: u8 = 0x04;
/// VXLAN-GPE version, which is zero.
const GPE_VERSION: u8 = 0x30;
/// GRE flags: checksum, key and sequence number are there.
pub(crate) const GRE_CHECKSUM: u16 = 0x8000;
pub(crate) const GRE_KEY: u16 = 0x2000;
pub(crate) const GRE_SEQUENCE: u16 = 0x1000;
/// GRE bits 1, 4 and 5: who does not know RFC 1701 must not look further (RFC 2784 section 2.2).
const GRE_UNKNOWN: u16 = 0x4c00;
const GRE_VERSION: u16 = 0x0007;
/// GTP-U message type of a user packet.
pub(crate) const GTPU_PDU: u8 = 255;
/// GTP-U extension header type of the PDU session container (3GPP TS 38.415).
const GTPU_SESSION: u8 = 0x85;

/// A packet inside a tunnel, or none; one register, as it goes through the common way of every packet. From the lowest
/// bit: what it is ([`ETHERTYPE_TEB`], IPv4 or IPv6; 16 bits), where it starts (15), whether no header said what it is,
/// so that what makes no sense as such is opaque rather than malformed (1), where the tunnel says that it ends (32).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Inside(u64);

type Found = Result<Inside, Malformed>;

impl Inside {
    pub const NONE: Inside = Inside(0);
    const GUESSED: u64 = 1 << 31;

    #[inline(always)]
    fn stated(input: Input<'_>, at: usize, ethertype: u16) -> Inside {
        if matches!(ethertype, ETHERTYPE_TEB | ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
            // Both are bounded: `at` by the captured bytes, `end` by the parser's limit on frames.
            Inside((input.end as u64) << 32 | (at as u64) << 16 | u64::from(ethertype))
        } else {
            Inside::NONE
        }
    }

    /// From the version of an IP header, if there is one.
    fn guessed(input: Input<'_>, at: usize) -> Found {
        if at >= input.end {
            return Ok(Inside::NONE);
        }
        let first = input.bytes.get(at).ok_or(Malformed::HeaderTooLong)?;
        let ethertype = match first >> 4 {
            4 => ETHERTYPE_IPV4,
            6 => ETHERTYPE_IPV6,
            _ => return Ok(Inside::NONE),
        };
        Ok(Inside(
            Inside::stated(input, at, ethertype).0 | Inside::GUESSED,
        ))
    }

    #[inline(always)]
    pub fn at(self) -> usize {
        (self.0 >> 16 & 0x7fff) as usize
    }

    #[inline(always)]
    pub fn end(self) -> usize {
        (self.0 >> 32) as usize
    }

    #[inline(always)]
    pub fn ethertype(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub fn is_guessed(self) -> bool {
        self.0 & Inside::GUESSED != 0
    }
}

/// The payload, from `at` to `end`, of a UDP datagram to a port that may be a tunnel's. One that is shorter than the
/// tunnel's header, or says that it is something else, is a datagram like any other.
#[inline(always)]
pub(super) fn parse_udp(
    input: Input<'_>,
    port: u16,
    at: usize,
    end: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Found {
    if port == 0 || end - at < 8 {
        return Ok(Inside::NONE);
    }
    if port != options.vxlan_port {
        return parse_other_udp(input, port, at, end, words, layer, options);
    }
    let vxlan = input.take::<8>(at, Malformed::Udp)?;
    if vxlan[0] & VXLAN_VALID == 0 {
        return Ok(Inside::NONE);
    }
    let input = Input { end, ..input };
    mark_tunnel::<OUTER_BASE>(words, layer, TunnelKind::Vxlan, be32(vxlan, 4) >> 8);
    Ok(Inside::stated(input, at + 8, ETHERTYPE_TEB))
}

#[inline(never)]
fn parse_other_udp(
    input: Input<'_>,
    port: u16,
    at: usize,
    end: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
    options: &ParseOptions,
) -> Found {
    let input = Input { end, ..input };
    if port == options.vxlan_gpe_port {
        parse_gpe(input, at, words, layer)
    } else if port == options.geneve_port {
        parse_geneve(input, at, words, layer)
    } else if port == options.gtpu_port {
        parse_gtpu(input, at, words, layer)
    } else {
        Ok(Inside::NONE)
    }
}

fn parse_gpe(
    input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
) -> Found {
    let gpe = input.take::<8>(at, Malformed::Udp)?;
    if gpe[0] & (VXLAN_VALID | GPE_VERSION) != VXLAN_VALID {
        return Ok(Inside::NONE);
    }
    mark_tunnel::<OUTER_BASE>(words, layer, TunnelKind::VxlanGpe, be32(gpe, 4) >> 8);
    let ethertype = match (gpe[0] & GPE_PROTOCOL != 0, gpe[3]) {
        (false, _) | (true, 3) => ETHERTYPE_TEB,
        (true, 1) => ETHERTYPE_IPV4,
        (true, 2) => ETHERTYPE_IPV6,
        _ => return Ok(Inside::NONE),
    };
    Ok(Inside::stated(input, at + 8, ethertype))
}

fn parse_geneve(
    input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
) -> Found {
    let geneve = input.take::<8>(at, Malformed::Geneve)?;
    if geneve[0] >> 6 != 0 {
        return Ok(Inside::NONE);
    }
    mark_tunnel::<OUTER_BASE>(words, layer, TunnelKind::Geneve, be32(geneve, 4) >> 8);
    let len = usize::from(geneve[0] & 0x3f) * 4;
    input.require(at + 8, len, Malformed::Geneve)?;
    geneve_options(input.bytes, at + 8, len, |_, _, _| ())?;
    Ok(Inside::stated(input, at + 8 + len, be16(geneve, 2)))
}

/// Walks the Geneve options in `len` bytes from `at`, which are there: class, type and data of each.
pub(super) fn geneve_options<'a>(
    bytes: &'a [u8],
    at: usize,
    len: usize,
    mut each: impl FnMut(u16, u8, &'a [u8]),
) -> Result<(), Malformed> {
    let mut rest = bytes.get(at..at + len).ok_or(Malformed::HeaderTooLong)?;
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<4>().ok_or(Malformed::Geneve)?;
        let data_len = usize::from(head[3] & 0x1f) * 4;
        let (data, after) = after.split_at_checked(data_len).ok_or(Malformed::Geneve)?;
        each(be16(head, 0), head[2], data);
        rest = after;
    }
    Ok(())
}

/// Class and type of each Geneve option in `options` (RFC 8926 section 3.5), as far as they are whole.
pub fn geneve_option_types(options: &[u8]) -> impl Iterator<Item = (u16, u8)> + '_ {
    let mut rest = options;
    core::iter::from_fn(move || {
        let (head, after) = rest.split_first_chunk::<4>()?;
        rest = after.get(usize::from(head[3] & 0x1f) * 4..)?;
        Some((be16(head, 0), head[2]))
    })
}

fn parse_gtpu(
    mut input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
) -> Found {
    let gtp = input.take::<8>(at, Malformed::Gtpu)?;
    // Version 1, and GTP rather than GTP'.
    if gtp[0] & 0xf0 != 0x30 {
        return Ok(Inside::NONE);
    }
    let end = at + 8 + usize::from(be16(gtp, 2));
    if end > input.end {
        return Err(Malformed::Gtpu);
    }
    input.end = end;
    mark_tunnel::<OUTER_BASE>(words, layer, TunnelKind::Gtpu, be32(gtp, 4));
    let (start, _) = gtpu_extensions(input, at)?;
    if gtp[1] != GTPU_PDU {
        return Ok(Inside::NONE);
    }
    Inside::guessed(input, start)
}

/// Walks the optional fields and extension headers of the GTP-U header at `at`. Returns where they end and what
/// [`Field::GtpuSession`](crate::Field::GtpuSession) holds.
pub(super) fn gtpu_extensions(input: Input<'_>, at: usize) -> Result<(usize, u16), Malformed> {
    let flags = input.take::<1>(at, Malformed::Gtpu)?[0];
    let mut session = 0;
    if flags & 0x07 == 0 {
        return Ok((at + 8, session));
    }
    let optional = input.take::<4>(at + 8, Malformed::Gtpu)?;
    let mut at = at + 12;
    // The field is there with any of the flags and means something with E only.
    let mut next = if flags & 0x04 != 0 { optional[3] } else { 0 };
    for _ in 0..GTPU_EXTENSIONS_MAX {
        if next == 0 {
            return Ok((at, session));
        }
        let head = input.take::<4>(at, Malformed::Gtpu)?;
        let len = usize::from(head[0]) * 4;
        if len == 0 {
            return Err(Malformed::Gtpu);
        }
        input.require(at, len, Malformed::Gtpu)?;
        if next == GTPU_SESSION {
            session = 0x8000 | u16::from(head[1] >> 4) << 8 | u16::from(head[2] & 0x3f);
        }
        at += len;
        next = input.take::<1>(at - 1, Malformed::Gtpu)?[0];
    }
    if next == 0 {
        Ok((at, session))
    } else {
        Err(Malformed::Gtpu)
    }
}

/// Length of a GRE header with these flags.
pub(crate) const fn gre_len(flags: u16) -> usize {
    let fields = (flags & GRE_CHECKSUM != 0) as usize
        + (flags & GRE_KEY != 0) as usize
        + (flags & GRE_SEQUENCE != 0) as usize;
    4 + 4 * fields
}

#[inline(never)]
pub(super) fn parse_gre(
    input: Input<'_>,
    at: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
) -> Found {
    let gre = input.take::<4>(at, Malformed::Gre)?;
    let flags = be16(gre, 0);
    if flags & GRE_VERSION != 0 {
        return Ok(Inside::NONE);
    }
    if flags & GRE_UNKNOWN != 0 {
        mark_tunnel::<OUTER_BASE>(words, layer, TunnelKind::Gre, 0);
        return Ok(Inside::NONE);
    }
    let len = gre_len(flags);
    input.require(at, len, Malformed::Gre)?;
    let mut key = 0;
    if flags & GRE_KEY != 0 {
        let key_at = if flags & GRE_CHECKSUM != 0 { 8 } else { 4 };
        key = be32(input.bytes, at + key_at);
        words[OUTER_BASE + 7] |= 1 << GRE_KEY_SHIFT;
    }
    mark_tunnel::<OUTER_BASE>(words, layer, TunnelKind::Gre, key);
    Ok(Inside::stated(input, at + len, be16(gre, 2)))
}

#[inline(never)]
pub(super) fn parse_mpls(
    input: Input<'_>,
    start: usize,
    words: &mut [u64; WORDS],
    layer: &mut LayerLayout,
) -> Found {
    let mut at = start;
    for _ in 0..LABELS_MAX {
        let entry = be32(input.take::<4>(at, Malformed::Mpls)?, 0);
        if at == start {
            mark_tunnel::<OUTER_BASE>(words, layer, TunnelKind::Mpls, entry >> 12);
        }
        at += 4;
        if entry & 0x100 != 0 {
            return Inside::guessed(input, at);
        }
    }
    Ok(Inside::NONE)
}
