//! States of connections, what is said about a packet, and how long each state lasts.
//!
//! State bits have the values of Open vSwitch's `ct_state` (ovs-fields(7)), packet bits those of DPDK's `rte_flow_item_conntrack`. Default timeouts are those
//! of Linux's nf_conntrack (Documentation/networking/nf_conntrack-sysctl.rst).

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// No connection.
    Free = 0,
    /// TCP: the opener's SYN was seen.
    SynSent,
    /// TCP: a SYN from both sides, none acknowledged.
    SynSent2,
    /// TCP: one of two SYNs is acknowledged.
    SynRecv,
    /// TCP: open.
    Established,
    /// TCP: a FIN that is not acknowledged.
    FinWait,
    /// TCP: one side's FIN is acknowledged.
    CloseWait,
    /// TCP: FINs of both sides, not both acknowledged.
    LastAck,
    /// TCP: closed in order.
    TimeWait,
    /// TCP: closed by a reset.
    Close,
    /// TCP: met in its middle and only one side seen so far.
    Pickup,
    /// UDP without an answer.
    UdpUnreplied,
    /// UDP with an answer.
    UdpReplied,
    /// UDP that went on after the answer.
    UdpStream,
    /// ICMP query.
    Icmp,
    /// ICMPv6 query.
    Icmpv6,
    /// Any other protocol without an answer.
    GenericUnreplied,
    /// Any other protocol.
    Generic,
    /// SCTP: INIT, and perhaps its acknowledgement.
    SctpCookieWait,
    /// SCTP: COOKIE ECHO.
    SctpCookieEchoed,
    /// SCTP: open.
    SctpEstablished,
    /// SCTP: SHUTDOWN.
    SctpShutdown,
    /// SCTP: closed or aborted.
    SctpClosed,
}

impl State {
    /// Every state that a connection can be in, by number.
    pub const ALL: [Self; 22] = STATES;

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            State::Free => "free",
            State::SynSent => "syn-sent",
            State::SynSent2 => "syn-sent2",
            State::SynRecv => "syn-recv",
            State::Established => "established",
            State::FinWait => "fin-wait",
            State::CloseWait => "close-wait",
            State::LastAck => "last-ack",
            State::TimeWait => "time-wait",
            State::Close => "close",
            State::Pickup => "pickup",
            State::UdpUnreplied => "udp-unreplied",
            State::UdpReplied => "udp-replied",
            State::UdpStream => "udp-stream",
            State::Icmp => "icmp",
            State::Icmpv6 => "icmpv6",
            State::GenericUnreplied => "generic-unreplied",
            State::Generic => "generic",
            State::SctpCookieWait => "sctp-cookie-wait",
            State::SctpCookieEchoed => "sctp-cookie-echoed",
            State::SctpEstablished => "sctp-established",
            State::SctpShutdown => "sctp-shutdown",
            State::SctpClosed => "sctp-closed",
        }
    }

    /// The state of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        STATES.into_iter().find(|state| state.word() == word)
    }
}

/// All states but `Free`, by number.
pub(super) const STATES: [State; 22] = [
    State::SynSent,
    State::SynSent2,
    State::SynRecv,
    State::Established,
    State::FinWait,
    State::CloseWait,
    State::LastAck,
    State::TimeWait,
    State::Close,
    State::Pickup,
    State::UdpUnreplied,
    State::UdpReplied,
    State::UdpStream,
    State::Icmp,
    State::Icmpv6,
    State::GenericUnreplied,
    State::Generic,
    State::SctpCookieWait,
    State::SctpCookieEchoed,
    State::SctpEstablished,
    State::SctpShutdown,
    State::SctpClosed,
];

impl State {
    const fn bit(self) -> u32 {
        1 << self as u32
    }

    const fn is_any(self, states: &[State]) -> bool {
        let (mut bits, mut index) = (0, 0);
        while index < states.len() {
            bits |= states[index].bit();
            index += 1;
        }
        bits & self.bit() != 0
    }

    pub(super) const fn half_open(self) -> bool {
        self.is_any(&[State::SynSent, State::SynSent2, State::SynRecv])
    }

    /// Whether a full table may give this connection up for a new one, if so configured.
    pub(super) const fn may_drop(self) -> bool {
        const GIVEN_UP: [State; 4] = [
            State::Pickup,
            State::UdpUnreplied,
            State::GenericUnreplied,
            State::SctpCookieWait,
        ];
        self.half_open()
            || self.is_any(&GIVEN_UP)
            || self.is_any(&[State::TimeWait, State::Close, State::SctpClosed])
    }

    /// Whether it outlives an orderly restart.
    pub(super) const fn is_kept(self) -> bool {
        const TCP: [State; 4] = [
            State::Established,
            State::FinWait,
            State::CloseWait,
            State::LastAck,
        ];
        self.is_any(&TCP)
            || self.is_any(&[
                State::UdpReplied,
                State::UdpStream,
                State::Generic,
                State::SctpEstablished,
            ])
    }

    pub(super) const fn is_tcp(self) -> bool {
        (self as u8) >= State::SynSent as u8 && (self as u8) <= State::Pickup as u8
    }

    /// 0: opening or open, 1: closing in order, 2: gone. A cached decision is looked at again when this changes.
    pub(super) const fn phase(self) -> u8 {
        if self.is_any(&[
            State::FinWait,
            State::CloseWait,
            State::LastAck,
            State::TimeWait,
            State::SctpShutdown,
        ]) {
            1
        } else if self.is_any(&[State::Close, State::SctpClosed, State::Free]) {
            2
        } else {
            0
        }
    }
}

/// States in which a packet of this direction changes nothing, by [`Direction`](super::Direction): a bit per state.
pub(super) const STEADY: [u32; 2] = {
    let both = State::UdpStream.bit() | State::Generic.bit();
    let original = State::UdpUnreplied.bit()
        | State::Icmp.bit()
        | State::Icmpv6.bit()
        | State::GenericUnreplied.bit();
    [both | original, both | State::UdpReplied.bit()]
};

/// `ct_state` bits.
pub mod ct_state {
    /// No answer was seen.
    pub const NEW: u8 = 0x01;
    /// Answered.
    pub const EST: u8 = 0x02;
    /// Related to a connection: an ICMP error about it.
    pub const REL: u8 = 0x04;
    /// From the side that answers.
    pub const RPL: u8 = 0x08;
    /// Not to be made out as part of a connection.
    pub const INV: u8 = 0x10;
    /// Tracked.
    pub const TRK: u8 = 0x20;
    /// Its source is translated.
    pub const SNAT: u8 = 0x40;
    /// Its destination is translated.
    pub const DNAT: u8 = 0x80;
}

/// DPDK's packet state bits (`RTE_FLOW_CONNTRACK_PKT_STATE_*`).
pub mod packet_state {
    /// Within the window.
    pub const VALID: u8 = 0x01;
    /// It changed the connection's state.
    pub const CHANGED: u8 = 0x02;
    /// Checked and refused.
    pub const INVALID: u8 = 0x04;
    /// Not checked: the connection is tracked liberally.
    pub const DISABLED: u8 = 0x08;
    /// A header that cannot be: flags that exclude each other.
    pub const BAD: u8 = 0x10;
}

/// What the tracker says about a packet: one integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Verdict(u32);

impl Verdict {
    /// The reference is stale: the connection is gone or expired. Look it up again.
    pub const STALE: Self = Self(0);
    /// The packet cannot be made out as part of any connection.
    pub const INVALID: Self =
        Self((ct_state::TRK | ct_state::INV) as u32 | (packet_state::INVALID as u32) << 8);

    #[inline(always)]
    pub(super) fn new(state: u8, packet: u8, epoch: u16) -> Self {
        Self(u32::from(state) | u32::from(packet) << 8 | u32::from(epoch) << 16)
    }

    /// [`ct_state`] bits; zero when stale.
    #[inline(always)]
    pub fn state(self) -> u8 {
        self.0 as u8
    }

    /// [`packet_state`] bits.
    #[inline(always)]
    pub fn packet(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The connection's epoch after this packet.
    #[inline(always)]
    pub fn epoch(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// What a cached decision was made for: state bits and epoch. A cached decision holds as long as this is equal; a stale reference never is.
    #[inline(always)]
    pub fn decision(self) -> u32 {
        self.0 & 0xffff_00ff
    }
}

/// Most timeout policies.
pub const POLICIES: usize = 16;
/// Longest timeout in milliseconds: twelve days, half of what a wrapping clock of 32 bits can tell apart.
pub const LONGEST_TIMEOUT: u32 = 1 << 30;

/// How long a connection lives after its last packet, in milliseconds by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts([u32; 32]);

impl Default for Timeouts {
    fn default() -> Self {
        let mut all = Self([0; 32]);
        for state in STATES {
            let seconds = match state {
                State::Free => 0,
                State::SynSent
                | State::SynSent2
                | State::FinWait
                | State::TimeWait
                | State::UdpStream => 120,
                State::SynRecv | State::CloseWait => 60,
                State::Established => 432_000,
                State::LastAck
                | State::UdpUnreplied
                | State::UdpReplied
                | State::Icmp
                | State::Icmpv6 => 30,
                State::Close | State::SctpClosed => 10,
                State::Pickup => 300,
                State::GenericUnreplied | State::Generic => 600,
                State::SctpCookieWait | State::SctpCookieEchoed | State::SctpShutdown => 3,
                State::SctpEstablished => 210,
            };
            all.set(state, seconds * 1000);
        }
        all
    }
}

impl Timeouts {
    /// The timeout of a state.
    #[inline(always)]
    pub fn get(&self, state: State) -> u32 {
        self.0[state as usize & 31]
    }

    /// Changes the timeout of a state; at most [`LONGEST_TIMEOUT`] is taken.
    pub fn set(&mut self, state: State, milliseconds: u32) {
        self.0[state as usize & 31] = milliseconds.min(LONGEST_TIMEOUT);
    }
}
