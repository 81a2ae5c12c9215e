//! `raw_encap`, `raw_decap` and their kin: other bytes at the front of a frame, which is then parsed again.

use sumeru_packet::{FlowKey, Malformed, ParseOptions, parse};

use super::reason;
use crate::frame::Frame;
use crate::net_header::{Gso, Offload};
use crate::program::{Remove, Replace};
use crate::stats::{Drop, DropReason};

/// What is looked for in a frame with a new front. Only the layout counts, and the key where a decision goes on by it.
pub const PARSE: ParseOptions = ParseOptions::ALL;

/// Replaces the front of a frame.
///
/// # Errors
/// Why the frame is to be dropped. [`Malformed::HeaderTooLong`]: nothing but that more header bytes must be loaded, if there are any, for [`reparse`].
pub fn replace(frame: &mut Frame, front: &Replace) -> Result<(), DropReason> {
    let outer = *frame.layout.outer();
    let removed = match front.remove {
        Remove::Bytes(bytes) => bytes,
        Remove::Link { tagged } if outer.has_ethernet() && outer.vlan_tags == u8::from(tagged) => {
            14 + 4 * u16::from(tagged)
        }
        Remove::Link { .. } => return Err(Drop::Action.into()),
    };
    let len = frame
        .len
        .checked_sub(removed.into())
        .map(|rest| rest + front.header.len() as u32)
        .filter(|len| *len >= 14);
    let len = len.ok_or(Drop::Action)?;
    if frame.offload.partial_csum && frame.offload.csum_start < removed {
        // A checksum that was left to do in headers that are gone; a large frame cannot be cut without them.
        if frame.offload.gso != Gso::None {
            return Err(Drop::BadOffload.into());
        }
        frame.offload = Offload::NONE;
    }
    frame
        .header
        .replace_front(removed.into(), &front.header)
        .map_err(reason)?;
    frame.len = len;
    frame
        .offload
        .shift(front.header.len() as i16 - removed as i16);
    reparse(frame)
}

/// Finds the headers of a frame again. Its key stays: it tells what the frame was when it came.
///
/// # Errors
/// Why the frame is to be dropped.
pub fn reparse(frame: &mut Frame) -> Result<(), DropReason> {
    let mut key = FlowKey::ZERO;
    let header = frame.header.header();
    let parsed = parse(
        header,
        frame.len as usize,
        &mut key,
        &mut frame.layout,
        &PARSE,
    );
    parsed.map_err(DropReason::Malformed)?;
    let captured = frame.header.len();
    let checked = frame.offload.checked(&frame.layout, captured, frame.len);
    checked.map_err(|_| Drop::BadOffload.into())
}

/// Whether a frame must be dropped only because too little of it was looked at.
pub fn is_short(reason: DropReason, frame: &Frame) -> bool {
    reason == DropReason::Malformed(Malformed::HeaderTooLong)
        && (frame.header.len() as u32) < frame.len
}
