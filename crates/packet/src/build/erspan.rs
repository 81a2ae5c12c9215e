//! Mirrored frames for a collector: ERSPAN types II and III in GRE (draft-foschiano-erspan-03 sections 4.2 and 4.3) over IPv4 and IPv6.

use zerocopy::IntoBytes;
use zerocopy::big_endian::U32;

use super::BuildError;
use super::encapsulate::{Outer, Stack, put_network};
use crate::edit::change_ipv4_word;
use crate::headroom::ROOM;
use crate::layout::L3Kind;
use crate::parse::PROTO_GRE;

/// GRE with a sequence number (RFC 2890).
const GRE_SEQUENCE: u16 = 0x1000;
const TYPE_II: u16 = 0x88be;
const TYPE_III: u16 = 0x22eb;
/// Of the En field: a tag that the frame had is in the copy.
const TAG_PRESERVED: u32 = 3;
/// The frame begins with Ethernet (P), whose timestamps are in steps of 100 microseconds (Gra 0).
const ETHERNET: u32 = 1 << 15;
/// Bytes of GRE with its sequence number.
const GRE_LEN: usize = 8;

/// What an ERSPAN header says of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erspan {
    /// Number of the mirror at the collector, 0..=1023; higher bits dropped.
    pub session: u16,
    /// What the type has of its own.
    pub kind: ErspanKind,
}

/// The types of ERSPAN header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErspanKind {
    /// Type II.
    Two {
        /// Where in the source the frames are from, 20 bits, as agreed with the collector.
        index: u32,
    },
    /// Type III, with a timestamp.
    Three {
        /// Which engine mirrors, 0..=63; higher bits dropped.
        hardware: u8,
    },
}

/// What an ERSPAN header says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// Bytes of the frame that follow.
    pub len: usize,
    /// There were more.
    pub truncated: bool,
    /// It went out rather than came in.
    pub sent: bool,
    /// Its outermost tag, if it has one.
    pub vlan_tci: Option<u16>,
    /// Counts the frames of the session.
    pub sequence: u32,
    /// In steps of 100 microseconds, for type III.
    pub timestamp: u32,
}

impl Erspan {
    /// Bytes behind the IP header and in front of a frame.
    pub const fn len(&self) -> usize {
        match self.kind {
            ErspanKind::Two { .. } => GRE_LEN + 8,
            ErspanKind::Three { .. } => GRE_LEN + 12,
        }
    }

    /// Never: there is always a header.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Writes link, IP, GRE and ERSPAN headers of a frame to the front of `out`; their length. The outer IPv4 packet has DF set.
    ///
    /// # Errors
    /// [`BuildError::NoSpace`], [`BuildError::TooLong`].
    pub fn write(
        &self,
        out: &mut [u8],
        outer: &Outer,
        frame: &Mirrored,
    ) -> Result<usize, BuildError> {
        let mut stack = Stack {
            bytes: [0; ROOM],
            len: 0,
        };
        let layer = put_network(&mut stack, outer, PROTO_GRE)?;
        let (proto, version) = match self.kind {
            ErspanKind::Two { .. } => (TYPE_II, 1),
            ErspanKind::Three { .. } => (TYPE_III, 2),
        };
        let tci = u32::from(frame.vlan_tci.unwrap_or(0));
        // Version, VLAN, class of service, (En or BSO,) T, session.
        let first = version << 28
            | (tci & 0xfff) << 16
            | (tci >> 13) << 13
            | u32::from(frame.truncated) << 10
            | u32::from(self.session & 0x3ff);
        let words: &[u32] = match self.kind {
            ErspanKind::Two { index } => {
                let tag = frame.vlan_tci.map_or(0, |_| TAG_PRESERVED);
                &[first | tag << 11, index & 0xf_ffff]
            }
            ErspanKind::Three { hardware } => {
                let last = ETHERNET | u32::from(hardware & 0x3f) << 4 | u32::from(frame.sent) << 3;
                &[first, frame.timestamp, last]
            }
        };
        let gre = u32::from(GRE_SEQUENCE) << 16 | u32::from(proto);
        for word in [gre, frame.sequence].iter().chain(words) {
            stack.put(U32::new(*word).as_bytes())?;
        }
        let total = stack.len + frame.len;
        let l3 = usize::from(layer.l3);
        let length = |from: usize| {
            u16::try_from(total - from)
                .map(u16::to_be_bytes)
                .map_err(|_| BuildError::TooLong)
        };
        if layer.l3_kind == L3Kind::Ipv4 {
            let ip = stack.bytes.get_mut(l3..).and_then(|b| b.first_chunk_mut());
            change_ipv4_word(ip.ok_or(BuildError::NoSpace)?, 2, length(l3)?);
        } else {
            let field = stack.bytes.get_mut(l3 + 4..l3 + 6);
            field
                .ok_or(BuildError::NoSpace)?
                .copy_from_slice(&length(l3 + 40)?);
        }
        let header = stack.bytes.get(..stack.len).ok_or(BuildError::NoSpace)?;
        let room = out.get_mut(..stack.len).ok_or(BuildError::NoSpace)?;
        room.copy_from_slice(header);
        Ok(stack.len)
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::build::{Carried, Policy, Underlay};
    use crate::checksum::checksum;

    fn outer(underlay: Underlay) -> Outer {
        Outer {
            eth_dst: [2; 6],
            eth_src: [4; 6],
            vlan_tci: None,
            underlay,
            ttl: Policy::Fixed(64),
            dscp: Policy::Fixed(0),
            ecn: false,
            port: 0,
            source_port: None,
            udp_checksum: false,
            carried: Carried::Ethernet,
        }
    }

    const FRAME: Mirrored = Mirrored {
        len: 100,
        truncated: true,
        sent: true,
        vlan_tci: Some(0xa064),
        sequence: 7,
        timestamp: 0x01020304,
    };

    /// Field by field from the figures of the draft.
    #[test]
    fn headers_are_those_of_the_draft() {
        let v4 = outer(Underlay::Ipv4(
            Ipv4Addr::new(192, 0, 2, 1),
            Ipv4Addr::new(192, 0, 2, 2),
        ));
        let mut out = [0; 128];
        let two = Erspan {
            session: 1023,
            kind: ErspanKind::Two { index: 0x12345 },
        };
        let len = two.write(&mut out, &v4, &FRAME).unwrap();
        assert_eq!((len, two.len()), (14 + 20 + 16, 16));
        assert_eq!(out[16..18], 136_u16.to_be_bytes());
        assert_eq!(checksum(&out[14..34]), 0);
        assert_eq!(out[23], 47);
        assert_eq!(out[34..42], [0x10, 0, 0x88, 0xbe, 0, 0, 0, 7]);
        // Version 1, VLAN 100; COS 5, En 3, T, session 1023; index.
        assert_eq!(out[42..50], [0x10, 0x64, 0xbf, 0xff, 0, 1, 0x23, 0x45]);

        let v6 = outer(Underlay::Ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST));
        let three = Erspan {
            session: 1,
            kind: ErspanKind::Three { hardware: 5 },
        };
        let frame = Mirrored {
            truncated: false,
            vlan_tci: None,
            ..FRAME
        };
        let len = three.write(&mut out, &v6, &frame).unwrap();
        assert_eq!(len, 14 + 40 + 20);
        assert_eq!(out[18..21], [0, 120, 47]);
        assert_eq!(out[54..62], [0x10, 0, 0x22, 0xeb, 0, 0, 0, 7]);
        // Version 2, session 1; timestamp; no SGT, P, hardware 5, D.
        assert_eq!(out[62..74], [0x20, 0, 0, 1, 1, 2, 3, 4, 0, 0, 0x80, 0x58]);
        let long = Mirrored {
            len: 65_500,
            ..FRAME
        };
        assert_eq!(two.write(&mut out, &v4, &long), Err(BuildError::TooLong));
        assert_eq!(
            two.write(&mut out[..40], &v4, &FRAME),
            Err(BuildError::NoSpace)
        );
    }
}
