//! The operations of a program that change a frame: headers, tags, tunnels. They touch the scratch copy only.

use sumeru_packet::edit::{self, EditError};
use sumeru_packet::{L3Kind, Layer, LayerLayout};

use crate::conntrack::{Direction, NatBinding};
use crate::frame::Frame;
use crate::net_header::{Gso, Offload};
use crate::program::{Op, Tunnel};
use crate::stats::{Drop, DropReason};

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
        Op::Decapsulate | Op::Unwrap => return decapsulate(frame),
        Op::Encapsulate(tunnel) => return encapsulate(frame, tunnel),
        Op::Track(_)
        | Op::Nat(_)
        | Op::Count(_)
        | Op::Flood(_)
        | Op::Output(_)
        | Op::Consume
        | Op::Drop(_) => Ok(()),
    };
    done.map_err(reason)
}

/// Rewrites addresses and ports as a connection says.
///
/// # Errors
/// Why the frame is to be dropped.
pub fn translate(
    frame: &mut Frame,
    binding: &NatBinding,
    direction: Direction,
) -> Result<(), DropReason> {
    let layer = *frame.layout.outer();
    let partial = frame.offload.partial_csum && frame.offload.csum_start == layer.l4;
    let header = frame.header.header_mut();
    let rewrite = binding.rewrite(direction);
    let mut done = || -> Result<(), EditError> {
        match layer.l3_kind {
            L3Kind::Ipv4 => {
                if let Some(address) = rewrite.src {
                    edit::set_ipv4_src(header, &layer, address as u32, partial)?;
                }
                if let Some(address) = rewrite.dst {
                    edit::set_ipv4_dst(header, &layer, address as u32, partial)?;
                }
            }
            _ => {
                if let Some(address) = rewrite.src {
                    edit::set_ipv6_src(header, &layer, address, partial)?;
                }
                if let Some(address) = rewrite.dst {
                    edit::set_ipv6_dst(header, &layer, address, partial)?;
                }
            }
        }
        // Later fragments have no ports, and their first takes the checksum of all.
        if layer.has_l4() {
            if let Some(port) = rewrite.sport {
                edit::set_l4_src(header, &layer, port, partial)?;
            }
            if let Some(port) = rewrite.dport {
                edit::set_l4_dst(header, &layer, port, partial)?;
            }
        }
        Ok(())
    };
    done().map_err(reason)
}

fn reason(error: EditError) -> DropReason {
    match error {
        EditError::Expired => Drop::TtlExpired.into(),
        _ => Drop::Action.into(),
    }
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

fn encapsulate(frame: &mut Frame, tunnel: &Tunnel) -> Result<(), DropReason> {
    // One tunnel inside another has nowhere to keep its layout.
    if frame.layout.has_inner() {
        frame.layout.layers[1] = LayerLayout::EMPTY;
    }
    let entropy = frame.key.entropy(Layer::Outer);
    let pushed = tunnel.headers.push(
        &mut frame.header,
        &mut frame.layout,
        frame.len as usize,
        entropy,
    );
    pushed.map_err(reason)?;
    grow(frame, tunnel.headers.len() as u16);
    let outer = *frame.layout.outer();
    let header = frame.header.header_mut();
    if tunnel.tos != 0 {
        edit::set_tos(header, &outer, tunnel.tos).map_err(reason)?;
    }
    if let Some(port) = tunnel.udp_src
        && let Some(field) = header.get_mut(usize::from(outer.l4)..usize::from(outer.l4) + 2)
    {
        field.copy_from_slice(&port.to_be_bytes());
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
