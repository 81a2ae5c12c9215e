//! What is kept of a connection: one hot line for every packet, two cold lines for look-ups, names and sums.

use super::state::State;
use super::tuple::{Direction, Half};

/// A connection, by place and generation. A reference to a connection that is gone never meets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnRef {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl ConnRef {
    /// Its place in the table: where a list that begins with it starts.
    pub fn place(self) -> u32 {
        self.index
    }
}

/// `Hot::flags`. The NAT bits lie where `ct_state` has them.
pub(super) mod flag {
    pub const REPLIED: u8 = 0x01;
    /// Counted as half open by its destination.
    pub const HALF_OPEN: u8 = 0x02;
    /// Sequence numbers are translated.
    pub const SPLICED: u8 = 0x04;
    /// No window checks.
    pub const LIBERAL: u8 = 0x08;
    /// Opened for a client that proved its address; the server has not answered yet.
    pub const OPENING: u8 = 0x10;
    pub const NAT: u8 = 0xc0;
}

/// What one TCP side has shown. SCTP keeps its verification tag in `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Peer {
    /// Highest sequence number sent, plus one.
    pub end: u32,
    /// Highest sequence number that the other side's windows allow.
    pub max_end: u32,
    /// Largest window advertised, scaled.
    pub max_window: u32,
    /// Highest acknowledgement sent; before that the other side's initial sequence number.
    pub max_ack: u32,
}

/// Bits of `Hot::tcp`, shifted by direction.
pub(super) mod tcp_bit {
    pub const FIN: u8 = 0x01;
    /// Has acknowledged the other's SYN.
    pub const ACKED_SYN: u8 = 0x04;
    /// SCTP: the verification tag is known.
    pub const TAG: u8 = 0x10;
}

/// All that a packet of an established connection touches.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Hot {
    pub generation: u32,
    /// Milliseconds, wrapping; the wheel looks long before it wraps.
    pub last_seen: u32,
    pub epoch: u16,
    pub state: State,
    pub flags: u8,
    pub policy: u8,
    /// Window scales: low nibble original, high nibble reply; 15: not offered.
    pub scales: u8,
    pub tcp: u8,
    pub spare: u8,
    pub packets: [u32; 2],
    pub bytes: [u32; 2],
    pub peers: [Peer; 2],
}

const _: () = assert!(size_of::<Hot>() == 64);

impl Hot {
    pub const FREE: Self = Self {
        generation: 1,
        last_seen: 0,
        epoch: 0,
        state: State::Free,
        flags: 0,
        policy: 0,
        scales: 0,
        tcp: 0,
        spare: 0,
        packets: [0; 2],
        bytes: [0; 2],
        peers: [Peer {
            end: 0,
            max_end: 0,
            max_window: 0,
            max_ack: 0,
        }; 2],
    };

    pub fn scale(&self, direction: Direction) -> u32 {
        u32::from(self.scales >> (4 * direction as u8) & 15)
    }

    pub fn set_scale(&mut self, direction: Direction, scale: u8) {
        let shift = 4 * direction as u8;
        self.scales = self.scales & !(15 << shift) | scale << shift;
    }

    pub fn has(&self, bit: u8, direction: Direction) -> bool {
        self.tcp & bit << direction as u8 != 0
    }

    pub fn set(&mut self, bit: u8, direction: Direction) {
        self.tcp |= bit << direction as u8;
    }

    /// Milliseconds that the connection has been silent; negative when `now` lies before its last packet.
    #[inline(always)]
    pub fn silence(&self, now: u64) -> i32 {
        (now as u32).wrapping_sub(self.last_seen) as i32
    }
}

/// The rest, one line per half.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Cold {
    pub original: Half,
    pub created: u64,
    /// Upper halves of the byte counts.
    pub byte_carries: [u32; 2],
    pub mark: u32,
    /// What sequence numbers are off by; while it opens, the cookie.
    pub splice: u32,
    pub reply: Half,
    /// The rest of a splice in the zones of protected ports, in which rules give no labels.
    pub label: [u64; 2],
    /// Upper halves of the packet counts.
    pub packet_carries: [u16; 2],
    pub owner: u16,
    /// The member of a load balancer that it was given to; 0 for none.
    pub member: u16,
}

const _: () = assert!(size_of::<Cold>() == 128);

impl Cold {
    pub const FREE: Self = Self {
        original: Half::ZERO,
        created: 0,
        byte_carries: [0; 2],
        mark: 0,
        splice: 0,
        reply: Half::ZERO,
        label: [0; 2],
        packet_carries: [0; 2],
        owner: 0,
        member: 0,
    };

    #[inline(always)]
    pub fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }
}

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes as given with each packet.
    pub bytes: u64,
}

pub(super) fn traffic(hot: &Hot, cold: &Cold, direction: Direction) -> Traffic {
    let d = direction as usize;
    Traffic {
        packets: u64::from(cold.packet_carries[d]) << 32 | u64::from(hot.packets[d]),
        bytes: u64::from(cold.byte_carries[d]) << 32 | u64::from(hot.bytes[d]),
    }
}
