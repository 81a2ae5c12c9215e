//! What must hold of a tunnel's headers before they are taken off.
#![allow(unsafe_code)]

use sumeru_packet::TunnelKind;
use sumeru_packet::parse::geneve_option_types;
use sumeru_virtio::GuestSlice;

use crate::egress;
use crate::frame::Frame;
use crate::rules::Parsing;
use crate::snapshot::Snapshot;
use crate::stats::{Drop, DropReason};

/// Of the second byte of a Geneve header: a control packet, and a critical option among the options (RFC 8926 section 3.4).
const GENEVE_CONTROL: u8 = 0x80;
const GENEVE_CRITICAL: u8 = 0x40;
/// Of an option's type: who does not know it drops the frame.
const CRITICAL: u8 = 0x80;
/// The fixed part of a Geneve header.
const GENEVE_LEN: usize = 8;

/// Geneve options that a network sends, which the other nodes on it send too, or that rules look at, by class and type.
pub fn known_geneve_options(snapshot: &Snapshot, parsing: &Parsing) -> Vec<(u16, u8)> {
    let looked_at = parsing.extracts.geneve.iter().flatten();
    let mut known: Vec<(u16, u8)> = snapshot
        .networks
        .values()
        .flat_map(|network| geneve_option_types(&network.outer.geneve_options))
        .chain(looked_at.map(|option| (option.class, option.kind)))
        .collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// Checks the outer checksum and the options of a frame that is in a tunnel.
///
/// # Errors
/// Why it is to be dropped.
#[inline]
pub fn check(frame: &Frame, list: &[GuestSlice], known: &[(u16, u8)]) -> Result<(), DropReason> {
    let outer = frame.layout.outer();
    let kind = outer.tunnel_kind();
    if !kind.is_udp() {
        return Ok(());
    }
    let header = frame.header.header();
    let at = usize::from(outer.l4) + 6;
    let summed = header.get(at..at + 2).is_some_and(|sum| sum != [0; 2]);
    // One left to do comes from this host's kernel, and so from no wire.
    let settled = frame.offload.verified || frame.offload.partial_csum;
    if summed && !settled && !sums_up(frame, list) {
        return Err(Drop::TunnelChecksum.into());
    }
    if kind != TunnelKind::Geneve {
        return Ok(());
    }
    let at = usize::from(outer.payload);
    match header.get(at..at + GENEVE_LEN) {
        Some([_, flags, ..]) if flags & (GENEVE_CONTROL | GENEVE_CRITICAL) == 0 => Ok(()),
        Some([first, flags, ..]) if flags & GENEVE_CONTROL == 0 => {
            let len = usize::from(first & 0x3f) * 4;
            let options = header.get(at + GENEVE_LEN..at + GENEVE_LEN + len);
            let unknown = |option: (u16, u8)| option.1 & CRITICAL != 0 && !known.contains(&option);
            match geneve_option_types(options.unwrap_or_default()).any(unknown) {
                true => Err(Drop::GeneveOption.into()),
                false => Ok(()),
            }
        }
        _ => Err(Drop::GeneveOption.into()),
    }
}

/// Whether the outer UDP checksum of a frame is right (RFC 768, RFC 8200 section 8.1).
#[cold]
fn sums_up(frame: &Frame, list: &[GuestSlice]) -> bool {
    let (header, outer) = (frame.header.header(), frame.layout.outer());
    let at = usize::from(outer.l4);
    let Some(field) = header.get(at + 4..at + 6).and_then(|b| b.first_chunk()) else {
        return false;
    };
    let len = u16::from_be_bytes(*field);
    let mut sum = outer.udp_pseudo_header(header, len.into());
    // SAFETY: the frame is of the burst in hand, or of a trace, whose memory is mapped.
    let whole = unsafe { egress::add_to(&mut sum, frame, list, at, len.into()) };
    whole && sum.folded() == 0xffff
}
