//! Connections that were opened with a SYN cookie, in the zones of protected ports: two that are joined into one.
//!
//! The opener's ACK proves the cookie; the caller commits a SYN with the opener's number, marks it with [`Conntrack::begin_splice`] and sends it on. At the
//! SYN-ACK of the server it keeps the difference of the two sides' numbers with [`Conntrack::set_splice`]. The tracker always sees the numbers that the
//! opener knows: answers after, the opener's packets before they are moved.

use sumeru_packet::tcp::Shift;

use super::store::{ConnRef, flag};
use super::table::Conntrack;

/// What the opener of a connection was told that the server knows nothing of yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The cookie: the initial sequence number that it was answered with.
    pub cookie: u32,
    /// The timestamp value, if it was given one.
    pub stamp: Option<u32>,
    /// The window scale, if it was given one; at most 14.
    pub scale: Option<u8>,
}

/// What the two sides of a spliced connection are off by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Sequence numbers of the server are so much above those that the opener knows; wraps.
    pub seq: u32,
    /// Its timestamps, likewise.
    pub stamp: u32,
    /// The server scales its windows by so many bits more than the opener was told; -14..=14.
    pub window: i8,
}

const NOT_GIVEN: u64 = 1 << 40;
const MOST: i8 = 14;

impl Opening {
    /// Joins it to what the server chose: its initial number, timestamp and window scale.
    pub fn join(&self, seq: u32, stamp: Option<u32>, scale: Option<u8>) -> Splice {
        let stamps = stamp.zip(self.stamp).unwrap_or_default();
        Splice {
            seq: seq.wrapping_sub(self.cookie),
            stamp: stamps.0.wrapping_sub(stamps.1),
            window: self.scale.map_or(0, |told| {
                scale.unwrap_or(0).min(14) as i8 - told.min(14) as i8
            }),
        }
    }
}

impl Splice {
    /// For segments of the server.
    pub fn to_opener(&self) -> Shift {
        Shift {
            seq: self.seq.wrapping_neg(),
            value: self.stamp.wrapping_neg(),
            window: self.window,
            ..Shift::default()
        }
    }

    /// For segments of the opener.
    pub fn to_server(&self) -> Shift {
        Shift {
            ack: self.seq,
            echo: self.stamp,
            ..Shift::default()
        }
    }

    /// Whether the part of it that is kept in a label can be.
    pub(super) fn label_is_good(label: [u64; 2]) -> bool {
        let window = (label[1] >> 32) as u8 as i8;
        label[0] == 0 && label[1] >> 40 == 0 && (-MOST..=MOST).contains(&window)
    }
}

impl Conntrack {
    /// Marks a connection as one whose opener was answered with a cookie. `false`: it is gone.
    pub fn begin_splice(&mut self, conn: ConnRef, opening: Opening) -> bool {
        let Some(index) = self.live(conn) else {
            return false;
        };
        let part = |given: Option<u64>, at: u32| given.map_or(NOT_GIVEN << (at / 32), |v| v << at);
        let cold = &mut self.cold[index];
        cold.splice = opening.cookie;
        let (stamp, scale) = (opening.stamp.map(u64::from), opening.scale.map(u64::from));
        cold.label = [0, part(stamp, 0) | part(scale, 32)];
        self.hot[index].flags |= flag::OPENING;
        self.advance(conn.index);
        true
    }

    /// What the opener of a connection was told whose server has not answered.
    pub fn opening_of(&self, conn: ConnRef) -> Option<Opening> {
        let index = self.live(conn)?;
        let (flags, cold) = (self.hot[index].flags, &self.cold[index]);
        let kept = cold.label[1];
        let given = |bit: u64, value: u64| (kept & bit == 0).then_some(value);
        (flags & flag::OPENING != 0).then(|| Opening {
            cookie: cold.splice,
            stamp: given(NOT_GIVEN, kept).map(|stamp| stamp as u32),
            scale: given(NOT_GIVEN << 1, kept >> 32).map(|scale| scale as u8),
        })
    }

    /// Whether an acknowledgement number is that of the SYN of a connection that opens.
    pub fn acknowledges_opening(&self, conn: ConnRef, ack: u32) -> bool {
        let hot = self.live(conn).map(|index| &self.hot[index]);
        hot.is_some_and(|hot| hot.flags & flag::OPENING != 0 && hot.peers[0].end == ack)
    }

    /// Keeps what the two sides of a connection are off by. `false`: it is gone.
    pub fn set_splice(&mut self, conn: ConnRef, splice: Splice) -> bool {
        let Some(index) = self.live(conn) else {
            return false;
        };
        let window = u64::from(splice.window.clamp(-MOST, MOST) as u8);
        let cold = &mut self.cold[index];
        cold.splice = splice.seq;
        cold.label = [0, u64::from(splice.stamp) | window << 32];
        let flags = &mut self.hot[index].flags;
        *flags = *flags & !flag::OPENING | flag::SPLICED;
        self.advance(conn.index);
        true
    }

    /// What the two sides of a connection are off by, if it was opened with a cookie.
    pub fn splice(&self, conn: ConnRef) -> Option<Splice> {
        let index = self.live(conn)?;
        let cold = &self.cold[index];
        (self.hot[index].flags & flag::SPLICED != 0).then(|| Splice {
            seq: cold.splice,
            stamp: cold.label[1] as u32,
            window: (cold.label[1] >> 32) as u8 as i8,
        })
    }
}
