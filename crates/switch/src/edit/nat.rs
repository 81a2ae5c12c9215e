//! Address translation of a frame as its connection says: addresses, ports of TCP, UDP and SCTP, identifiers of ICMP queries, and the packet that
//! an ICMP error quotes (RFC 5508, section 4).

use sumeru_packet::edit::{self, Bits, Change, EditError, Ends, Header};
use sumeru_packet::{L3Kind, LayerLayout};

use super::reason;
use crate::conntrack::{Direction, NatBinding, Rewrite, protocol};
use crate::frame::Frame;
use crate::stats::DropReason;

/// Identifier of an ICMP query.
const IDENTIFIER: Bits = Bits {
    header: Header::Icmp,
    offset: 32,
    width: 16,
};

/// Rewrites a frame as a connection says.
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
        addresses(header, &layer, rewrite, partial)?;
        // Later fragments have no ports, and their first takes the checksum of all.
        if !layer.has_l4() {
            return Ok(());
        }
        if !matches!(layer.l4_proto, protocol::ICMP | protocol::ICMPV6) {
            return ports(header, &layer, rewrite, partial);
        }
        match edit::embedded(header, &layer) {
            Some(quote) => {
                let back = match direction {
                    Direction::Original => &binding.embedded_original,
                    Direction::Reply => &binding.embedded_reply,
                };
                let ends = Ends {
                    src: back.src,
                    dst: back.dst,
                    src_port: back.sport,
                    dst_port: back.dport,
                };
                edit::rewrite_embedded(header, &layer, &quote, &ends, partial)
            }
            // An error that quotes too little to be translated.
            None if is_error(header, &layer) => Err(EditError::OutOfRange),
            None => match rewrite.sport {
                Some(id) => {
                    edit::modify(header, &layer, IDENTIFIER, Change::Set, id.into(), partial)
                }
                None => Ok(()),
            },
        }
    };
    done().map_err(reason)
}

fn is_error(header: &[u8], layer: &LayerLayout) -> bool {
    match (layer.l4_proto, header.get(usize::from(layer.l4))) {
        (protocol::ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (_, Some(kind)) => *kind < 128,
        _ => true,
    }
}

fn addresses(
    header: &mut [u8],
    layer: &LayerLayout,
    rewrite: &Rewrite,
    partial: bool,
) -> Result<(), EditError> {
    let v4 = layer.l3_kind == L3Kind::Ipv4;
    match rewrite.src {
        Some(address) if v4 => edit::set_ipv4_src(header, layer, address as u32, partial)?,
        Some(address) => edit::set_ipv6_src(header, layer, address, partial)?,
        None => {}
    }
    match rewrite.dst {
        Some(address) if v4 => edit::set_ipv4_dst(header, layer, address as u32, partial),
        Some(address) => edit::set_ipv6_dst(header, layer, address, partial),
        None => Ok(()),
    }
}

fn ports(
    header: &mut [u8],
    layer: &LayerLayout,
    rewrite: &Rewrite,
    partial: bool,
) -> Result<(), EditError> {
    if let Some(port) = rewrite.sport {
        edit::set_l4_src(header, layer, port, partial)?;
    }
    if let Some(port) = rewrite.dport {
        edit::set_l4_dst(header, layer, port, partial)?;
    }
    Ok(())
}
