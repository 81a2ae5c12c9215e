//! Answers to frames that are too long for where they were to go: ICMP "fragmentation needed" (RFC 1191 section 4) and ICMPv6 "packet too big"
//! (RFC 8201 section 4), to who sent them, from the address they were sent to, as Linux does for bridged tunnels: there is no router to speak.
//!
//! Only packets that may not be cut are answered: IPv6, and IPv4 with DF set; not what is flooded or sampled, whose copies go where the packet's
//! way does not lead. The quote is what the sender sent, whatever was done to the
//! frame since.
#![allow(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sumeru_packet::build::{IcmpError, icmp_error};
use sumeru_packet::{FlowKey, HEADER_MAX, L3Kind, Layout, ParseOptions, parse};

use super::{Attachment, Lane};
use crate::edit::IPV6_LEAST_MTU;
use crate::egress;
use crate::frame::{Frame, MAX_FRAME, PortIndex};
use crate::net_header::Gso;
use crate::program::Op;
use crate::ring::check_mtu;
use crate::stats::Stage;

/// ICMP errors that a port may send the engine to write in a second (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
pub const ERRORS_PER_SECOND: u32 = 100;
/// Bytes of a frame that a quote may need: the longest ICMPv6 error holds less.
const QUOTED: usize = 1280;
/// Longest answer: with its link header.
const ANSWER: usize = QUOTED + 22;
/// Least MTU that can be told over IPv4: smaller ones no host believes (RFC 791 section 3.2).
const IPV4_LEAST_MTU: u32 = 68;

impl Lane {
    /// Answers those of `pending` that were too long for port `to`.
    #[cold]
    pub(super) fn answer_all_too_long(&mut self, to: PortIndex, pending: &[u8]) {
        let Some(Some(port)) = self.ports.get(usize::from(to)) else {
            return;
        };
        let max_frame = port.max_frame;
        for index in pending.iter().map(|index| usize::from(*index)) {
            let frame = &self.frames[index];
            if check_mtu(frame, max_frame).is_err() {
                // There is room for a tag that this frame may not have.
                let tags = frame.layout.outer().vlan_tags.min(1);
                let room = max_frame - 4 + 4 * u32::from(tags);
                let over = frame.longest_piece() - room;
                self.answer_too_long(index, over);
            }
        }
    }

    /// Answers a frame that was put into a tunnel by `op` and is too long then.
    #[cold]
    pub(super) fn answer_too_long_for(&mut self, index: usize, op: &Op) {
        if let Op::Encapsulate(tunnel) = op {
            let frame = &self.frames[index];
            let room = u32::from(frame.layout.outer().l3) + u32::from(tunnel.mtu);
            self.answer_too_long(index, frame.longest_piece().saturating_sub(room));
        }
    }

    /// Tells the sender of a frame that it is `over` bytes too long.
    #[cold]
    fn answer_too_long(&mut self, index: usize, over: u32) {
        if self.copied & 1 << index != 0 {
            return;
        }
        let frame = &self.frames[index];
        let from = frame.in_port;
        let Some(Some(port)) = self.ports.get_mut(usize::from(from)) else {
            return;
        };
        if !port.answers || port.errors.is_spent() {
            return;
        }
        let lead = match &port.attachment {
            Attachment::Wire(_) | Attachment::Bond(_) => 0,
            Attachment::Rings(pairs) => {
                let sender = pairs.iter().find_map(|pair| pair.sender.as_ref());
                sender.map_or(0, |sender| sender.lead().len)
            }
        };
        let mut bytes = [0; QUOTED];
        // SAFETY: the frame is of the burst in hand, whose memory is mapped.
        let len = unsafe { egress::original(frame, &self.list, lead, &mut bytes) };
        let mut answer = [0; ANSWER];
        let Some(len) = write(&bytes[..len], frame, over, &mut answer) else {
            return;
        };
        port.errors.take();
        self.counters.passed(Stage::PathMtu, 1);
        self.send_own(from, &mut answer[..len]);
    }
}

/// Writes the answer to a frame that began with `sent` and is `over` bytes too long as it is now; its length if there is to be one.
fn write(sent: &[u8], frame: &Frame, over: u32, answer: &mut [u8]) -> Option<usize> {
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    let header = &sent[..sent.len().min(HEADER_MAX)];
    let options = ParseOptions::PLAIN;
    // Of a frame that goes on behind what was read no header does.
    parse(header, MAX_FRAME as usize, &mut key, &mut layout, &options).ok()?;
    let layer = layout.outer();
    let l3 = usize::from(layer.l3);
    let word = |at: usize| {
        let bytes = sent.get(l3 + at..)?.first_chunk::<2>()?;
        Some(u32::from(u16::from_be_bytes(*bytes)))
    };
    let (source, whole): (IpAddr, u32) = match layer.l3_kind {
        L3Kind::Ipv4 if word(6)? & 0x4000 != 0 => {
            let to = sent.get(l3 + 16..)?.first_chunk::<4>()?;
            (Ipv4Addr::from(*to).into(), word(2)?)
        }
        L3Kind::Ipv6 => {
            let to = sent.get(l3 + 24..)?.first_chunk::<16>()?;
            (Ipv6Addr::from(*to).into(), word(4)? + 40)
        }
        _ => return None,
    };
    if source.is_multicast() {
        return None;
    }
    let packet = match frame.offload.gso {
        Gso::None => whole,
        _ => u32::from(layer.payload - layer.l3) + u32::from(frame.offload.gso_size),
    };
    let mtu = packet.saturating_sub(over);
    let mtu = match source {
        IpAddr::V4(_) => Some(mtu).filter(|mtu| *mtu >= IPV4_LEAST_MTU),
        // No host takes a smaller one for an answer (RFC 8201 section 4).
        IpAddr::V6(_) => Some(mtu.max(IPV6_LEAST_MTU)).filter(|mtu| *mtu < packet),
    }?;
    let error = IcmpError::TooBig {
        mtu: u16::try_from(mtu).ok()?,
    };
    icmp_error(answer, sent, layer, source, error).ok()?
}
