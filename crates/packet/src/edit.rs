//! In-place header edits that keep IPv4, TCP, UDP and ICMPv6 checksums right by RFC 1624 updates.
//!
//! Each edit works on one layer of a header that [`parse`](crate::parse()) described. `partial_csum` says that the L4
//! checksum field holds only the pseudo-header sum, to be completed later (virtio `NEEDS_CSUM`, virtio 1.3 section
//! 5.1.6.2): then an address change updates that sum and a port change leaves it alone. A UDP checksum of zero ("none",
//! RFC 768) stays zero. Later fragments have no L4 header and only their IP header is fixed.
//!
//! A nonzero UDP checksum of an *outer* tunnel header covers the inner headers too and is not followed up: after inner
//! edits call [`clear_udp_checksum`] on the outer layer, or write
//! [`tunnel_checksum`](crate::segment::tunnel_checksum).

mod embedded;
mod modify;

pub use embedded::{Embedded, Ends, embedded, rewrite_embedded};
pub use modify::{Bits, Change, Header, modify, read_bits};

use crate::build::marks;
use crate::checksum::{update16, update32, update128};
use crate::ecn;
use crate::layout::{L3Kind, LayerLayout, Layout};
use crate::parse::{PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP};

/// Why an edit was not made. The header is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EditError {
    /// The packet has no such header.
    Absent,
    /// The time to live or hop limit is 1 or 0 and cannot be decremented.
    Expired,
    /// The checksum covers what is not here (a fragment of SCTP), or the bits say where other headers are.
    Unsupported,
    /// The packet met congestion in the tunnel and its sender does not understand the mark (RFC 6040 section 4.2).
    Congestion,
    /// The header bytes given are shorter than the layout says, or the buffer has no room.
    OutOfRange,
}

impl EditError {
    /// Short stable name, for counters and traces.
    pub const fn as_str(self) -> &'static str {
        match self {
            EditError::Absent => "edit-header-absent",
            EditError::Expired => "ttl-expired",
            EditError::Unsupported => "edit-unsupported",
            EditError::Congestion => "ecn-congestion",
            EditError::OutOfRange => "edit-out-of-range",
        }
    }
}

impl core::fmt::Display for EditError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for EditError {}

#[inline(always)]
fn field<const N: usize>(header: &mut [u8], at: usize) -> Result<&mut [u8; N], EditError> {
    header
        .get_mut(at..)
        .and_then(|b| b.first_chunk_mut())
        .ok_or(EditError::OutOfRange)
}

/// Where the layer's Ethernet header starts.
#[inline(always)]
fn ethernet(layer: &LayerLayout) -> Result<usize, EditError> {
    if layer.has_ethernet() {
        Ok(layer.eth.into())
    } else {
        Err(EditError::Absent)
    }
}

/// Sets the destination MAC address.
///
/// # Errors
/// [`EditError::Absent`] for an inner layer without Ethernet, [`EditError::OutOfRange`].
#[inline]
pub fn set_eth_dst(header: &mut [u8], layer: &LayerLayout, mac: [u8; 6]) -> Result<(), EditError> {
    *field::<6>(header, ethernet(layer)?)? = mac;
    Ok(())
}

/// Sets the source MAC address.
///
/// # Errors
/// [`EditError::Absent`] for an inner layer without Ethernet, [`EditError::OutOfRange`].
#[inline]
pub fn set_eth_src(header: &mut [u8], layer: &LayerLayout, mac: [u8; 6]) -> Result<(), EditError> {
    *field::<6>(header, ethernet(layer)? + 6)? = mac;
    Ok(())
}

/// Sets the control information (priority, DEI and VLAN id) of the first VLAN tag.
///
/// # Errors
/// [`EditError::Absent`] when untagged, [`EditError::OutOfRange`].
#[inline]
pub fn set_vlan_tci(header: &mut [u8], layer: &LayerLayout, tci: u16) -> Result<(), EditError> {
    change_tci(header, layer, |_| tci)
}

/// Sets the id (0..=4095, higher bits dropped) of the first VLAN tag.
///
/// # Errors
/// [`EditError::Absent`] when untagged, [`EditError::OutOfRange`].
#[inline]
pub fn set_vlan_vid(header: &mut [u8], layer: &LayerLayout, vid: u16) -> Result<(), EditError> {
    change_tci(header, layer, |tci| tci & 0xf000 | vid & 0x0fff)
}

/// Sets the priority (0..=7, higher bits dropped) of the first VLAN tag.
///
/// # Errors
/// [`EditError::Absent`] when untagged, [`EditError::OutOfRange`].
#[inline]
pub fn set_vlan_pcp(header: &mut [u8], layer: &LayerLayout, pcp: u8) -> Result<(), EditError> {
    change_tci(header, layer, |tci| tci & 0x1fff | u16::from(pcp & 7) << 13)
}

#[inline]
fn change_tci(
    header: &mut [u8],
    layer: &LayerLayout,
    change: impl FnOnce(u16) -> u16,
) -> Result<(), EditError> {
    if layer.vlan == 0 {
        return Err(EditError::Absent);
    }
    let tci = field::<2>(header, usize::from(layer.vlan) + 2)?;
    *tci = change(u16::from_be_bytes(*tci)).to_be_bytes();
    Ok(())
}

/// Sets the IPv4 source address.
///
/// # Errors
/// [`EditError::Absent`] when the layer is not IPv4, [`EditError::OutOfRange`].
#[inline]
pub fn set_ipv4_src(
    header: &mut [u8],
    layer: &LayerLayout,
    address: u32,
    partial_csum: bool,
) -> Result<(), EditError> {
    set_ipv4_address(header, layer, 12, address, partial_csum)
}

/// Sets the IPv4 destination address.
///
/// # Errors
/// [`EditError::Absent`] when the layer is not IPv4, [`EditError::OutOfRange`].
#[inline]
pub fn set_ipv4_dst(
    header: &mut [u8],
    layer: &LayerLayout,
    address: u32,
    partial_csum: bool,
) -> Result<(), EditError> {
    set_ipv4_address(header, layer, 16, address, partial_csum)
}

#[inline]
fn set_ipv4_address(
    header: &mut [u8],
    layer: &LayerLayout,
    at: usize,
    address: u32,
    partial_csum: bool,
) -> Result<(), EditError> {
    if layer.l3_kind != L3Kind::Ipv4 {
        return Err(EditError::Absent);
    }
    let l4_field = l4_checksum(header, layer)?;
    let ip = field::<20>(header, layer.l3.into())?;
    let old = read32(ip, at);
    ip[at..at + 4].copy_from_slice(&address.to_be_bytes());
    let sum = update32(u16::from_be_bytes([ip[10], ip[11]]), old, address);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // ICMP for IPv4 has no pseudo-header; `l4_checksum` does not name its field.
    if let Some(at) = l4_field {
        fix_l4(header, layer, at, partial_csum, |sum| {
            update32(sum, old, address)
        })?;
    }
    Ok(())
}

#[inline(always)]
fn read32(bytes: &[u8; 20], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Sets the IPv6 source address.
///
/// # Errors
/// [`EditError::Absent`] when the layer is not IPv6, [`EditError::OutOfRange`].
#[inline]
pub fn set_ipv6_src(
    header: &mut [u8],
    layer: &LayerLayout,
    address: u128,
    partial_csum: bool,
) -> Result<(), EditError> {
    set_ipv6_address(header, layer, 8, address, true, partial_csum)
}

/// Sets the IPv6 destination address. While a routing header has segments left the L4 checksum is over the final
/// destination (RFC 8200 section 8.1) and is left alone.
///
/// # Errors
/// [`EditError::Absent`] when the layer is not IPv6, [`EditError::OutOfRange`].
#[inline]
pub fn set_ipv6_dst(
    header: &mut [u8],
    layer: &LayerLayout,
    address: u128,
    partial_csum: bool,
) -> Result<(), EditError> {
    let summed = layer.flags & LayerLayout::ROUTED == 0;
    set_ipv6_address(header, layer, 24, address, summed, partial_csum)
}

#[inline]
fn set_ipv6_address(
    header: &mut [u8],
    layer: &LayerLayout,
    at: usize,
    address: u128,
    summed: bool,
    partial_csum: bool,
) -> Result<(), EditError> {
    if layer.l3_kind != L3Kind::Ipv6 {
        return Err(EditError::Absent);
    }
    let l4_field = l4_checksum(header, layer)?;
    let bytes = field::<16>(header, usize::from(layer.l3) + at)?;
    let old = u128::from_be_bytes(*bytes);
    *bytes = address.to_be_bytes();
    if let Some(at) = l4_field
        && summed
    {
        fix_l4(header, layer, at, partial_csum, |sum| {
            update128(sum, old, address)
        })?;
    }
    Ok(())
}

/// Sets the TCP, UDP or SCTP source port.
///
/// # Errors
/// [`EditError::Absent`] without ports, [`EditError::Unsupported`] for a fragment of SCTP, [`EditError::OutOfRange`].
#[inline]
pub fn set_l4_src(
    header: &mut [u8],
    layer: &LayerLayout,
    port: u16,
    partial_csum: bool,
) -> Result<(), EditError> {
    set_port(header, layer, 0, port, partial_csum)
}

/// Sets the TCP, UDP or SCTP destination port.
///
/// # Errors
/// [`EditError::Absent`] without ports, [`EditError::Unsupported`] for a fragment of SCTP, [`EditError::OutOfRange`].
#[inline]
pub fn set_l4_dst(
    header: &mut [u8],
    layer: &LayerLayout,
    port: u16,
    partial_csum: bool,
) -> Result<(), EditError> {
    set_port(header, layer, 2, port, partial_csum)
}

#[inline]
fn set_port(
    header: &mut [u8],
    layer: &LayerLayout,
    at: usize,
    port: u16,
    partial_csum: bool,
) -> Result<(), EditError> {
    match layer.l4_proto {
        _ if layer.l4 == 0 => return Err(EditError::Absent),
        PROTO_TCP | PROTO_UDP => {}
        PROTO_SCTP => modify::check_sctp(header, layer)?,
        _ => return Err(EditError::Absent),
    }
    let l4_field = l4_checksum(header, layer)?;
    let bytes = field::<2>(header, usize::from(layer.l4) + at)?;
    let old = u16::from_be_bytes(*bytes);
    *bytes = port.to_be_bytes();
    if layer.l4_proto == PROTO_SCTP && !partial_csum {
        let at = usize::from(layer.l4) + at;
        return modify::fix_sctp(header, layer, at, &old.to_be_bytes(), &port.to_be_bytes());
    }
    // Ports are not in the pseudo-header, so a partial sum does not change.
    if let Some(at) = l4_field
        && !partial_csum
    {
        fix_l4(header, layer, at, false, |sum| update16(sum, old, port))?;
    }
    Ok(())
}

/// Where the checksum with a pseudo-header is, checked to be inside `header`; `None` for a protocol without one.
#[inline]
fn l4_checksum(header: &[u8], layer: &LayerLayout) -> Result<Option<usize>, EditError> {
    let offset = match layer.l4_proto {
        _ if layer.l4 == 0 => return Ok(None),
        PROTO_TCP => 16,
        PROTO_UDP => 6,
        PROTO_ICMPV6 if layer.l3_kind == L3Kind::Ipv6 => 2,
        _ => return Ok(None),
    };
    let at = usize::from(layer.l4) + offset;
    if at + 2 > header.len() {
        return Err(EditError::OutOfRange);
    }
    Ok(Some(at))
}

/// Applies `update`, which works on a complemented checksum, to the L4 checksum field.
#[inline]
fn fix_l4(
    header: &mut [u8],
    layer: &LayerLayout,
    at: usize,
    partial_csum: bool,
    update: impl FnOnce(u16) -> u16,
) -> Result<(), EditError> {
    let bytes = field::<2>(header, at)?;
    let old = u16::from_be_bytes(*bytes);
    let new = if partial_csum {
        // The field is a plain sum: the same arithmetic on its complement.
        !update(!old)
    } else if layer.l4_proto == PROTO_UDP {
        match (old, update(old)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, new) => new,
        }
    } else {
        update(old)
    };
    *bytes = new.to_be_bytes();
    Ok(())
}

/// Sets a UDP checksum to zero, "none": for the outer header of a tunnel whose inner packet changed (RFC 6935 for
/// IPv6).
///
/// # Errors
/// [`EditError::Absent`] when the layer is not UDP, [`EditError::OutOfRange`].
pub fn clear_udp_checksum(header: &mut [u8], layer: &LayerLayout) -> Result<(), EditError> {
    if layer.l4 == 0 || layer.l4_proto != PROTO_UDP {
        return Err(EditError::Absent);
    }
    *field::<2>(header, usize::from(layer.l4) + 6)? = [0; 2];
    Ok(())
}

/// Decrements the IPv4 time to live or IPv6 hop limit.
///
/// # Errors
/// [`EditError::Expired`] at 1 or 0, [`EditError::Absent`] when not IP, [`EditError::OutOfRange`].
#[inline]
pub fn dec_ttl(header: &mut [u8], layer: &LayerLayout) -> Result<(), EditError> {
    change_ttl(header, layer, |ttl| {
        if ttl > 1 {
            Ok(ttl - 1)
        } else {
            Err(EditError::Expired)
        }
    })
}

/// Sets the IPv4 time to live or IPv6 hop limit.
///
/// # Errors
/// [`EditError::Absent`] when not IP, [`EditError::OutOfRange`].
#[inline]
pub fn set_ttl(header: &mut [u8], layer: &LayerLayout, ttl: u8) -> Result<(), EditError> {
    change_ttl(header, layer, |_| Ok(ttl))
}

#[inline]
fn change_ttl(
    header: &mut [u8],
    layer: &LayerLayout,
    change: impl FnOnce(u8) -> Result<u8, EditError>,
) -> Result<(), EditError> {
    match layer.l3_kind {
        L3Kind::Ipv4 => {
            let ip = field::<20>(header, layer.l3.into())?;
            let new = change(ip[8])?;
            change_ipv4_word(ip, 8, [new, ip[9]]);
            Ok(())
        }
        L3Kind::Ipv6 => {
            let limit = field::<1>(header, usize::from(layer.l3) + 7)?;
            limit[0] = change(limit[0])?;
            Ok(())
        }
        _ => Err(EditError::Absent),
    }
}

/// Replaces the 16-bit word at `at` of an IPv4 header and fixes its checksum.
#[inline(always)]
pub(crate) fn change_ipv4_word(ip: &mut [u8; 20], at: usize, new: [u8; 2]) {
    let old = u16::from_be_bytes([ip[at], ip[at + 1]]);
    ip[at..at + 2].copy_from_slice(&new);
    let sum = update16(
        u16::from_be_bytes([ip[10], ip[11]]),
        old,
        u16::from_be_bytes(new),
    );
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Sets the differentiated services code point (0..=63, higher bits dropped); ECN stays (RFC 2474, RFC 3168).
///
/// # Errors
/// [`EditError::Absent`] when not IP, [`EditError::OutOfRange`].
#[inline]
pub fn set_dscp(header: &mut [u8], layer: &LayerLayout, dscp: u8) -> Result<(), EditError> {
    change_tos(header, layer, |tos| tos & 3 | dscp << 2)
}

/// Sets the whole IPv4 type of service or IPv6 traffic class.
///
/// # Errors
/// [`EditError::Absent`] when not IP, [`EditError::OutOfRange`].
#[inline]
pub fn set_tos(header: &mut [u8], layer: &LayerLayout, tos: u8) -> Result<(), EditError> {
    change_tos(header, layer, |_| tos)
}

/// Sets the ECN field of the IP header (RFC 3168).
///
/// # Errors
/// [`EditError::Absent`] when not IP, [`EditError::OutOfRange`].
#[inline]
pub fn set_ecn(header: &mut [u8], layer: &LayerLayout, ecn: u8) -> Result<(), EditError> {
    change_tos(header, layer, |tos| tos & 0xfc | ecn & 3)
}

#[inline]
fn change_tos(
    header: &mut [u8],
    layer: &LayerLayout,
    change: impl FnOnce(u8) -> u8,
) -> Result<(), EditError> {
    match layer.l3_kind {
        L3Kind::Ipv4 => {
            let ip = field::<20>(header, layer.l3.into())?;
            change_ipv4_word(ip, 0, [ip[0], change(ip[1])]);
            Ok(())
        }
        L3Kind::Ipv6 => {
            let first = field::<2>(header, layer.l3.into())?;
            let word = u16::from_be_bytes(*first);
            let class = change((word >> 4) as u8);
            *first = (word & 0xf00f | u16::from(class) << 4).to_be_bytes();
            Ok(())
        }
        _ => Err(EditError::Absent),
    }
}

/// Carries marks of the tunnel into the packet inside, before decapsulation: ECN by RFC 6040 section 4.2; with
/// `uniform_ttl` the outer time to live and with `uniform_dscp` the outer DSCP (uniform model), else the packet keeps its
/// own (pipe model). A packet that is not IP, and a tunnel without IP (MPLS), have no marks. An outer time to live above
/// the inner one is not copied, so that no loop lives for ever.
///
/// # Errors
/// [`EditError::Absent`] without an inner layer, [`EditError::Congestion`] when the packet must be dropped,
/// [`EditError::OutOfRange`].
pub fn carry_marks_in(
    header: &mut [u8],
    layout: &Layout,
    uniform_ttl: bool,
    uniform_dscp: bool,
) -> Result<(), EditError> {
    let inner = layout.inner().ok_or(EditError::Absent)?;
    let outer_marks = marks(header, layout.outer());
    let inner_marks = marks(header, inner);
    let ((Some(outer_tos), Some(outer_ttl)), (Some(inner_tos), Some(inner_ttl))) =
        (outer_marks, inner_marks)
    else {
        return Ok(());
    };
    let mut tos = ecn::decapsulated(outer_tos, inner_tos).ok_or(EditError::Congestion)?;
    if uniform_dscp {
        tos = tos & 3 | outer_tos & !3;
    }
    if tos != inner_tos {
        set_tos(header, inner, tos)?;
    }
    if uniform_ttl && outer_ttl < inner_ttl {
        set_ttl(header, inner, outer_ttl)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
