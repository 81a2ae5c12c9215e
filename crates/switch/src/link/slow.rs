//! Slow protocols as bytes: LACPDUs (IEEE 802.1AX-2014, 6.4.2.3) and Marker PDUs (6.5.3.3).
//!
//! Frames are taken apart strictly: fixed places, fixed lengths. As the standard asks, the version number and reserved bytes are not
//! looked at, so that PDUs of later versions, which only append, are understood.

use thiserror::Error;

use super::Mac;

/// The destination of slow protocols (802.3, 57A.3).
pub const SLOW_MAC: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x02];
/// Their EtherType.
pub const SLOW_ETHERTYPE: u16 = 0x8809;
/// Length of an LACPDU or Marker PDU in a frame, without check sequence.
pub const SLOW_FRAME_LEN: usize = 124;

const LACP_SUBTYPE: u8 = 1;
const MARKER_SUBTYPE: u8 = 2;
const VERSION: u8 = 1;
const HEADER: usize = 14;

/// A slow protocol frame that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SlowError {
    /// Not a frame of slow protocols.
    #[error("no slow protocol frame")]
    NotSlow,
    /// Cut off.
    #[error("a slow protocol frame of {0} bytes; expected {SLOW_FRAME_LEN}")]
    Short(usize),
    /// Neither LACP nor Marker.
    #[error("slow protocol subtype {0}; expected 1 (LACP) or 2 (Marker)")]
    Subtype(u8),
    /// A TLV that is not the one that belongs there.
    #[error("TLV {kind} of {len} bytes where {expected} of {expected_len} belongs")]
    Tlv {
        /// Type found.
        kind: u8,
        /// Length found.
        len: u8,
        /// Type that belongs there.
        expected: u8,
        /// Its length.
        expected_len: u8,
    },
}

/// Bits of a port's state (802.1AX-2014, figure 6-10).
pub mod state {
    /// Sends unasked; otherwise only to those who do.
    pub const ACTIVITY: u8 = 0x01;
    /// Wants a PDU every second; otherwise every 30.
    pub const SHORT_TIMEOUT: u8 = 0x02;
    /// Can be aggregated; otherwise an individual link.
    pub const AGGREGATION: u8 = 0x04;
    /// Is with the right aggregator.
    pub const SYNCHRONIZATION: u8 = 0x08;
    /// Takes frames.
    pub const COLLECTING: u8 = 0x10;
    /// Sends frames.
    pub const DISTRIBUTING: u8 = 0x20;
    /// Knows its partner by configuration only.
    pub const DEFAULTED: u8 = 0x40;
    /// Has not heard of its partner for too long.
    pub const EXPIRED: u8 = 0x80;
}

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Peer {
    /// Priority of the system; the lower the more important.
    pub system_priority: u16,
    /// The system.
    pub system: Mac,
    /// Which of its ports may be aggregated.
    pub key: u16,
    /// Priority of the port.
    pub port_priority: u16,
    /// The port.
    pub port: u16,
    /// Bits of [`state`].
    pub state: u8,
}

impl Peer {
    /// All of `bits` are set.
    pub fn has(&self, bits: u8) -> bool {
        self.state & bits == bits
    }

    /// The same but for the state bits outside `mask`.
    pub fn same(&self, other: &Peer, mask: u8) -> bool {
        let masked = |peer: &Peer| Peer {
            state: peer.state & mask,
            ..*peer
        };
        masked(self) == masked(other)
    }
}

/// A LACPDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacpdu {
    /// Who sends it.
    pub actor: Peer,
    /// What the sender knows of the receiver.
    pub partner: Peer,
    /// Longest time that the sender holds received frames back, in tens of microseconds.
    pub collector_max_delay: u16,
}

/// A Marker PDU: a question or the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// It is the answer.
    pub response: bool,
    /// Port of the one who asked.
    pub port: u16,
    /// System of the one who asked.
    pub system: Mac,
    /// The question's number.
    pub transaction: u32,
}

/// What a slow protocol frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPdu {
    /// LACP.
    Lacp(Lacpdu),
    /// The marker protocol.
    Marker(Marker),
}

/// Reads big-endian numbers off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SlowError> {
        let (first, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(SlowError::Short(self.0.len()))?;
        self.0 = rest;
        Ok(*first)
    }

    fn word(&mut self) -> Result<u16, SlowError> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn tlv(&mut self, expected: u8, expected_len: u8) -> Result<(), SlowError> {
        let [kind, len] = self.take()?;
        if (kind, len) == (expected, expected_len) {
            Ok(())
        } else {
            Err(SlowError::Tlv {
                kind,
                len,
                expected,
                expected_len,
            })
        }
    }

    fn peer(&mut self, tlv: u8) -> Result<Peer, SlowError> {
        self.tlv(tlv, 20)?;
        let peer = Peer {
            system_priority: self.word()?,
            system: self.take()?,
            key: self.word()?,
            port_priority: self.word()?,
            port: self.word()?,
            state: self.take::<1>()?[0],
        };
        self.take::<3>()?;
        Ok(peer)
    }
}

impl SlowPdu {
    /// Takes a whole Ethernet frame (untagged, without check sequence) apart.
    ///
    /// # Errors
    /// [`SlowError`]; the frame is to be dropped and counted.
    pub fn parse(frame: &[u8]) -> Result<SlowPdu, SlowError> {
        let ethertype = SLOW_ETHERTYPE.to_be_bytes();
        if frame.get(..6) != Some(&SLOW_MAC) || frame.get(12..HEADER) != Some(&ethertype) {
            return Err(SlowError::NotSlow);
        }
        if frame.len() < SLOW_FRAME_LEN {
            return Err(SlowError::Short(frame.len()));
        }
        let mut reader = Reader(frame.get(HEADER..).unwrap_or_default());
        let [subtype, _version] = reader.take()?;
        match subtype {
            LACP_SUBTYPE => {
                let (actor, partner) = (reader.peer(1)?, reader.peer(2)?);
                reader.tlv(3, 16)?;
                Ok(SlowPdu::Lacp(Lacpdu {
                    actor,
                    partner,
                    collector_max_delay: reader.word()?,
                }))
            }
            MARKER_SUBTYPE => {
                let response = reader.0.first() == Some(&2);
                reader.tlv(1 + u8::from(response), 16)?;
                Ok(SlowPdu::Marker(Marker {
                    response,
                    port: reader.word()?,
                    system: reader.take()?,
                    transaction: u32::from_be_bytes(reader.take()?),
                }))
            }
            other => Err(SlowError::Subtype(other)),
        }
    }

    /// The frame that carries it, from `source`.
    pub fn frame(&self, source: Mac) -> [u8; SLOW_FRAME_LEN] {
        let mut frame = [0; SLOW_FRAME_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(room) = frame.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&SLOW_MAC);
        put(&source);
        put(&SLOW_ETHERTYPE.to_be_bytes());
        match self {
            SlowPdu::Lacp(pdu) => {
                put(&[LACP_SUBTYPE, VERSION]);
                for (tlv, peer) in [(1, &pdu.actor), (2, &pdu.partner)] {
                    put(&[tlv, 20]);
                    put(&peer.system_priority.to_be_bytes());
                    put(&peer.system);
                    put(&peer.key.to_be_bytes());
                    put(&peer.port_priority.to_be_bytes());
                    put(&peer.port.to_be_bytes());
                    put(&[peer.state, 0, 0, 0]);
                }
                put(&[3, 16]);
                put(&pdu.collector_max_delay.to_be_bytes());
            }
            SlowPdu::Marker(marker) => {
                put(&[MARKER_SUBTYPE, VERSION]);
                put(&[1 + u8::from(marker.response), 16]);
                put(&marker.port.to_be_bytes());
                put(&marker.system);
                put(&marker.transaction.to_be_bytes());
            }
        }
        frame
    }
}

#[cfg(test)]
#[path = "slow_tests.rs"]
mod tests;
