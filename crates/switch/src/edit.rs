//! The operations of a program that change a frame: headers, tags, tunnels. They touch the scratch copy only.

mod nat;
mod replace;

use sumeru_packet::edit::{self, EditError};
use sumeru_packet::{L3Kind, Layer, LayerLayout, tcp};

use crate::frame::Frame;
use crate::net_header::{Gso, Offload};
use crate::program::{Hop, Modify, Op, Source, Tunnel};
use crate::stats::{Drop, DropReason};

pub use nat::translate;
pub use replace::{PARSE, is_short, reparse};

/// Every link that carries IPv6 carries packets of so many bytes (RFC 8200 section 5).
pub const IPV6_LEAST_MTU: u32 = 1280;

/// Carries out an operation that changes the frame; does nothing for the others.
///
/// # Errors
/// Why the frame is to be dropped.
pub fn apply(frame: &mut Frame, op: &Op) -> Result<(), DropReason> {
    let layer = *frame.layout.outer();
    // A checksum left to do further inside says nothing of this layer's, which is complete.
    let partial = frame.offload.partial_csum && frame.offload.csum_start == layer.l4;
    let header = frame.header.header_mut();
    let done = match op {
        Op::SetEthSrc(mac) => edit::set_eth_src(header, &layer, *mac),
        Op::SetEthDst(mac) => edit::set_eth_dst(header, &layer, *mac),
        Op::SetIpv4Src(address) => edit::set_ipv4_src(header, &layer, *address, partial),
        Op::SetIpv4Dst(address) => edit::set_ipv4_dst(header, &layer, *address, partial),
        Op::SetIpv6Src(address) => edit::set_ipv6_src(header, &layer, **address, partial),
        Op::SetIpv6Dst(address) => edit::set_ipv6_dst(header, &layer, **address, partial),
        Op::SetL4Src(port) => edit::set_l4_src(header, &layer, *port, partial),
        Op::SetL4Dst(port) => edit::set_l4_dst(header, &layer, *port, partial),
        Op::DecTtl => edit::dec_ttl(header, &layer),
        Op::SetTtl(ttl) => edit::set_ttl(header, &layer, *ttl),
        Op::SetVlanVid(vid) => edit::set_vlan_vid(header, &layer, *vid),
        Op::SetVlanPcp(pcp) => edit::set_vlan_pcp(header, &layer, *pcp),
        Op::PushVlan(tpid) => {
            let pushed = frame.header.push_vlan(&mut frame.layout, *tpid, 0);
            pushed.map(|()| grow(frame, 4))
        }
        Op::PopVlan => frame
            .header
            .pop_vlan(&mut frame.layout)
            .map(|_| shrink(frame, 4)),
        Op::SwapEth => swap_eth(header, &layer),
        Op::Hop(hop) => hop_on(header, &layer, hop),
        Op::Modify(change) => return modify(frame, change),
        Op::Decapsulate => {
            let carried = edit::carry_marks_in(header, &frame.layout, false, false);
            return carried.map_err(reason).and_then(|()| decapsulate(frame));
        }
        Op::Unwrap => return decapsulate(frame),
        Op::Encapsulate(tunnel) => return encapsulate(frame, tunnel),
        Op::Replace(front) => return replace::replace(frame, front),
        Op::Translate(how) => return translate(frame, &how.0, how.1),
        Op::Splice(shift, _) => tcp::shift(header, &layer, shift, partial),
        Op::Greet(greeting) => {
            let moved = tcp::shift(header, &layer, &greeting.shift, partial);
            moved.and_then(|()| tcp::opened(header, &layer, greeting.scale, partial))
        }
        Op::Meter(_)
        | Op::Colour(_)
        | Op::Queue(_)
        | Op::Spread(_)
        | Op::Sample(_)
        | Op::Track(_)
        | Op::Keep(_)
        | Op::Guard(_)
        | Op::Redeem(_)
        | Op::Nat(_)
        | Op::Member(..)
        | Op::Commit(..)
        | Op::Count(_)
        | Op::Flood(_)
        | Op::Output(_)
        | Op::Answer(_)
        | Op::Consume
        | Op::Drop(_) => Ok(()),
    };
    done.map_err(reason)
}

fn reason(error: EditError) -> DropReason {
    match error {
        EditError::Expired => Drop::TtlExpired.into(),
        EditError::Congestion => Drop::Congestion.into(),
        _ => Drop::Action.into(),
    }
}

/// Sets the DSCP of the outer header.
///
/// # Errors
/// Why the frame is to be dropped.
pub fn mark(frame: &mut Frame, dscp: u8) -> Result<(), DropReason> {
    let layer = *frame.layout.outer();
    edit::set_dscp(frame.header.header_mut(), &layer, dscp).map_err(reason)
}

fn hop_on(header: &mut [u8], layer: &LayerLayout, hop: &Hop) -> Result<(), EditError> {
    edit::dec_ttl(header, layer)?;
    edit::set_eth_src(header, layer, hop.src)?;
    edit::set_eth_dst(header, layer, hop.dst)
}

/// The congestion bits of a frame's first IP header (RFC 3168); 0 if it has none, which says the same as a sender that does not take part.
pub fn congestion(frame: &Frame) -> u8 {
    let layer = frame.layout.outer();
    let at = usize::from(layer.l3);
    let header = frame.header.header();
    let byte = |at: usize| header.get(at).copied().unwrap_or(0);
    match layer.l3_kind {
        L3Kind::Ipv4 => byte(at + 1) & 3,
        L3Kind::Ipv6 => byte(at + 1) >> 4 & 3,
        L3Kind::Arp | L3Kind::None => 0,
    }
}

/// Tells the receiver of a frame that it met congestion.
pub fn mark_congestion(frame: &mut Frame) {
    let layer = *frame.layout.outer();
    // A frame without IP header has no such bits.
    let _ = edit::set_ecn(frame.header.header_mut(), &layer, 3);
}

fn swap_eth(header: &mut [u8], layer: &LayerLayout) -> Result<(), EditError> {
    let at = usize::from(layer.eth);
    let addresses = header.get_mut(at..at + 12);
    let addresses = addresses.filter(|_| layer.has_ethernet());
    let (dst, src) = addresses.ok_or(EditError::Absent)?.split_at_mut(6);
    dst.swap_with_slice(src);
    Ok(())
}

fn modify(frame: &mut Frame, change: &Modify) -> Result<(), DropReason> {
    let layers = frame.layout.layers;
    let [outer, inner] = layers;
    let layer_of = |layer| match layer {
        Layer::Outer => Ok(&outer),
        Layer::Inner if frame.layout.has_inner() => Ok(&inner),
        Layer::Inner => Err(EditError::Absent),
    };
    let layer = layer_of(change.layer).map_err(reason)?;
    let partial = frame.offload.partial_csum && frame.offload.csum_start == layer.l4;
    let header = frame.header.header_mut();
    let mut done = || {
        let value = match change.by {
            Source::Value(value) => value,
            Source::Bits(from, bits) => edit::read_bits(header, layer_of(from)?, bits)?,
        };
        edit::modify(header, layer, change.bits, change.change, value, partial)?;
        // The tunnel's checksum covers what is inside. None is better than a wrong one (RFC 6935).
        let udp = usize::from(outer.l4) + 6;
        let completed_later = frame.offload.partial_csum && frame.offload.csum_start == outer.l4;
        if change.layer == Layer::Inner
            && !completed_later
            && outer.tunnel_kind().is_udp()
            && header.get(udp..udp + 2).is_some_and(|sum| sum != [0, 0])
        {
            edit::clear_udp_checksum(header, &outer)?;
        }
        Ok(())
    };
    done().map_err(reason)
}

fn grow(frame: &mut Frame, bytes: u16) {
    frame.len += u32::from(bytes);
    frame.offload.shift(bytes as i16);
}

fn shrink(frame: &mut Frame, bytes: u16) {
    frame.len = frame.len.saturating_sub(bytes.into());
    frame.offload.shift(-(bytes as i16));
}

fn decapsulate(frame: &mut Frame) -> Result<(), DropReason> {
    // An outer checksum that was left to do goes with the outer headers: a tunnel of the same host's kernel leaves it only
    // where the inner one is complete (Linux, "local checksum offload"). Large frames have theirs inside (`checked`).
    let outer_partial =
        frame.offload.partial_csum && frame.offload.csum_start < frame.layout.layers[1].eth;
    if outer_partial {
        frame.offload = Offload::NONE;
    }
    let removed = frame
        .header
        .decapsulate(&mut frame.layout)
        .map_err(reason)?;
    shrink(frame, removed as u16);
    Ok(())
}

/// Whether the sender of what is in a tunnel fits it to the path once told. Others are not held back by what routers say, which anybody can
/// forge: a packet of IPv6's least MTU goes by every link (RFC 8200 section 5), and nobody tells who sends what may be cut, or no IP.
#[cold]
fn heeds_path(frame: &Frame) -> bool {
    let inner = &frame.layout.layers[1];
    let flags = usize::from(inner.l3) + 6;
    match inner.l3_kind {
        L3Kind::Ipv4 => {
            let header = frame.header.header();
            header.get(flags).is_some_and(|flags| flags & 0x40 != 0)
        }
        L3Kind::Ipv6 => frame.longest_piece() > u32::from(inner.l3) + IPV6_LEAST_MTU,
        _ => false,
    }
}

fn encapsulate(frame: &mut Frame, tunnel: &Tunnel) -> Result<(), DropReason> {
    // One tunnel inside another has nowhere to keep its layout.
    if frame.layout.has_inner() {
        frame.layout.layers[1] = LayerLayout::EMPTY;
    }
    let entropy = frame.key.entropy(Layer::Outer);
    let pushed = tunnel.headers.encapsulate(
        &mut frame.header,
        &mut frame.layout,
        frame.len as usize,
        entropy,
        &[],
    );
    let pending = pushed.map_err(reason)?.pending;
    grow(frame, tunnel.headers.len() as u16);
    let outer = *frame.layout.outer();
    let header = frame.header.header_mut();
    match pending {
        None => {}
        // Whoever sends the frame completes one checksum, and that may be one inside: the outer one does without then.
        Some(pending) if frame.offload.partial_csum => pending.give_up(header),
        Some(pending) => {
            pending.leave(header);
            frame.offload.partial_csum = true;
            frame.offload.csum_start = pending.start;
            frame.offload.csum_offset = pending.at - pending.start;
        }
    }
    if let Some(tos) = tunnel.tos {
        edit::set_tos(header, &outer, tos).map_err(reason)?;
    }
    let longer_than = |mtu: u16| frame.longest_piece() > u32::from(outer.l3) + u32::from(mtu);
    if longer_than(tunnel.mtu) && (longer_than(tunnel.own_mtu) || heeds_path(frame)) {
        return Err(Drop::ExceedsMtu.into());
    }
    // Outer lengths of a frame that will be cut are set per segment; any other must fit one packet.
    let too_long =
        frame.offload.gso == Gso::None && frame.len - u32::from(outer.l3) > u32::from(u16::MAX);
    if too_long || outer.l3_kind == L3Kind::None {
        Err(Drop::TooLarge.into())
    } else {
        Ok(())
    }
}
