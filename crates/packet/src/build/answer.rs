//! What every answer to a frame needs: its addresses turned round, and whether its sender may be answered at all.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::big_endian::{U16, U32};

use super::FrameBuilder;
use crate::layout::{L3Kind, LayerLayout};
use crate::view::{Ipv4, Ipv6};

/// An IP packet to be answered.
pub(super) struct Question<'a> {
    header: &'a [u8],
    layer: &'a LayerLayout,
    /// Its sender.
    pub src: IpAddr,
    /// Its receiver.
    pub dst: IpAddr,
    /// Where it ends in the frame, by its own length.
    pub end: usize,
}

impl<'a> Question<'a> {
    /// The packet of `layer`; `None` when it is not IP or not all there.
    pub fn new(header: &'a [u8], layer: &'a LayerLayout) -> Option<Question<'a>> {
        let l3 = usize::from(layer.l3);
        let word = |at: usize| {
            let bytes = header.get(l3 + at..).and_then(|b| b.first_chunk::<2>());
            bytes.map(|b| usize::from(u16::from_be_bytes(*b)))
        };
        let (src, dst, end) = match layer.l3_kind {
            L3Kind::Ipv4 => {
                let address = |at: usize| {
                    let bytes = header.get(l3 + at..).and_then(|b| b.first_chunk::<4>());
                    bytes.map(|b| IpAddr::V4(Ipv4Addr::from(*b)))
                };
                (address(12)?, address(16)?, l3 + word(2)?)
            }
            L3Kind::Ipv6 => {
                let address = |at: usize| {
                    let bytes = header.get(l3 + at..).and_then(|b| b.first_chunk::<16>());
                    bytes.map(|b| IpAddr::V6(Ipv6Addr::from(*b)))
                };
                (address(8)?, address(24)?, l3 + 40 + word(4)?)
            }
            _ => return None,
        };
        Some(Question {
            header,
            layer,
            src,
            dst,
            end,
        })
    }

    /// Whether its sender is one host that can be answered.
    pub fn has_sender(&self) -> bool {
        let link = usize::from(self.layer.eth);
        let group_mac = self.header.get(link + 6).is_none_or(|first| first & 1 != 0);
        let nobody = match self.src {
            IpAddr::V4(src) => src.is_broadcast(),
            IpAddr::V6(_) => false,
        };
        let special =
            self.src.is_unspecified() || self.src.is_multicast() || self.src.is_loopback();
        self.layer.has_ethernet() && !group_mac && !special && !nobody
    }

    /// Whether it was sent to one host, on the link too.
    pub fn is_unicast(&self) -> bool {
        let link = usize::from(self.layer.eth);
        let group_mac = self.header.get(link).is_none_or(|first| first & 1 != 0);
        let broadcast = matches!(self.dst, IpAddr::V4(dst) if dst.is_broadcast());
        !group_mac && !broadcast && !self.dst.is_multicast()
    }

    /// Starts the answer: its link header turned round with the same tags, and an IP header from `src` to the sender.
    pub fn answer<'b>(&self, out: &'b mut [u8], src: IpAddr, tos: u8) -> FrameBuilder<'b> {
        let link = self
            .header
            .get(usize::from(self.layer.eth)..)
            .unwrap_or_default();
        let mac = |at: usize| {
            let bytes = link.get(at..).and_then(|b| b.first_chunk::<6>());
            bytes.copied().unwrap_or_default()
        };
        let word = |at: usize| {
            let bytes = link.get(at..).and_then(|b| b.first_chunk::<2>());
            bytes.map_or(0, |b| u16::from_be_bytes(*b))
        };
        let mut frame = FrameBuilder::new(out).ethernet(mac(6), mac(0));
        for tag in 0..usize::from(self.layer.vlan_tags.min(2)) {
            frame = frame.tag(word(12 + 4 * tag), word(14 + 4 * tag));
        }
        match (src, self.src) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => frame.ipv4_header(Ipv4 {
                version_ihl: 0x45,
                tos,
                total_len: U16::new(0),
                id: U16::new(0),
                fragment: U16::new(Ipv4::DONT_FRAGMENT),
                ttl: 64,
                proto: 0,
                checksum: U16::new(0),
                src: U32::new(src.to_bits()),
                dst: U32::new(dst.to_bits()),
            }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => frame.ipv6_header(Ipv6 {
                version_class_flow: U32::new(6 << 28 | u32::from(tos) << 20),
                payload_len: U16::new(0),
                next: 0,
                hop_limit: 64,
                src: src.octets(),
                dst: dst.octets(),
            }),
            // The families differ: what follows fails for want of an IP header.
            _ => frame,
        }
    }
}
